//! Config strings of one method: a preset and the fields that differ from it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config_string::MemberConfig;
use crate::fields::{ConfigError, from_fields, refuse_unknown, to_fields, without_fraction};

/// An identifier that a config string may start with, and the configuration it stands for.
#[derive(Debug)]
pub struct Preset<M> {
    /// The identifier, e.g. `"dora"`.
    pub identifier: &'static str,
    /// Its configuration.
    pub config: fn() -> M,
}

impl<M: Serialize + DeserializeOwned> Preset<M> {
    /// A preset.
    pub const fn new(identifier: &'static str, config: fn() -> M) -> Self {
        Self { identifier, config }
    }

    /// The preset's configuration with some of its fields replaced.
    ///
    /// # Errors
    ///
    /// [`ConfigError::UnknownField`] with the nearest known field; [`ConfigError::Field`] for a value of the wrong type;
    /// those of the configuration's own conversions.
    pub fn with_fields(&self, fields: Map<String, Value>) -> Result<M, ConfigError> {
        let mut all = to_fields(&(self.config)(), &[]);
        refuse_unknown(&fields, all.keys())?;
        all.extend(fields);
        from_fields(all)
    }

    /// The shortest config string that makes `method` again: that of the preset with the fewest differing fields; `name`
    /// where there are no presets.
    pub fn config_string(presets: &[Self], name: &str, method: &M) -> String {
        let fields = to_fields(method, &[]);
        let members = presets.iter().map(|preset| preset.differing(fields.clone()));
        match members.min_by_key(|member| member.fields.len()) {
            Some(member) => member.to_string(),
            None => name.to_owned(),
        }
    }

    /// The fields in which `config` differs from the preset. Fields of a file that the method does not know are not written into
    /// a config string.
    fn differing(&self, mut fields: Map<String, Value>) -> MemberConfig {
        let preset = to_fields(&(self.config)(), &[]);
        fields.retain(|key, value| preset.get(key).is_some_and(|known| known != value));
        MemberConfig {
            identifier: self.identifier.to_owned(),
            fields: fields
                .into_iter()
                .map(|(key, value)| (key, without_fraction(value)))
                .collect(),
        }
    }
}
