//! Mixtral: Mistral's layer with experts in place of the feed-forward block.
//!
//! Paper: *Mixtral of Experts*, Jiang et al., 2024, <https://arxiv.org/abs/2401.04088>. Behavior follows `MixtralForCausalLM`
//! of Hugging Face transformers.

use crate::experts::{ExpertsForm, ExpertsPlan};
use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "hidden_act": "silu",
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": false,
        "attention_dropout": 0.0, "sliding_window": null, "num_local_experts": 8, "num_experts_per_tok": 2,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of this family.
#[derive(Debug, Deserialize)]
struct Routing {
    num_local_experts: usize,
    num_experts_per_tok: usize,
    /// By how much what experts and router read is scaled at random, in training.
    #[serde(default)]
    router_jitter_noise: f64,
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, routing: Routing, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    check.dropouts([("router_jitter_noise", routing.router_jitter_noise)])?;
    let plan = ExpertsPlan {
        form: ExpertsForm::Mixtral {
            jitter: routing.router_jitter_noise,
        },
        count: routing.num_local_experts,
        chosen: routing.num_experts_per_tok,
        ffn: config.intermediate_size,
    };
    let plan = plan.check(check, "num_local_experts", config.num_hidden_layers)?;
    let family = Family::new("mixtral", "MixtralForCausalLM", config).without_biases();
    let windows = vec![config.sliding_window; config.num_hidden_layers];
    Ok(family.with_windows(windows).with_experts(|_| Some(plan)))
}
