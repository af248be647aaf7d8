//! Which architectures load: one line each.

use crate::architecture::{Architecture, Architectures, ModelKind};
use crate::{
    albert, bart, bert, bert_generation, distilbert, electra, gpt2, llama, mistral, qwen2, roberta, t5, vit, xmod,
};

/// Every architecture of this crate.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture::new("albert", ModelKind::Encoder, albert::load),
    Architecture::of::<bart::BartModel>("bart", ModelKind::EncoderDecoder),
    Architecture::of::<bert::BertModel>("bert", ModelKind::Encoder),
    Architecture::new("roberta", ModelKind::Encoder, roberta::load),
    Architecture::new("xlm-roberta", ModelKind::Encoder, roberta::load_xlm),
    Architecture::new("xlm_roberta", ModelKind::Encoder, roberta::load_xlm),
    Architecture::new("xmod", ModelKind::Encoder, xmod::load),
    Architecture::new("bert-generation", ModelKind::Encoder, bert_generation::load),
    Architecture::new("distilbert", ModelKind::Encoder, distilbert::load),
    Architecture::new("electra", ModelKind::Encoder, electra::load),
    Architecture::new("llama", ModelKind::CausalLm, llama::load),
    Architecture::new("mistral", ModelKind::CausalLm, mistral::load),
    Architecture::new("qwen2", ModelKind::CausalLm, qwen2::load),
    Architecture::of::<gpt2::Gpt2Model>("gpt2", ModelKind::CausalLm),
    Architecture::of::<t5::T5Model>("t5", ModelKind::EncoderDecoder),
    Architecture::of::<vit::VitModel>("vit", ModelKind::ImageEncoder),
];

impl Default for Architectures {
    /// Those of this crate.
    fn default() -> Self {
        Self(ARCHITECTURES.to_vec())
    }
}
