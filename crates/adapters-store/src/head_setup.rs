//! Which heads belong to a saved setup.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::dict::CompositionDict;
use adapters_core::Composition;

/// `head_setup` of `adapter_setup.json`, in the forms the reference has for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HeadSetup {
    /// None: `null`.
    #[default]
    None,
    /// `true`: the head of a model class that has one of its own, in the setup's folder itself.
    Own,
    /// One, by its name.
    One(String),
    /// Several, by name.
    Several(Vec<String>),
    /// A composition whose leaves are heads.
    Composed(Composition),
}

impl HeadSetup {
    /// Names of the heads, each once.
    pub fn names(&self) -> Vec<&str> {
        let all: Vec<&str> = match self {
            Self::None | Self::Own => Vec::new(),
            Self::One(name) => vec![name],
            Self::Several(names) => names.iter().map(String::as_str).collect(),
            Self::Composed(composition) => composition.adapters().collect(),
        };
        let mut names = Vec::new();
        for name in all {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn read(value: &Value) -> Result<Self, String> {
        let unexpected = |found: &dyn fmt::Display| {
            format!("`head_setup` is {found}, expected null, true, a name, a list of names or a composition of heads")
        };
        match value {
            Value::Null | Value::Bool(false) => Ok(Self::None),
            Value::Bool(true) => Ok(Self::Own),
            Value::String(name) => Ok(Self::One(name.clone())),
            Value::Array(names) => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned));
                let names = names.collect::<Option<_>>().ok_or_else(|| unexpected(value))?;
                Ok(Self::Several(names))
            }
            Value::Object(_) => match CompositionDict::deserialize(value) {
                Ok(dict) => Ok(Self::Composed(dict.into())),
                Err(error) => Err(format!("`head_setup`: {error}")),
            },
            Value::Number(_) => Err(unexpected(value)),
        }
    }
}

impl Serialize for HeadSetup {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_unit(),
            Self::Own => serializer.serialize_bool(true),
            Self::One(name) => name.serialize(serializer),
            Self::Several(names) => names.serialize(serializer),
            Self::Composed(composition) => CompositionDict::from(composition).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for HeadSetup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_of_the_file_is_read_and_written_back() {
        let parallel = Composition::Parallel(vec!["a".into(), "b".into()]);
        for (value, setup, names) in [
            (json!(null), HeadSetup::None, vec![]),
            (json!(true), HeadSetup::Own, vec![]),
            (json!("a"), HeadSetup::One("a".to_owned()), vec!["a"]),
            (
                json!(["b", "a", "b"]),
                HeadSetup::Several(["b", "a", "b"].map(str::to_owned).to_vec()),
                vec!["b", "a"],
            ),
            (
                serde_json::to_value(CompositionDict::from(&parallel)).unwrap(),
                HeadSetup::Composed(parallel),
                vec!["a", "b"],
            ),
        ] {
            let read: HeadSetup = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(read, setup);
            assert_eq!(read.names(), names);
            assert_eq!(serde_json::to_value(read).unwrap(), value);
        }
        for wrong in [json!(1), json!(["a", 1]), json!({"type": "Nest", "children": []})] {
            let error = serde_json::from_value::<HeadSetup>(wrong).unwrap_err().to_string();
            assert!(error.contains("head_setup"), "{error}");
        }
    }
}
