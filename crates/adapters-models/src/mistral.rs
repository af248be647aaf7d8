//! Mistral: no biases, and a window in every layer where the configuration has one.
//!
//! Paper: *Mistral 7B*, Jiang et al., 2023, <https://arxiv.org/abs/2310.06825>. Behavior follows `MistralForCausalLM` of
//! Hugging Face transformers.

use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "hidden_act": "silu",
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "attention_dropout": 0.0, "sliding_window": 4096,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, _: IgnoredAny, _: ConfigCheck<'_>) -> Result<Family, ModelError> {
    let family = Family {
        adapterhub: AdapterHubForm::Classes,
        ..Family::new("mistral", "MistralForCausalLM", config).without_biases()
    };
    Ok(family.with_windows(vec![config.sliding_window; config.num_hidden_layers]))
}
