//! Which architectures load: one line each, and a registry that takes others.

use std::fmt;
use std::path::Path;

use adapters_nn::nearest;
use burn::tensor::Device;
use serde::de::DeserializeOwned;

use crate::checkpoint_folder::CheckpointFolder;
use crate::error::ModelError;
use crate::from_checkpoint::FromCheckpoint;
use crate::kind::ModelKind;
use crate::model::Model;
use crate::{
    albert, bart, beit, bert, bert_generation, clip, deberta, deberta_v2, dinov2, distilbert, electra, encoder_decoder,
    gemma2, gemma3, gpt_neox, gpt_oss, gpt2, gptj, granite, llama, mbart, mistral, mixtral, modernbert, olmo2, opt,
    phi, phi3, plbart, qwen2, qwen3, qwen3_moe, roberta, siglip, smollm3, t5, vit, wav2vec2, whisper, xmod,
};

/// Every architecture of this crate.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture::new("albert", ModelKind::Encoder, albert::load),
    Architecture::new("bart", ModelKind::EncoderDecoder, bart::load),
    Architecture::new("mbart", ModelKind::EncoderDecoder, mbart::load),
    Architecture::new("plbart", ModelKind::EncoderDecoder, plbart::load),
    Architecture::new("bert", ModelKind::Encoder, bert::load),
    Architecture::new("roberta", ModelKind::Encoder, roberta::load),
    Architecture::new("xlm-roberta", ModelKind::Encoder, roberta::load_xlm),
    Architecture::new("xlm_roberta", ModelKind::Encoder, roberta::load_xlm),
    Architecture::new("xmod", ModelKind::Encoder, xmod::load),
    Architecture::new("bert-generation", ModelKind::Encoder, bert_generation::load),
    Architecture::new("deberta", ModelKind::Encoder, deberta::load),
    Architecture::new("deberta-v2", ModelKind::Encoder, deberta_v2::load),
    Architecture::new("distilbert", ModelKind::Encoder, distilbert::load),
    Architecture::new("electra", ModelKind::Encoder, electra::load),
    Architecture::new("llama", ModelKind::CausalLm, llama::load),
    Architecture::new("mistral", ModelKind::CausalLm, mistral::load),
    Architecture::new("qwen2", ModelKind::CausalLm, qwen2::load),
    Architecture::new("qwen3", ModelKind::CausalLm, qwen3::load),
    Architecture::new("qwen3_moe", ModelKind::CausalLm, qwen3_moe::load),
    Architecture::new("mixtral", ModelKind::CausalLm, mixtral::load),
    Architecture::new("gpt_oss", ModelKind::CausalLm, gpt_oss::load),
    Architecture::new("gemma2", ModelKind::CausalLm, gemma2::load),
    Architecture::new("gemma3_text", ModelKind::CausalLm, gemma3::load),
    Architecture::new("phi", ModelKind::CausalLm, phi::load),
    Architecture::new("phi3", ModelKind::CausalLm, phi3::load),
    Architecture::new("smollm3", ModelKind::CausalLm, smollm3::load),
    Architecture::new("olmo2", ModelKind::CausalLm, olmo2::load),
    Architecture::new("granite", ModelKind::CausalLm, granite::load),
    Architecture::new("modernbert", ModelKind::Encoder, modernbert::load),
    Architecture::of::<gpt2::Gpt2Model>("gpt2", ModelKind::CausalLm),
    Architecture::of::<gpt_neox::GptNeoXModel>("gpt_neox", ModelKind::CausalLm),
    Architecture::new("gptj", ModelKind::CausalLm, gptj::load),
    Architecture::of::<opt::OptModel>("opt", ModelKind::CausalLm),
    Architecture::of::<t5::T5Model>("t5", ModelKind::EncoderDecoder),
    Architecture::new("mt5", ModelKind::EncoderDecoder, t5::load_mt5),
    Architecture::of::<vit::VitModel>("vit", ModelKind::ImageEncoder),
    Architecture::new("beit", ModelKind::ImageEncoder, beit::load),
    Architecture::new("dinov2", ModelKind::ImageEncoder, dinov2::load),
    Architecture::new("siglip_vision_model", ModelKind::ImageEncoder, siglip::load),
    Architecture::new("clip_vision_model", ModelKind::ImageEncoder, clip::load_vision),
    Architecture::of::<clip::ClipTextModel>("clip_text_model", ModelKind::Encoder),
    Architecture::of::<clip::ClipModel>("clip", ModelKind::TextAndImage),
    Architecture::new("whisper", ModelKind::SpeechToText, whisper::load),
    Architecture::new("whisper", ModelKind::SoundEncoder, whisper::load_encoder)
        .of_class("WhisperForAudioClassification"),
    Architecture::of::<wav2vec2::Wav2Vec2Model>("wav2vec2", ModelKind::SoundEncoder),
    Architecture::of::<encoder_decoder::BertToBertModel>("encoder-decoder", ModelKind::EncoderDecoder),
];

