//! What a run needs: a recipe, and where and with what to run it.

use std::path::PathBuf;

use adapters_methods::Registry;
use adapters_models::Pretrained;
use burn::tensor::Device;

use crate::error::TrainError;
use crate::recipe::Recipe;

/// A recipe, and where and with what to run it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The recipe.
    pub recipe: Recipe,
    /// Folder of the base model.
    pub model_dir: PathBuf,
    /// The run folder. An unfinished run of the same recipe in it is resumed.
    pub dir: PathBuf,
    /// The methods to choose from.
    pub registry: Registry,
    /// The device, without autodiff.
    pub device: Device,
}

impl Run {
    /// The base, with the tokenizer and the chat template of the adapter that is trained further, if that has its own.
    pub(crate) fn pretrained(&self) -> Result<Pretrained, TrainError> {
        let base = Pretrained::open(&self.model_dir)?.with_bin(self.recipe.model.allow_bin);
        let base = base.of_kinds(self.recipe.head.kind.models);
        let Some(from) = &self.recipe.adapter.from else {
            return Ok(base);
        };
        let base = base.for_adapter(from)?;
        match base.resized() {
            None => Ok(base),
            Some([tokens, with_adapter]) => Err(TrainError::Value {
                field: "adapter.from",
                expected: format!(
                    "an adapter over the {tokens} tokens of its base; `adapters merge` writes this one into a base with its tokens"
                ),
                found: format!("one over {with_adapter} tokens"),
            }),
        }
    }
}
