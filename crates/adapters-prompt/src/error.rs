//! What can be wrong with a prompt tuning configuration.

/// A configuration that cannot be honored. `field` is the key as the reference's `adapter_config.json` spells it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
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
    #[error("`{field}` is missing: expected {expected}")]
    Missing {
        /// Key of the absent value.
        field: &'static str,
        /// What was expected, and why.
        expected: &'static str,
    },
    /// A text that no tokenizer has seen.
    #[error("`{field}` is a text: give its tokens with `Method::with_tokens` before attaching")]
    NoTokens {
        /// Key of the text.
        field: &'static str,
    },
    /// A text that is no token, or a token the model does not have.
    #[error("`{field}`: expected {expected}, found {found}")]
    Tokens {
        /// Key of the text.
        field: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The tokenizer refuses a text.
    #[error("`{field}` cannot be cut into tokens")]
    Encode {
        /// Key of the text.
        field: &'static str,
        /// The tokenizer's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The storage format has no such adapters.
    #[error("the {format} format cannot express {what}")]
    NotExpressible {
        /// The format.
        format: adapters_core::Format,
        /// What was to be written.
        what: &'static str,
    },
    /// `extra` holds a key which the configuration itself writes.
    #[error("`extra` must not hold `{key}`: expected a key that is no field of the configuration")]
    Reserved {
        /// The key.
        key: String,
    },
}
