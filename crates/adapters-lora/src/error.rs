//! What a LoRA configuration can get wrong.

use adapters_core::did_you_mean;

/// Errors of LoRA configurations.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// A field is outside its range.
    #[error("`{field}` is {found}, expected {expected}")]
    OutOfRange {
        /// The field, under its name on the wire.
        field: &'static str,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A field that no LoRA configuration has.
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
    /// An option the storage grammar has no word for.
    #[error("the {grammar} format cannot express {what}")]
    NotExpressible {
        /// The grammar.
        grammar: adapters_core::store::Grammar,
        /// The option.
        what: &'static str,
    },
}
