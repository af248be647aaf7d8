//! What the configurations of all methods have in common: their errors, and the way from fields to a type and back.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use adapters_nn::{did_you_mean, nearest};

use crate::error::Error;
use crate::method::codec::Format;

/// What can be wrong with a method's configuration. `field` is spelled as it is written in files.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field is outside its range.
    #[error("`{field}` is {found}, expected {expected}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A field that no configuration of this method has.
    #[error("unknown field `{field}`{}; known: {known}", did_you_mean(.nearest))]
    UnknownField {
        /// The field.
        field: String,
        /// The nearest right spelling.
        nearest: Option<String>,
        /// All fields.
        known: String,
    },
    /// A field has the wrong type or an unknown choice.
    #[error("{reason}")]
    Field {
        /// The field and why, in serde's words.
        reason: String,
    },
    /// A published option this version does not compute.
    #[error("`{field}` = {found} is not supported yet")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
    },
    /// An option the storage format has no word for.
    #[error("the {format} format cannot express {what}")]
    NotExpressible {
        /// The format.
        format: Format,
        /// The option.
        what: &'static str,
    },
}

impl ConfigError {
    /// [`ConfigError::OutOfRange`] unless `fits`.
    ///
    /// # Errors
    ///
    /// As said.
    pub fn unless(fits: bool, field: &'static str, expected: &'static str, found: impl ToString) -> Result<(), Self> {
        match fits {
            true => Ok(()),
            false => Err(Self::OutOfRange {
                field,
                expected,
                found: found.to_string(),
            }),
        }
    }
}

/// Refuses the first field that is none of `known`.
///
/// # Errors
///
/// [`ConfigError::UnknownField`] with the nearest known one.
pub fn refuse_unknown<'a>(
    fields: &Map<String, Value>,
    known: impl Iterator<Item = &'a String> + Clone,
) -> Result<(), ConfigError> {
    match fields.keys().find(|field| known.clone().all(|k| k != *field)) {
        None => Ok(()),
        Some(field) => Err(ConfigError::UnknownField {
            nearest: nearest(field, known.clone().map(String::as_str)),
            known: known.cloned().collect::<Vec<_>>().join(", "),
            field: field.clone(),
        }),
    }
}

/// A configuration from its fields.
///
/// # Errors
///
/// [`ConfigError::Field`] in serde's words.
pub fn from_fields<W: DeserializeOwned>(fields: Map<String, Value>) -> Result<W, ConfigError> {
    serde_json::from_value(Value::Object(fields)).map_err(|e| ConfigError::Field { reason: e.to_string() })
}

/// The fields of a configuration. Those named in `whole` are written without a fraction where they have none, as the
/// Python libraries do.
pub fn to_fields(wire: &impl Serialize, whole: &[&str]) -> Map<String, Value> {
    // A wire struct of named fields always serializes to an object.
    let Ok(Value::Object(mut fields)) = serde_json::to_value(wire) else {
        return Map::new();
    };
    for key in whole {
        let number = fields.get(*key).and_then(Value::as_f64);
        if let Some(number) = number.filter(|x| x.fract() == 0.0 && x.abs() < 1e15) {
            fields.insert((*key).to_owned(), Value::from(number as i64));
        }
    }
    fields
}

/// Keeps a key that does not apply among the unknown ones, unless it is the default, so that it can be written back.
pub fn keep(extra: &mut Map<String, Value>, key: &str, value: Value, default: Value) {
    if value != default {
        extra.insert(key.to_owned(), value);
    }
}

/// Takes back what [`keep`] kept.
pub fn kept<T: DeserializeOwned>(extra: &mut Map<String, Value>, key: &str, default: T) -> T {
    extra
        .shift_remove(key)
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or(default)
}

impl Error {
    /// [`Error::Config`] for a method of this family.
    pub fn in_config<T, E>(family: &'static str, result: Result<T, E>) -> Result<T, Self>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        result.map_err(|source| Self::config(family, source))
    }
}
