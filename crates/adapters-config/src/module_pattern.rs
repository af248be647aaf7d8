//! Modules by their paths, as configurations of peft name them.

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

/// A pattern is not a regular expression.
#[derive(Debug, thiserror::Error)]
#[error("target pattern `{pattern}` is not a regular expression")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// Why not.
    #[source]
    pub source: Box<fancy_regex::Error>,
}

/// A pattern over module paths.
///
/// On the wire: a list is names, a string is a regular expression, the string `all-linear` is itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WirePattern", into = "WirePattern")]
pub enum ModulePattern {
    /// Whole path or last components: `query` matches `encoder.layer.0.attention.self.query`.
    Names(Vec<String>),
    /// A regular expression that must match the whole path.
    Regex(String),
    /// Every linear layer but the language-model head.
    AllLinear,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of names, or a pattern")]
enum WirePattern {
    Names(Vec<String>),
    Text(String),
}

impl From<WirePattern> for ModulePattern {
    fn from(wire: WirePattern) -> Self {
        match wire {
            WirePattern::Names(names) => Self::Names(names),
            WirePattern::Text(text) if text == "all-linear" => Self::AllLinear,
            WirePattern::Text(text) => Self::Regex(text),
        }
    }
}

impl From<ModulePattern> for WirePattern {
    fn from(pattern: ModulePattern) -> Self {
        match pattern {
            ModulePattern::Names(names) => Self::Names(names),
            ModulePattern::Regex(text) => Self::Text(text),
            ModulePattern::AllLinear => Self::Text("all-linear".to_owned()),
        }
    }
}

impl ModulePattern {
    /// Whether it matches a module's path.
    ///
    /// # Errors
    ///
    /// [`PatternError`] for an invalid regular expression.
    pub fn matches(&self, path: &str) -> Result<bool, PatternError> {
        Ok(match self {
            Self::Names(names) => names.iter().any(|name| name_matches(name, path)),
            Self::Regex(text) => is_match(&format!("^(?:{text})$"), text, path)?,
            Self::AllLinear => true,
        })
    }
}

/// One name or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a name, or a list of names")]
pub enum ModuleNames {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl ModuleNames {
    /// The number after the first of these components in a path.
    pub fn index(&self, path: &str) -> Option<usize> {
        let names = match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        };
        let parts: Vec<&str> = path.split('.').collect();
        names.iter().find_map(|name| {
            let mut pairs = parts.windows(2);
            pairs.find_map(|pair| (pair[0] == name).then(|| pair[1].parse().ok()).flatten())
        })
    }
}

/// Whether `name` is the path or its last components.
pub fn name_matches(name: &str, path: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|head| head.ends_with('.'))
}

/// A value looked up by module path, as peft's `rank_pattern` and `alpha_pattern`: the first key that, as a regular
/// expression, matches the last components of the path.
///
/// # Errors
///
/// [`PatternError`] for an invalid regular expression.
pub fn pattern_value<'a, T>(
    patterns: impl IntoIterator<Item = (&'a str, T)>,
    path: &str,
) -> Result<Option<T>, PatternError> {
    for (pattern, value) in patterns {
        let found = match plain_match(pattern, path) {
            Some(found) => found,
            None => is_match(&format!(r"^(.*\.)?({pattern})$"), pattern, path)?,
        };
        if found {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// What the expression says of a path where the pattern is a name or a path, whose dots stand for any character; `None` for others. A file
/// may have as many patterns as a model has modules, and an expression takes long to compile.
fn plain_match(pattern: &str, path: &str) -> Option<bool> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"_.".contains(&c);
    if pattern.is_empty() || !path.is_ascii() || !pattern.bytes().all(plain) {
        return None;
    }
    let start = path.len().checked_sub(pattern.len());
    let Some((front, end)) = start.map(|start| path.as_bytes().split_at(start)) else {
        return Some(false);
    };
    let mut pairs = pattern.bytes().zip(end);
    Some(front.last().is_none_or(|c| *c == b'.') && pairs.all(|(wanted, c)| wanted == b'.' || wanted == *c))
}

/// Whether the whole expression, of a pattern as it is written, matches. Look-around and references back are Python's.
fn is_match(full: &str, pattern: &str, path: &str) -> Result<bool, PatternError> {
    let found = Regex::new(full).and_then(|full| full.is_match(path));
    found.map_err(|source| PatternError {
        pattern: pattern.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (pattern, path) in [
            ("query", "query"),
            ("query", "a.query"),
            ("query", "a.my_query"),
            ("f.query", "self.query"),
            ("self.query", "a.self_query"),
            ("a.b", "b"),
            (".query", "a.query"),
            (".query", "a..query"),
        ] {
            let full = is_match(&format!(r"^(.*\.)?({pattern})$"), pattern, path).unwrap();
            assert_eq!(plain_match(pattern, path), Some(full), "{pattern} {path}");
        }
        assert_eq!(plain_match("a|b", "b"), None);
        assert!(pattern_value([("(", 1)], "x").is_err());
    }

    #[test]
    fn the_wire_form_tells_the_three_patterns_apart() {
        for (json, pattern) in [
            (r#"["query"]"#, ModulePattern::Names(vec!["query".to_owned()])),
            (r#""all-linear""#, ModulePattern::AllLinear),
            (r#"".*\\.query""#, ModulePattern::Regex(r".*\.query".to_owned())),
        ] {
            assert_eq!(serde_json::from_str::<ModulePattern>(json).unwrap(), pattern);
            assert_eq!(serde_json::to_string(&pattern).unwrap(), json);
        }
    }
}
