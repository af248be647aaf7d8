//! SmolLM3: a Llama without rotary positions in every fourth layer.
//!
//! Papers: *SmolLM3: smol, multilingual, long-context reasoner*, Hugging Face, 2025,
//! <https://huggingface.co/blog/smollm3>; *RoPE to NoPE and Back Again*, Yang et al., 2025,
//! <https://arxiv.org/abs/2501.18795>. Behavior follows `SmolLM3ForCausalLM` of Hugging Face transformers.

use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 4, "intermediate_size": 11008, "hidden_act": "silu", "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 2e6, "tie_word_embeddings": true, "attention_dropout": 0.0,
        "pad_token_id": 128004, "use_sliding_window": false, "no_rope_layer_interval": 4,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of this family.
#[derive(Clone, Debug, Deserialize)]
struct Own {
    /// One in layers with rotary positions, zero in the others.
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: usize,
    use_sliding_window: bool,
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, own: Own, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    let (layers, interval) = (config.num_hidden_layers, own.no_rope_layer_interval);
    check.require(interval > 0, "no_rope_layer_interval", "a number above zero", interval)?;
    let rotary_layers: Vec<bool> = match own.no_rope_layers {
        Some(layers) => layers.iter().map(|rotary| *rotary != 0).collect(),
        None => (1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect(),
    };
    let expected = format!("a number for each of num_hidden_layers = {layers}");
    check.require(
        rotary_layers.len() == layers,
        "no_rope_layers",
        expected,
        rotary_layers.len(),
    )?;
    let slides = |layer: usize| own.use_sliding_window && !rotary_layers[layer];
    let windows = config.windows(config.sliding_window, slides);
    let mut family = Family::new("smollm3", "SmolLM3ForCausalLM", config).with_windows(windows);
    for (layer, rotary) in family.layers.iter_mut().zip(rotary_layers) {
        layer.rotary = rotary;
    }
    Ok(family)
}
