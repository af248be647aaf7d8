//! Words that messages and documentation do not use, because the field has a term that every reader knows.
//!
//! Checked are text in quotes and documentation, up to a file's first `#[cfg(test)]`. The terms in use are in the
//! glossary of the README of `adapters-core`.

use super::Finding;

/// What to write for the many things that `place` was used for.
const PLACE: &str = "name the site, the module, the index, the position or the key";

/// Retired words, and what to write in their place.
const RETIRED: [(&str, &str); 19] = [
    ("a place", PLACE),
    ("aimed at", "write that a method targets a module"),
    ("anew", "write `again`"),
    ("asks of", "name what is computed or required"),
    ("beside", "write `next to`, `with` or `in addition to`"),
    ("each place", PLACE),
    ("go on", "write `continue` or `resume`"),
    ("goes on", "write `continues` or `is resumed`"),
    ("going on", "write `continuing` or `resuming`"),
    ("grammar", "write `format`"),
    ("letter for letter", "write `exactly` or `a substring`"),
    ("one place", PLACE),
    ("places", PLACE),
    ("share of", "write `fraction of`"),
    ("share out", "write `assign` or `split`"),
    ("says something", "name the value that is found"),
    ("shares of", "write `fractions of`"),
    ("shares out", "write `assigns` or `splits`"),
    ("the place", PLACE),
];

/// No documentation and no text in quotes has a retired word.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if path.ends_with("/tests.rs") || path.ends_with("/wording.rs") {
        return findings;
    }
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        for (word, remedy) in RETIRED {
            if readable(line).any(|text| has_phrase(text, word)) {
                findings.push(Finding {
                    path: path.into(),
                    line: index + 1,
                    problem: format!("expected a term of the field, found `{word}`"),
                    remedy,
                });
            }
        }
    }
    findings
}

/// What a reader of documentation or of messages sees of a line.
fn readable(line: &str) -> impl Iterator<Item = &str> {
    let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
    let code = (!line.starts_with("//")).then_some(line);
    doc.into_iter()
        .chain(code.into_iter().flat_map(|code| code.split('"').skip(1).step_by(2)))
}

/// Whether `text` has `phrase` as whole words.
fn has_phrase(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + phrase.len()..].chars().next();
        ![before, after].iter().flatten().any(|c| c.is_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of the findings.
    fn lines(text: &str) -> Vec<usize> {
        check("crates/adapters-core/src/site.rs", text)
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn documentation_and_messages_are_checked() {
        let text = "/// The run goes on.\n// goes on\nlet beside = 1;\nlet m = \"drawn anew\";\n//! Beside it, and beside that.\n";
        assert_eq!(lines(text), [1, 4, 5]);
    }

    #[test]
    fn whole_words_count_outside_tests() {
        assert_eq!(lines("/// besides, it is renewed\n"), [0; 0]);
        assert_eq!(lines("#[cfg(test)]\nlet m = \"anew\";\n"), [0; 0]);
    }
}
