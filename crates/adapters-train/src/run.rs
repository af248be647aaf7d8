//! What a run needs: a recipe, and where and with what to run it.

use std::path::PathBuf;

use adapters_methods::Registry;
use burn::tensor::Device;

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
