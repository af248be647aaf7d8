//! Text to token ids, through the published `tokenizer.json`.

use std::path::{Path, PathBuf};

use tokenizers::{EncodeInput, Tokenizer, TruncationParams};

use crate::error::ModelError;

/// One encoded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types, as long as `ids`.
    pub type_ids: Vec<u32>,
}

/// The tokenizer of a checkpoint. Truncates from the right, never pads: batches do that.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    path: PathBuf,
    inner: Tokenizer,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` of a checkpoint folder.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`] if the folder has none, [`ModelError::Tokenizer`] if it does not parse or
    /// cannot truncate to `max_length`.
    pub fn load(dir: &Path, max_length: usize) -> Result<Self, ModelError> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Err(ModelError::NotACheckpoint {
                path: dir.to_owned(),
                missing: "it has no tokenizer.json",
            });
        }
        let refuse = |reason: tokenizers::Error| ModelError::Tokenizer {
            path: path.clone(),
            reason: reason.to_string(),
        };
        let mut inner = Tokenizer::from_file(&path).map_err(refuse)?;
        inner.with_padding(None);
        let truncation = TruncationParams {
            max_length,
            ..TruncationParams::default()
        };
        inner.with_truncation(Some(truncation)).map_err(refuse)?;
        Ok(Self { path, inner })
    }

    /// Encodes texts, each alone or with a second one.
    ///
    /// # Errors
    ///
    /// [`ModelError::Tokenizer`] with the tokenizer's words.
    pub fn encode<'t>(
        &self,
        texts: impl IntoIterator<Item = (&'t str, Option<&'t str>)>,
    ) -> Result<Vec<Encoded>, ModelError> {
        let inputs: Vec<EncodeInput<'_>> = texts
            .into_iter()
            .map(|(text, pair)| match pair {
                Some(pair) => (text, pair).into(),
                None => text.into(),
            })
            .collect();
        let encodings = self
            .inner
            .encode_batch(inputs, true)
            .map_err(|e| ModelError::Tokenizer {
                path: self.path.clone(),
                reason: e.to_string(),
            })?;
        Ok(encodings
            .into_iter()
            .map(|e| Encoded {
                ids: e.get_ids().to_vec(),
                type_ids: e.get_type_ids().to_vec(),
            })
            .collect())
    }

    /// Id of a token, if the vocabulary has it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of the special tokens, in order.
    pub fn special_ids(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.iter().filter(|(_, t)| t.special).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
