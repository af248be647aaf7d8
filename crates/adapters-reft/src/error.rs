//! What can be wrong with a ReFT configuration.

/// A configuration that cannot be honored. `field` is the key as the reference's `adapter_config.json` spells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReftError {
    /// A number lies outside its range.
    #[error("`{field}` is out of range: expected {expected}, found {found}")]
    OutOfRange {
        /// Key of the value.
        field: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// A name is none of the known ones.
    #[error("`{field}` has an unknown value: expected one of {expected}, found `{found}`")]
    Unknown {
        /// Key of the value.
        field: &'static str,
        /// The known names, joined with commas.
        expected: String,
        /// The value.
        found: String,
    },
    /// Two settings exclude each other.
    #[error("`{field}` does not fit the other settings: expected {expected}, found {found}")]
    Conflict {
        /// Key of the value.
        field: &'static str,
        /// What the other settings allow.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// The storage format has no such adapters.
    #[error("the {format} format cannot express ReFT")]
    NotExpressible {
        /// The format.
        format: adapters_core::Format,
    },
    /// `extra` holds a key which the configuration itself writes.
    #[error("`extra` must not hold `{key}`: expected a key that is no field of the configuration")]
    Reserved {
        /// The key.
        key: String,
    },
}
