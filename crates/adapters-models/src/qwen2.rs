//! Qwen2 and Qwen2.5: biases on query, key and value, and a window in the later layers where the configuration asks for it.
//!
//! Paper: *Qwen2 Technical Report*, Yang et al., 2024, <https://arxiv.org/abs/2407.10671>. Behavior follows
//! `Qwen2ForCausalLM` of Hugging Face transformers.

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use crate::checkpoint_folder::CheckpointFolder;
use crate::error::ModelError;
use crate::llama::object;
use crate::model::Model;
use crate::rotary_config::{Family, RotaryDecoderConfig};
use crate::rotary_decoder::RotaryDecoder;

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    RotaryDecoder::load_family(source, defaults(), family, device)
}

/// The defaults of the published class.
fn defaults() -> Map<String, Value> {
    object(json!({
        "vocab_size": 151936, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "intermediate_size": 22016, "hidden_act": "silu",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "attention_dropout": 0.0, "sliding_window": 4096, "use_sliding_window": false, "max_window_layers": 28,
    }))
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig) -> Family {
    let window = config.sliding_window.filter(|_| config.use_sliding_window);
    let windows = match &config.layer_types {
        Some(types) => types
            .iter()
            .map(|of_layer| window.filter(|_| of_layer == "sliding_attention"))
            .collect(),
        None => (0..config.num_hidden_layers)
            .map(|layer| window.filter(|_| layer >= config.max_window_layers))
            .collect(),
    };
    Family {
        model_type: "qwen2",
        class_name: "Qwen2ForCausalLM",
        qkv_bias: true,
        output_bias: false,
        ffn_bias: false,
        windows,
        swaps_feed_forward: false,
        undoes_embeddings: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_later_layers_have_a_window_and_only_if_asked_for() {
        let windows = |more: Value| {
            let mut fields = defaults();
            fields.insert("num_hidden_layers".to_owned(), 3.into());
            fields.extend(object(more));
            let config = serde_json::from_value(Value::Object(fields)).unwrap();
            family(&config).windows
        };
        assert_eq!(windows(json!({"max_window_layers": 1})), [None; 3]);
        let asked = json!({"use_sliding_window": true, "max_window_layers": 1, "sliding_window": 8});
        assert_eq!(windows(asked), [None, Some(8), Some(8)]);
        let listed = json!({
            "use_sliding_window": true, "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        });
        assert_eq!(windows(listed), [Some(8), None, None]);
    }
}
