//! What the configurations of all methods have in common: their errors, and the way from fields to a type and back.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use adapters_nn::{UnknownName, did_you_mean};

use crate::format::Format;
use crate::other_tools::nearest_field;

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
    /// A field holds a name that is not in its list.
    #[error("`{field}`: {unknown}")]
    UnknownName {
        /// The field.
        field: &'static str,
        /// The name, the nearest known one, and all known ones.
        unknown: UnknownName,
    },
    /// A published option this version does not compute.
    #[error("`{field}` = {found} is not supported")]
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

    /// The error with the field as a file spells it; `names` are our names of fields and those of the file.
    #[must_use]
    pub fn spelled(mut self, names: &[(&'static str, &'static str)]) -> Self {
        let of_file = |ours: &str| {
            names
                .iter()
                .find(|(name, _)| *name == ours)
                .map(|(_, of_file)| *of_file)
        };
        match &mut self {
            Self::OutOfRange { field, .. } | Self::UnknownName { field, .. } | Self::Unsupported { field, .. } => {
                *field = of_file(field).unwrap_or(field);
            }
            Self::Field { reason } => {
                // The path of the field, then serde's words.
                let quoted = reason.strip_prefix('`').and_then(|rest| rest.split_once('`'));
                let ours = quoted.map(|(path, _)| path.split(['.', '[']).next().unwrap_or(path));
                if let Some((ours, of_file)) = ours.and_then(|ours| Some((ours, of_file(ours)?))) {
                    *reason = reason.replacen(ours, of_file, 1);
                }
            }
            Self::UnknownField { .. } | Self::NotExpressible { .. } => {}
        }
        self
    }

    /// Checks a number that the sizes of tensors follow from, such as a rank or a number of virtual tokens: at least one, and no
    /// larger than [`LARGEST_SIZE`]. A damaged file must not ask for more memory than there is.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Self::OutOfRange) naming the field.
    pub fn size(field: &'static str, found: usize) -> Result<(), Self> {
        Self::unless((1..=LARGEST_SIZE).contains(&found), field, "1 to 65536", found)
    }

    /// Checks a probability of dropping something, or another fraction that is less than the whole: at least 0 and below 1.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Self::OutOfRange) naming the field.
    pub fn probability(field: &'static str, found: f64) -> Result<(), Self> {
        Self::unless((0.0..1.0).contains(&found), field, "at least 0 and below 1", found)
    }

    /// Checks that a number is neither NaN nor infinite in 32 bits, in which adapters compute.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Self::OutOfRange) naming the field.
    pub fn finite(field: &'static str, found: f64) -> Result<(), Self> {
        Self::unless((found as f32).is_finite(), field, "a finite number of 32 bits", found)
    }

    /// The same for a number that must be above zero.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Self::OutOfRange) naming the field.
    pub fn positive(field: &'static str, found: f64) -> Result<(), Self> {
        let fits = (found as f32) > 0.0 && (found as f32).is_finite();
        Self::unless(fits, field, "a finite number of 32 bits above 0", found)
    }

    /// Checks a tensor whose axes several numbers of a configuration give: each may fit, and their product may be more than there is
    /// memory for. `fields` names the axes.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](Self::OutOfRange) with all of them.
    pub fn elements<const N: usize>(fields: &'static str, axes: [usize; N]) -> Result<(), Self> {
        let count = axes.iter().try_fold(1, |count: usize, axis| count.checked_mul(*axis));
        let found = axes.map(|axis| axis.to_string()).join(" x ");
        Self::unless(
            count.is_some_and(|count| count <= MOST_ELEMENTS),
            fields,
            "a product of at most 2^26",
            found,
        )
    }
}

/// The largest rank, length or bottleneck of an adapter, see [`ConfigError::size`].
pub const LARGEST_SIZE: usize = 1 << 16;

/// The most numbers of a tensor whose size the configuration alone decides, see [`ConfigError::elements`].
const MOST_ELEMENTS: usize = 1 << 26;

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
            nearest: nearest_field(field, known.clone().map(String::as_str)),
            known: known.cloned().collect::<Vec<_>>().join(", "),
            field: field.clone(),
        }),
    }
}

/// A configuration from its fields.
///
/// # Errors
///
/// [`ConfigError::Field`] with the field's name, in serde's words.
pub fn from_fields<W: DeserializeOwned>(fields: Map<String, Value>) -> Result<W, ConfigError> {
    parse(fields).map_err(|reason| ConfigError::Field { reason })
}

/// What the fields of an object hold.
///
/// # Errors
///
/// The field, by its path, and what serde says of it.
pub fn parse<W: DeserializeOwned>(fields: Map<String, Value>) -> Result<W, String> {
    let mut fields = Value::Object(fields);
    let error = match serde_path_to_error::deserialize(&fields) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    let path = Some(error.path().to_string()).filter(|path| path != "." && path != "?");
    let reason = error.into_inner().to_string();
    Err(match path.or_else(|| flattened::<W>(&mut fields, &reason)) {
        Some(path) => format!("`{path}`: {reason}"),
        // A missing field has no path, and its name is in serde's message.
        None => reason,
    })
}

