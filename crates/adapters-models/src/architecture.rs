//! Which architectures load: one line each, and a registry that takes others.

use std::fmt;
use std::path::Path;

use adapters_nn::nearest;
use burn::module::Module;
use burn::tensor::Device;
use serde::de::DeserializeOwned;

use crate::error::ModelError;
use crate::model::Model;
use crate::pretrained::Pretrained;
use crate::transformer::Transformer;
use crate::weights::Weights;
use crate::{bart, bert, distilbert, gpt2, llama, mistral, qwen2, qwen3, roberta, t5, vit};

/// Every architecture of this crate.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture::of::<bart::BartModel>("bart", ModelKind::EncoderDecoder),
    Architecture::of::<bert::BertModel>("bert", ModelKind::Encoder),
    Architecture::new("roberta", ModelKind::Encoder, roberta::load),
    Architecture::new("xlm-roberta", ModelKind::Encoder, roberta::load_xlm),
    Architecture::of::<distilbert::DistilBertModel>("distilbert", ModelKind::Encoder),
    Architecture::new("llama", ModelKind::CausalLm, llama::load),
    Architecture::new("mistral", ModelKind::CausalLm, mistral::load),
    Architecture::new("qwen2", ModelKind::CausalLm, qwen2::load),
    Architecture::new("qwen3", ModelKind::CausalLm, qwen3::load),
    Architecture::of::<gpt2::Gpt2Model>("gpt2", ModelKind::CausalLm),
    Architecture::of::<t5::T5Model>("t5", ModelKind::EncoderDecoder),
    Architecture::of::<vit::VitModel>("vit", ModelKind::ImageEncoder),
];

/// What a model reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Reads a text.
    Encoder,
    /// Continues a text.
    CausalLm,
    /// Reads a text and writes another.
    EncoderDecoder,
    /// Reads images.
    ImageEncoder,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoder => "encoder",
            Self::CausalLm => "causal language model",
            Self::EncoderDecoder => "encoder-decoder",
            Self::ImageEncoder => "image encoder",
        })
    }
}

/// An architecture that loads: the `model_type` of its checkpoints, and what makes a model of one.
#[derive(Clone, Copy)]
pub struct Architecture {
    /// The published `model_type`.
    pub model_type: &'static str,
    /// What its models read and write.
    pub kind: ModelKind,
    load: fn(&Pretrained, &Device) -> Result<Model, ModelError>,
}

impl Architecture {
    /// An architecture with a loader of its own.
    pub const fn new(
        model_type: &'static str,
        kind: ModelKind,
        load: fn(&Pretrained, &Device) -> Result<Model, ModelError>,
    ) -> Self {
        Self { model_type, kind, load }
    }

    /// The architecture of a model that builds itself of its configuration.
    pub const fn of<M>(model_type: &'static str, kind: ModelKind) -> Self
    where
        M: FromCheckpoint<Config: DeserializeOwned> + 'static,
    {
        Self::new(model_type, kind, |source, device| {
            let config = source.config_with(Default::default())?;
            Ok(Model::new(M::load(source.dir(), config, device)?))
        })
    }

    /// Loads a checkpoint of this architecture.
    pub(crate) fn load(&self, source: &Pretrained, device: &Device) -> Result<Model, ModelError> {
        (self.load)(source, device)
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Architecture")
            .field("model_type", &self.model_type)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The architectures a program loads: those of this crate, and what it registers.
#[derive(Clone, Debug)]
pub struct Architectures(Vec<Architecture>);

impl Default for Architectures {
    /// Those of this crate.
    fn default() -> Self {
        Self(ARCHITECTURES.to_vec())
    }
}

impl Architectures {
    /// These and another one, in place of one of the same `model_type`.
    #[must_use]
    pub fn with(mut self, architecture: Architecture) -> Self {
        self.0.retain(|known| known.model_type != architecture.model_type);
        self.0.push(architecture);
        self
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Architecture> {
        self.0.iter()
    }

    /// The `model_type`s of a kind, separated by commas.
    pub(crate) fn named(&self, of: impl Fn(&Architecture) -> bool) -> String {
        let named = self.0.iter().filter(|known| of(known));
        named.map(|known| known.model_type).collect::<Vec<_>>().join(", ")
    }

    /// The architecture of this `model_type`, which the file at `path` names.
    ///
    /// # Errors
    ///
    /// [`ModelError::UnknownArchitecture`] with the nearest and all that are known.
    pub(crate) fn find(&self, model_type: &str, path: &Path) -> Result<Architecture, ModelError> {
        let known = self.0.iter().find(|known| known.model_type == model_type);
        known.copied().ok_or_else(|| ModelError::UnknownArchitecture {
            path: path.to_owned(),
            found: model_type.to_owned(),
            nearest: nearest(model_type, self.0.iter().map(|known| known.model_type)),
            supported: self.named(|_| true),
        })
    }
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

    /// Builds the model from a folder with the published `model.safetensors`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for values this model cannot have; [`ModelError::Store`] listing every missing,
    /// misshapen, unexpected or non-finite tensor.
    fn load(dir: &Path, config: Self::Config, device: &Device) -> Result<Self, ModelError> {
        let weights = Weights::read(dir, Self::PREFIX, device)?;
        Self::finished(weights, |weights| {
            Self::build(config, &dir.join("config.json"), weights)
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
