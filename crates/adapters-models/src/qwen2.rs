//! Qwen2 and Qwen2.5: biases on query, key and value, and a window in the later layers where the configuration asks for it.
//!
//! Paper: *Qwen2 Technical Report*, Yang et al., 2024, <https://arxiv.org/abs/2407.10671>. Behavior follows
//! `Qwen2ForCausalLM` of Hugging Face transformers.

use crate::rotary_modeling::*;

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    RotaryDecoder::load_family(source, defaults(), family, device)
}

/// The defaults of the published class.
pub(crate) fn defaults() -> Value {
    json!({
        "vocab_size": 151936, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "intermediate_size": 22016, "hidden_act": "silu",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "attention_dropout": 0.0, "sliding_window": 4096, "use_sliding_window": false, "max_window_layers": 28,
    })
}

/// Fields of the Qwen families.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Windows {
    /// Whether any layer has a window.
    use_sliding_window: bool,
    /// Layers without a window, from the first on, where there is no list of types.
    max_window_layers: usize,
}

impl Windows {
    /// The window of each layer.
    pub(crate) fn of_layers(self, config: &RotaryDecoderConfig) -> Vec<Option<usize>> {
        let window = config.sliding_window.filter(|_| self.use_sliding_window);
        config.windows(window, |layer| layer >= self.max_window_layers)
    }
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, windows: Windows, _: ConfigCheck<'_>) -> Result<Family, ModelError> {
    let family = Family::new("qwen2", "Qwen2ForCausalLM", config).without_biases();
    let attention = AttentionPlan {
        projections: Projections::Separate { bias: true },
        ..family.attention
    };
    Ok(Family { attention, ..family }.with_windows(windows.of_layers(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_later_layers_have_a_window_and_only_if_asked_for() {
        let windows = |more: Value| {
            let mut fields = defaults();
            fields["num_hidden_layers"] = 3.into();
            for (field, value) in more.as_object().unwrap() {
                fields[field] = value.clone();
            }
            let windows: Windows = serde_json::from_value(fields.clone()).unwrap();
            windows.of_layers(&serde_json::from_value(fields).unwrap())
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
