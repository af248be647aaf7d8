//! Qwen3: queries and keys are normalized head by head, and a head may be wider than its part of the residual stream.
//!
//! Paper: *Qwen3 Technical Report*, Yang et al., 2025, <https://arxiv.org/abs/2505.09388>. Behavior follows
//! `Qwen3ForCausalLM` of Hugging Face transformers.

use crate::qwen2::{self, Windows};
use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let mut defaults = qwen2::defaults();
    defaults["head_dim"] = 128.into();
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, windows: Windows, _: ConfigCheck<'_>) -> Result<Family, ModelError> {
    Ok(layers("qwen3", "Qwen3ForCausalLM", config).with_windows(windows.of_layers(config)))
}

/// The layers of a family of Qwen3's kind: heads of queries and keys are normalized each, and the feed-forward blocks have no
/// biases.
pub(crate) fn layers(model_type: &'static str, class_name: &'static str, config: &RotaryDecoderConfig) -> Family {
    let family = Family::new(model_type, class_name, config);
    let attention = AttentionPlan {
        norms: QueryKeyNorms::EachHead(["q_norm", "k_norm"]),
        ..family.attention
    };
    Family {
        attention,
        feed_forward: FeedForwardPlan::Gated { bias: false },
        ..family
    }
}