/// An architecture that loads: the `model_type` of its checkpoints, and what makes a model of one.
#[derive(Clone, Copy)]
pub struct Architecture {
    /// The published `model_type`.
    pub model_type: &'static str,
    /// What its models read and write.
    pub kind: ModelKind,
    /// The published class whose model it is, where it is not the one that most classes of this `model_type` have.
    pub class: Option<&'static str>,
    load: fn(&CheckpointFolder, &Device) -> Result<Model, ModelError>,
}

impl Architecture {
    /// An architecture with a loader of its own.
    pub const fn new(
        model_type: &'static str,
        kind: ModelKind,
        load: fn(&CheckpointFolder, &Device) -> Result<Model, ModelError>,
    ) -> Self {
        Self {
            model_type,
            kind,
            class: None,
            load,
        }
    }

    /// The same for checkpoints and adapters of this published class alone.
    #[must_use]
    pub const fn of_class(self, class: &'static str) -> Self {
        Self {
            class: Some(class),
            ..self
        }
    }

    /// The architecture of a model that builds itself of its configuration.
    pub const fn of<M>(model_type: &'static str, kind: ModelKind) -> Self
    where
        M: FromCheckpoint<Config: DeserializeOwned> + 'static,
    {
        Self::new(model_type, kind, |source, device| {
            let config = source.config_with(Default::default())?;
            Ok(Model::new(M::load(source, config, device)?))
        })
    }

    /// Loads a checkpoint of this architecture.
    pub(crate) fn load(&self, source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
        (self.load)(source, device)
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Architecture")
            .field("model_type", &self.model_type)
            .field("kind", &self.kind)
            .field("class", &self.class)
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
    /// These and another one, in place of one of the same `model_type` and class.
    #[must_use]
    pub fn with(mut self, architecture: Architecture) -> Self {
        let of = |known: &Architecture| (known.model_type, known.class);
        self.0.retain(|known| of(known) != of(&architecture));
        self.0.push(architecture);
        self
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Architecture> {
        self.0.iter()
    }

    /// The `model_type`s of a kind, separated by commas.
    pub(crate) fn named(&self, of: impl Fn(&Architecture) -> bool) -> String {
        let mut named: Vec<&str> = self
            .0
            .iter()
            .filter(|known| of(known))
            .map(|known| known.model_type)
            .collect();
        named.dedup();
        named.join(", ")
    }

    /// The architecture of a published class among those of a `model_type`, if the class has one of its own.
    pub(crate) fn of_class(&self, model_type: &str, class: &str) -> Option<Architecture> {
        let is = |known: &&Architecture| known.model_type == model_type && known.class == Some(class);
        self.0.iter().find(is).copied()
    }

    /// The architecture of this `model_type`, which the file at `path` names, whatever the class.
    ///
    /// # Errors
    ///
    /// [`ModelError::UnknownArchitecture`] with the nearest and all that are known.
    pub(crate) fn find(&self, model_type: &str, path: &Path) -> Result<Architecture, ModelError> {
        let is = |known: &&Architecture| known.model_type == model_type && known.class.is_none();
        self.0
            .iter()
            .find(is)
            .copied()
            .ok_or_else(|| ModelError::UnknownArchitecture {
                path: path.to_owned(),
                found: model_type.to_owned(),
                nearest: nearest(model_type, self.0.iter().map(|known| known.model_type)),
                supported: self.named(|_| true),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_a_known_architecture_replaces_that_class_only() {
        let known = Architectures::default();
        let count = known.iter().count();
        let whisper = known.find("whisper", Path::new("config.json")).unwrap();
        let more = known.with(whisper.of_class("OwnWhisper"));
        assert_eq!(more.iter().count(), count + 1);
        assert!(more.find("whisper", Path::new("config.json")).is_ok());
        assert!(more.of_class("whisper", "OwnWhisper").is_some());
        assert_eq!(more.with(whisper.of_class("OwnWhisper")).iter().count(), count + 1);
    }
}
