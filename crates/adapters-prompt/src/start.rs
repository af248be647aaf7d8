//! What the vectors of a prompt begin as, and the rows of the model's token table for a text.

use adapters_core::{AnyMethod, Build, ConfigError, Encode, Error, Method, Role};
use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

/// What the vectors of a prompt begin as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// What the configuration describes. Where that is a text, it needs a tokenizer before the adapter is attached.
    #[default]
    Configured,
    /// The embeddings of these tokens, which are those of the configuration's text.
    Tokens(Vec<u32>),
    /// Zeros, which the values of a file replace.
    Stored,
}

impl Start {
    /// The tokens of the text in `field`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Field`] for a text without a token, or with what the tokenizer returns.
    pub(crate) fn tokenized(field: &'static str, text: &str, encode: &Encode<'_>) -> Result<Self, ConfigError> {
        let refused = |reason| Err(ConfigError::Field { reason });
        match encode(text) {
            Err(error) => refused(format!("`{field}`: the tokenizer refuses `{text}`: {error}")),
            Ok(tokens) if tokens.is_empty() => {
                refused(format!("`{field}`: expected a text with a token, found `{text}`"))
            }
            Ok(tokens) => Ok(Self::Tokens(tokens)),
        }
    }
}

/// A configuration of vectors that may begin in another way than it describes.
pub(crate) trait Starting: Method {
    /// The same configuration with another start.
    #[must_use]
    fn starting(self, start: Start) -> Self;

    /// A configuration that was read from a file, whose values replace those that the vectors begin as.
    fn stored(read: Result<Self, ConfigError>) -> Result<Self, ConfigError> {
        read.map(|config| config.starting(Start::Stored))
    }

    /// The checked configuration with the tokens of its text; `None` where it has no text.
    fn with_start(&self, start: Option<Start>) -> Result<Option<AnyMethod>, Error> {
        start
            .map(|start| AnyMethod::new(self.clone().starting(start)))
            .transpose()
    }
}

/// Implements [`Starting`] for configurations with a field `start`.
macro_rules! starting {
    ($config:ty) => {
        impl $crate::start::Starting for $config {
            fn starting(self, start: $crate::start::Start) -> Self {
                Self { start, ..self }
            }
        }
    };
}

pub(crate) use starting;

/// The refusal of a text that no tokenizer has seen.
pub(crate) fn not_tokenized(field: &'static str) -> ConfigError {
    ConfigError::OutOfRange {
        field,
        expected: "its tokens: call `with_tokens` before attaching",
        found: "a text".to_owned(),
    }
}

/// The rows of the model's token table for these tokens, repeated or cut to `count`.
///
/// # Errors
///
/// [`Error::Config`] for a token the model does not have, [`Error::CannotBuild`] for a model that shows no table.
pub(crate) fn token_rows(
    method: &'static str,
    field: &'static str,
    tokens: &[u32],
    count: usize,
    build: &Build<'_>,
) -> Result<Param<Tensor<2>>, Error> {
    let table = table(method, build)?;
    let [entries, width] = table.dims();
    if let Some(id) = tokens.iter().find(|id| **id as usize >= entries) {
        let reason = format!("`{field}`: expected token ids below {entries}, the size of the token table, found {id}");
        return Err(Error::config(method, ConfigError::Field { reason }));
    }
    let values: Vec<f32> = table.into_data().iter().collect();
    let rows = tokens.iter().cycle().take(count);
    let rows = rows.flat_map(|id| &values[*id as usize * width..][..width]).copied();
    let data = TensorData::new(rows.collect::<Vec<f32>>(), [count, width]);
    Ok(Param::from_data(data, build.device))
}

/// Entries of the model's token table.
///
/// # Errors
///
/// As [`token_rows`].
pub(crate) fn entries(method: &'static str, build: &Build<'_>) -> Result<usize, Error> {
    Ok(table(method, build)?.dims()[0])
}

fn table(method: &'static str, build: &Build<'_>) -> Result<Tensor<2>, Error> {
    let sites = build.host.sites();
    let mut tables = sites.iter().filter(|info| info.site.role == Role::TokenEmbedding);
    match tables.find_map(|info| build.host.table(info.site)) {
        Some(table) => Ok(table.weight.val()),
        None => Err(Error::CannotBuild {
            method,
            path: "token table".to_owned(),
            reason: "a prompt initialized from tokens needs the token embeddings, which this model does not provide"
                .to_owned(),
        }),
    }
}
