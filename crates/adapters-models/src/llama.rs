//! Llama and what is published under its name: biases where the configuration asks for them, no window.
//!
//! Paper: *LLaMA: Open and Efficient Foundation Language Models*, Touvron et al., 2023, <https://arxiv.org/abs/2302.13971>.
//! Behavior follows `LlamaForCausalLM` of Hugging Face transformers.

use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "attention_dropout": 0.0,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, _: IgnoredAny, _: ConfigCheck<'_>) -> Result<Family, ModelError> {
    Ok(Family {
        adapterhub: AdapterHubForm::Classes,
        ..Family::new("llama", "LlamaForCausalLM", config)
    })
}
