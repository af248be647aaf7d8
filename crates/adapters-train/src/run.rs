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
    /// The base as it is published; of a checkpoint that holds several models, the one that the task works on.
    pub(crate) fn base(&self) -> Result<Pretrained, TrainError> {
        let base = Pretrained::open(&self.model_dir)?.with_bin(self.recipe.model.allow_bin);
        Ok(base.of_kinds(self.recipe.head.kind.models))
    }

    /// The base, with the tokens and the chat template of the adapter that is trained further, if that has its own.
    pub(crate) fn pretrained(&self) -> Result<Pretrained, TrainError> {
        match &self.recipe.adapter.from {
            Some(from) => Ok(self.base()?.for_adapter(from)?),
            None => self.base(),
        }
    }
}