/// The field that an error without a path is about: serde gathers the fields of flattened structs before it reads them. Without an
/// optional one there is no error; with another value of the same type in place of a required one, serde's words have that value.
fn flattened<W: DeserializeOwned>(fields: &mut Value, reason: &str) -> Option<String> {
    /// Each field is one more attempt.
    const MOST: usize = 1000;
    let error = |fields: &Value| W::deserialize(fields).err().map(|error| error.to_string());
    let Value::Object(map) = &*fields else { return None };
    let keys: Vec<String> = map.keys().take(MOST).cloned().collect();
    keys.into_iter().find(|key| {
        let value = fields[key.as_str()].take();
        let Value::Object(map) = &mut *fields else { return false };
        map.remove(key);
        let without = error(fields);
        let said = match altered(&value) {
            Some((here, there, other)) if without.is_some() && reason.contains(&here) => {
                fields[key.as_str()] = other;
                error(fields).is_some_and(|said| said == reason.replacen(&here, &there, 1))
            }
            _ => without.is_none(),
        };
        fields[key.as_str()] = value;
        said
    })
}

/// A value as serde's words have it, and another of its type.
fn altered(value: &Value) -> Option<(String, String, Value)> {
    let (here, other) = match value {
        Value::Bool(value) => (value.to_string(), Value::from(!value)),
        Value::Number(number) => {
            let other = match number.as_i64() {
                Some(number) => Value::from(number.wrapping_sub(1)),
                None => Value::from(number.as_f64()? / 2.0),
            };
            (number.to_string(), other)
        }
        Value::String(text) => return Some((text.clone(), format!("{text}x"), format!("{text}x").into())),
        _ => return None,
    };
    let there = other.to_string();
    Some((here, there, other))
}

/// Reads the configuration object of an AdapterHub file whose `architecture` is `name`; `None` if it has another one.
pub fn read_architecture<T: DeserializeOwned>(
    name: &str,
    fields: &Map<String, Value>,
) -> Option<Result<T, ConfigError>> {
    let mine = fields.get("architecture")? == name;
    mine.then(|| {
        let mut fields = fields.clone();
        fields.shift_remove("architecture");
        from_fields(fields)
    })
}

/// The configuration object of an AdapterHub file whose `architecture` is `name`, without the fields in `unset` that
/// hold null: those that only this library writes.
pub fn write_architecture(name: &str, config: &impl Serialize, unset: &[&str]) -> Map<String, Value> {
    let mut fields = to_fields(config, &[]);
    fields.retain(|field, value| !(value.is_null() && unset.contains(&field.as_str())));
    fields.insert("architecture".to_owned(), name.into());
    fields
}

/// The seed of the initial values, if a configuration has one: in AdapterHub's `init_weights_seed` zero means none.
pub fn published_seed(seed: Option<i64>) -> Option<u64> {
    seed.filter(|seed| *seed != 0).map(|seed| seed as u64)
}

/// The fields of a configuration. The numbers of those named in `whole` are written without a fraction where they have
/// none, as the Python libraries do.
pub fn to_fields(wire: &impl Serialize, whole: &[&str]) -> Map<String, Value> {
    // A wire struct of named fields always serializes to an object.
    let Ok(Value::Object(mut fields)) = serde_json::to_value(wire) else {
        return Map::new();
    };
    for key in whole {
        if let Some(value) = fields.get_mut(*key) {
            *value = without_fraction(value.take());
        }
    }
    fields
}

/// A number without a fraction as an integer, which is how one writes it; in lists and maps each number.
pub(crate) fn without_fraction(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 1e15) {
            Some(x) if !number.is_u64() => Value::from(x as i64),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(without_fraction).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, without_fraction(value)));
            Value::Object(fields.collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only read")]
    struct Sizes {
        rank: usize,
        #[serde(default)]
        scale: f64,
    }

    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only read")]
    struct Config {
        width: usize,
        nested: Option<Sizes>,
        #[serde(flatten)]
        sizes: Sizes,
        #[serde(flatten)]
        other: Map<String, Value>,
    }

    #[test]
    fn numbers_beyond_32_bits_are_refused() {
        for found in [1e300, -1e39, f64::NAN] {
            assert!(ConfigError::finite("scale", found).is_err(), "{found}");
            assert!(ConfigError::positive("scale", found).is_err(), "{found}");
        }
        assert!(ConfigError::positive("scale", 1e-300).is_err() && ConfigError::positive("scale", 0.0).is_err());
        ConfigError::finite("scale", -3e38).unwrap();
        ConfigError::positive("scale", 1e-30).unwrap();
    }

    #[test]
    fn a_wrong_value_is_named_by_its_field() {
        let reason = |field: &str, value: Value| {
            let mut fields = json!({"width": 4, "rank": 2, "scale": 1.0, "else": [1], "nested": {"rank": 1}});
            fields[field] = value;
            let Value::Object(fields) = fields else { unreachable!() };
            parse::<Config>(fields).unwrap_err()
        };
        for (field, value, named) in [
            ("width", json!(-1), "`width`: "),
            ("nested", json!({"rank": "2"}), "`nested.rank`: "),
            // Those of a flattened struct, with a default and without.
            ("rank", json!(0.5), "`rank`: "),
            ("scale", json!("1"), "`scale`: "),
            ("scale", json!({}), "`scale`: "),
        ] {
            let reason = reason(field, value);
            assert!(reason.starts_with(named), "{reason}");
        }
        let missing = parse::<Config>(Map::new()).unwrap_err();
        assert!(missing.contains("missing field `width`"), "{missing}");
    }
}
