//! Texts as a batch of a model.

use crate::encoded::Encoded;
use crate::error::ModelError;
use crate::input::TextInput;
use crate::model::Model;
use crate::tokenizer::TextTokenizer;

impl TextTokenizer {
    /// Texts as a batch of `model`, padded to the longest of them.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn input<'t>(&self, texts: impl IntoIterator<Item = &'t str>, model: &Model) -> Result<TextInput, ModelError> {
        let encoded = self.encode(texts.into_iter().map(|text| (text, None)))?;
        let rows: Vec<&Encoded> = encoded.iter().collect();
        Ok(TextInput::encoded(&rows, model.pad_id(), &model.device()))
    }
}
