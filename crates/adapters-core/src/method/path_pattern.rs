//! Names and expressions that select modules by their paths.

use fancy_regex::Regex;

use crate::error::Error;

/// Whether `name` is the path or its last components.
pub fn name_matches(name: &str, path: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|head| head.ends_with('.'))
}

/// A value looked up by module path, as peft's `rank_pattern` and `alpha_pattern`: the first key that, as a regular
/// expression, matches the last components of the path.
///
/// # Errors
///
/// [`Error::TargetPattern`] for an invalid regular expression.
pub fn pattern_value<'a, T>(patterns: impl IntoIterator<Item = (&'a str, T)>, path: &str) -> Result<Option<T>, Error> {
    for (pattern, value) in patterns {
        if is_match(&format!(r"^(.*\.)?({pattern})$"), pattern, path)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Whether the whole expression, of a pattern as it is written, matches. Look-around and references back are Python's.
pub(super) fn is_match(full: &str, pattern: &str, path: &str) -> Result<bool, Error> {
    let found = Regex::new(full).and_then(|full| full.is_match(path));
    found.map_err(|source| Error::TargetPattern {
        pattern: pattern.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::target::ModulePattern;

    #[test]
    fn expressions_may_look_around() {
        let without_tower = ModulePattern::Regex(r"^(?!.*(?:visual|lm_head)).*(?:q_proj|v_proj).*$".to_owned());
        assert!(without_tower.matches("model.layers.0.self_attn.q_proj").unwrap());
        assert!(!without_tower.matches("model.visual.blocks.0.q_proj").unwrap());
        assert!(!without_tower.matches("model.layers.0.self_attn.o_proj").unwrap());
        let behind = ModulePattern::Regex(r".*(?<=self_attn\.)q_proj".to_owned());
        assert!(behind.matches("layers.0.self_attn.q_proj").unwrap());
        assert!(!behind.matches("layers.0.cross.q_proj").unwrap());
        assert!(ModulePattern::Regex("(?!".to_owned()).matches("x").is_err());
    }

    #[test]
    fn a_name_matches_whole_components_only() {
        assert!(name_matches("query", "encoder.layer.0.attention.self.query"));
        assert!(name_matches("self.query", "encoder.layer.0.attention.self.query"));
        assert!(!name_matches("uery", "encoder.layer.0.attention.self.query"));
    }

    #[test]
    fn pattern_values_take_the_first_match() {
        let patterns = [("0.attention.self.query", 4), ("query", 2)];
        let value = |path| pattern_value(patterns, path).unwrap();
        assert_eq!(value("encoder.layer.0.attention.self.query"), Some(4));
        assert_eq!(value("encoder.layer.1.attention.self.query"), Some(2));
        assert_eq!(value("encoder.layer.1.attention.self.key"), None);
        assert!(pattern_value([("(", 1)], "x").is_err());
    }
}
