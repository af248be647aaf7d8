//! Values that differ from module to module.

use adapters_core::PatternError;
use adapters_core::target::pattern_value;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// Values by module path, as peft's `rank_pattern` and its like: a module takes that of the first key which, as a regular
/// expression, matches the last components of its path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Option<IndexMap<String, T>>")]
pub struct ByModule<T>(IndexMap<String, T>);

impl<T> From<Option<IndexMap<String, T>>> for ByModule<T> {
    fn from(values: Option<IndexMap<String, T>>) -> Self {
        Self(values.unwrap_or_default())
    }
}

impl<T: Copy> ByModule<T> {
    /// The value of a module, if it has one of its own.
    ///
    /// # Errors
    ///
    /// [`PatternError`] for a key that is not a regular expression.
    pub fn at(&self, path: &str) -> Result<Option<T>, PatternError> {
        pattern_value(self.0.iter().map(|(pattern, value)| (pattern.as_str(), *value)), path)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.0.values().copied()
    }

    /// The keys, each with the name of the field.
    pub fn patterns(&self, field: &'static str) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.keys().map(move |pattern| (field, pattern.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_that_matches_decides_and_null_is_none() {
        let ranks: ByModule<usize> = serde_json::from_str(r#"{"0.query": 4, "query": 2}"#).unwrap();
        assert_eq!(ranks.at("layer.0.query").unwrap(), Some(4));
        assert_eq!(ranks.at("layer.1.query").unwrap(), Some(2));
        assert_eq!(ranks.at("layer.1.key").unwrap(), None);
        assert_eq!(serde_json::to_string(&ranks).unwrap(), r#"{"0.query":4,"query":2}"#);
        assert_eq!(
            serde_json::from_str::<ByModule<usize>>("null").unwrap(),
            ByModule::default()
        );
        let broken: ByModule<usize> = serde_json::from_str(r#"{"(": 4}"#).unwrap();
        assert!(broken.at("x").is_err());
    }
}
