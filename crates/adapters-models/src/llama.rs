//! Llama and what is published under its name: biases where the configuration asks for them, no window.
//!
//! Paper: *LLaMA: Open and Efficient Foundation Language Models*, Touvron et al., 2023, <https://arxiv.org/abs/2302.13971>.
//! Behavior follows `LlamaForCausalLM` of Hugging Face transformers.

use burn::tensor::Device;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::checkpoint_folder::CheckpointFolder;
use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::model::Model;
use crate::rotary_config::RotaryDecoderConfig;
use crate::rotary_decoder::RotaryDecoder;
use crate::rotary_family::{AdapterHubForm, Family};

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    RotaryDecoder::load_family(source, defaults(), family, device)
}

/// The defaults of the published class.
fn defaults() -> Value {
    json!({
        "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "attention_dropout": 0.0,
    })
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, _: IgnoredAny, _: ConfigCheck<'_>) -> Result<Family, ModelError> {
    Ok(Family {
        adapterhub: AdapterHubForm::Classes,
        ..Family::new("llama", "LlamaForCausalLM", config)
    })
}
