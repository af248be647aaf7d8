//! Names from a closed list, and the error for a name that is not in it.

/// A name that is not in its list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{found}`{}; known: {known}", did_you_mean(.nearest))]
pub struct UnknownName {
    /// What was named, e.g. `"activation"`.
    pub what: &'static str,
    /// The name.
    pub found: String,
    /// The known name that is spelled most alike.
    pub nearest: Option<String>,
    /// All known names, joined by commas.
    pub known: String,
}

impl UnknownName {
    /// The error for `found`, which is none of `known`.
    pub fn new<'a>(what: &'static str, found: impl Into<String>, known: impl IntoIterator<Item = &'a str>) -> Self {
        let (found, known) = (found.into(), known.into_iter().collect::<Vec<_>>());
        Self {
            what,
            nearest: nearest(&found, known.iter().copied()),
            known: known.join(", "),
            found,
        }
    }
}

/// The candidate nearest to `name` in spelling, if one is near enough to be a slip, or that is the initials of its words.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // No name is as long, and the comparison takes quadratic time.
    if name.len() > 256 {
        return None;
    }
    let name = name.to_lowercase();
    let words = name.split(['_', '-', ' ']);
    let initials: String = words.filter_map(|word| word.chars().next()).collect();
    let score = |candidate: String| match initials.len() > 1 && candidate == initials {
        true => 1.0,
        false => strsim::jaro_winkler(&name, &candidate),
    };
    candidates
        .into_iter()
        .map(|c| (score(c.to_lowercase()), c))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c.to_owned())
}

/// ``; did you mean `x`?`` or nothing.
pub fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_ignores_case_and_gives_up_on_other_words() {
        let blocks = [
            "Stack",
            "Fuse",
            "Split",
            "BatchSplit",
            "Parallel",
            "Average",
            "MultiTask",
        ];
        let near = |word: &str| nearest(word, blocks);
        assert_eq!(near("stack").as_deref(), Some("Stack"));
        assert_eq!(near("Paralel").as_deref(), Some("Parallel"));
        assert_eq!(near("batch_split").as_deref(), Some("BatchSplit"));
        assert_eq!(near("houlsby"), None);
        assert_eq!(near("multi_task").as_deref(), Some("MultiTask"));
        assert_eq!(
            nearest("warmup_stable_decay", ["linear", "wsd"]).as_deref(),
            Some("wsd")
        );
        assert_eq!(near(&"Stack".repeat(100)), None);
    }
}
