//! What can be wrong with a prefix tuning configuration.

use adapters_core::Format;

/// A configuration that cannot be honored. `field` is the key as the reference's `adapter_config.json` spells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
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
    /// A value that another setting asks for is absent.
    #[error("`{field}` is missing: expected a number, since an MLP makes the vectors")]
    Missing {
        /// Key of the absent value.
        field: &'static str,
    },
    /// The storage format means something else by a prefix.
    #[error("the {format} format cannot express this prefix: in it, {because}")]
    NotExpressible {
        /// The format.
        format: Format,
        /// What it means by a prefix.
        because: &'static str,
    },
    /// An adapter to eject has no vectors made by an MLP.
    #[error("`{adapter}` has no prefix that an MLP makes: expected one, found {found}")]
    NothingToEject {
        /// The adapter.
        adapter: String,
        /// Its config string.
        found: String,
    },
    /// `extra` holds a key which the configuration itself writes.
    #[error("`extra` must not hold `{key}`: expected a key that is no field of the configuration")]
    Reserved {
        /// The key.
        key: String,
    },
}
