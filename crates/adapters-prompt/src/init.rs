//! Initial values: drawn on the host, or the embeddings of a text's tokens.

use adapters_core::{Build, Error, Role};
use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

use crate::PromptError;

/// The rows of the model's token table for these tokens, repeated or cut to `count`.
///
/// # Errors
///
/// [`Error::Config`] for a token the model does not have, [`Error::CannotBuild`] for a model that shows no table.
pub(crate) fn token_rows(
    family: &'static str,
    field: &'static str,
    tokens: &[u32],
    count: usize,
    build: &Build<'_>,
) -> Result<Param<Tensor<2>>, Error> {
    let table = table(family, build)?;
    let [entries, width] = table.dims();
    if let Some(id) = tokens.iter().find(|id| **id as usize >= entries) {
        let source = PromptError::Tokens {
            field,
            expected: format!("token ids below {entries}, the entries of the model's table"),
            found: id.to_string(),
        };
        return Err(Error::config(family, source));
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
pub(crate) fn entries(family: &'static str, build: &Build<'_>) -> Result<usize, Error> {
    Ok(table(family, build)?.dims()[0])
}

fn table(family: &'static str, build: &Build<'_>) -> Result<Tensor<2>, Error> {
    let sites = build.host.sites();
    let mut tables = sites.iter().filter(|info| info.site.role == Role::TokenEmbedding);
    match tables.find_map(|info| build.host.table(info.site)) {
        Some(table) => Ok(table.weight.val()),
        None => Err(Error::CannotBuild {
            method: family,
            path: "token table".to_owned(),
            reason: "the model does not show one, which a prompt that begins as tokens needs".to_owned(),
        }),
    }
}

/// The ids of a text's tokens.
///
/// # Errors
///
/// [`Error::Config`] for a text without one, or with what the tokenizer says.
pub(crate) fn tokens(
    family: &'static str,
    field: &'static str,
    text: &str,
    encode: &adapters_core::Encode<'_>,
) -> Result<Vec<u32>, Error> {
    let tokens = encode(text).map_err(|source| Error::config(family, PromptError::Encode { field, source }))?;
    if tokens.is_empty() {
        let source = PromptError::Tokens {
            field,
            expected: "a text with a token".to_owned(),
            found: format!("`{text}`"),
        };
        return Err(Error::config(family, source));
    }
    Ok(tokens)
}
