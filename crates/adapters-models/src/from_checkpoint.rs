//! Models that are built of a checkpoint, and how relatives of a family share its builder.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::checkpoint_folder::CheckpointFolder;
use crate::error::ModelError;
use crate::model::Model;
use crate::transformer::Transformer;
use crate::weights::Weights;

/// Loads a checkpoint of a relative of `M`: `defaults` are those of its published class, where they are not those of `M`,
/// and `build` knows what else it changes.
///
/// # Errors
///
/// As [`FromCheckpoint::load`].
pub(crate) fn load_relative<M>(
    source: &CheckpointFolder,
    device: &Device,
    defaults: Map<String, Value>,
    build: impl FnOnce(M::Config, &Path, &mut Weights) -> Result<M, ModelError>,
) -> Result<Model, ModelError>
where
    M: FromCheckpoint<Config: DeserializeOwned> + 'static,
{
    let config = source.config_with(defaults)?;
    let weights = source.weights(M::PREFIX, device)?;
    let path = source.dir().join("config.json");
    Ok(Model::new(M::finished(weights, |weights| {
        build(config, &path, weights)
    })?))
}

/// A model that is built of its configuration and the tensors of a checkpoint.
pub trait FromCheckpoint: Transformer + Module {
    /// `config.json`: the fields that change what is computed.
    type Config;

    /// Prefix of the keys in checkpoints of larger classes, e.g. `"bert."`.
    const PREFIX: &'static str;

    /// Whether the model is that larger class, whose paths have the prefix.
    const LARGER_CLASS: bool = false;

    /// Builds the model; `path` is that of the configuration, for messages.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for values this model cannot have. Tensors that are missing or misshapen are noted in
    /// `weights`.
    fn build(config: Self::Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError>;

    /// Whether nothing needs the tensor of this key, which published checkpoints have.
    fn is_unused(&self, _key: &str) -> bool {
        false
    }

    /// Builds the model from the folder of a checkpoint, each tensor of which is read when it is first needed.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for values this model cannot have; [`ModelError::Store`] listing every missing, misshapen or
    /// unexpected tensor.
    fn load(source: &CheckpointFolder, config: Self::Config, device: &Device) -> Result<Self, ModelError> {
        let weights = source.weights(Self::PREFIX, device)?;
        Self::finished(weights, |weights| {
            Self::build(config, &source.dir().join("config.json"), weights)
        })
    }

    /// A model with random weights (see [`Weights::random`]).
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for a configuration that is not computed.
    fn random(config: Self::Config, seed: u64, device: &Device) -> Result<Self, ModelError> {
        let weights = Weights::random(seed, device);
        Self::finished(weights, |weights| {
            Self::build(config, Path::new("config.json"), weights)
        })
    }

    /// What `build` makes, once all tensors are accounted for.
    ///
    /// # Errors
    ///
    /// Those of `build` and of [`Weights::finish`].
    fn finished(
        mut weights: Weights,
        build: impl FnOnce(&mut Weights) -> Result<Self, ModelError>,
    ) -> Result<Self, ModelError> {
        if Self::LARGER_CLASS {
            weights = weights.naming_sites_with(Self::PREFIX);
        }
        let model = build(&mut weights)?;
        weights.ignore(|key| model.is_unused(key));
        weights.finish(&[])?;
        Ok(model)
    }
}
