//! The rows of a batch, as a recipe has them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// So many.
    Rows(usize),
    /// The largest of 64, 32, .., 1 for which the device has the memory that the gradients of the longest examples need. It is
    /// found before the first step, and a resumed run keeps it.
    ///
    /// The memory of a processor is not refused but taken from other programs, or the process ends: there it is 64.
    Auto,
}

impl BatchSize {
    /// The word for [`BatchSize::Auto`].
    const AUTO: &str = "auto";
}

impl From<usize> for BatchSize {
    fn from(rows: usize) -> Self {
        Self::Rows(rows)
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => rows.fmt(f),
            Self::Auto => f.write_str(Self::AUTO),
        }
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rows(rows) => rows.serialize(serializer),
            Self::Auto => Self::AUTO.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl de::Visitor<'_> for Read {
            type Value = BatchSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number of rows or \"{}\"", BatchSize::AUTO)
            }

            fn visit_u64<E: de::Error>(self, rows: u64) -> Result<BatchSize, E> {
                let rows = usize::try_from(rows);
                rows.map(BatchSize::Rows).map_err(|_| E::custom("too many rows"))
            }

            fn visit_i64<E: de::Error>(self, rows: i64) -> Result<BatchSize, E> {
                let refused = |_| E::invalid_value(de::Unexpected::Signed(rows), &self);
                u64::try_from(rows)
                    .map_err(refused)
                    .and_then(|rows| self.visit_u64(rows))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<BatchSize, E> {
                match word == BatchSize::AUTO {
                    true => Ok(BatchSize::Auto),
                    false => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }

        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_have_a_number_or_the_word() {
        for size in [BatchSize::Rows(8), BatchSize::Auto] {
            let text = serde_json::to_string(&size).unwrap();
            assert_eq!(serde_json::from_str::<BatchSize>(&text).unwrap(), size, "{text}");
        }
        for wrong in ["-1", "\"most\"", "1.5", "true"] {
            let error = serde_json::from_str::<BatchSize>(wrong).unwrap_err().to_string();
            assert!(error.contains("a number of rows or \"auto\""), "{error}");
        }
    }
}
