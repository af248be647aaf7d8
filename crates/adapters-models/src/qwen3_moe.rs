//! Qwen3 with experts: Qwen3's layer, and experts in place of the feed-forward block of most layers.
//!
//! Paper: *Qwen3 Technical Report*, Yang et al., 2025, <https://arxiv.org/abs/2505.09388>. Behavior follows
//! `Qwen3MoeForCausalLM` of Hugging Face transformers.

use crate::experts::{ExpertsForm, ExpertsPlan};
use crate::qwen3;
use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32,
        "num_key_value_heads": 4, "intermediate_size": 6144, "hidden_act": "silu", "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false, "attention_dropout": 0.0,
        "sliding_window": 4096, "use_sliding_window": false, "decoder_sparse_step": 1, "moe_intermediate_size": 768,
        "num_experts_per_tok": 8, "num_experts": 128, "norm_topk_prob": false, "mlp_only_layers": [],
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of this family.
#[derive(Debug, Deserialize)]
struct Own {
    use_sliding_window: bool,
    decoder_sparse_step: usize,
    moe_intermediate_size: usize,
    num_experts_per_tok: usize,
    num_experts: usize,
    norm_topk_prob: bool,
    mlp_only_layers: Option<Vec<usize>>,
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, own: Own, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    check.sizes([("decoder_sparse_step", own.decoder_sparse_step)])?;
    let plan = ExpertsPlan {
        form: ExpertsForm::Qwen {
            normalized: own.norm_topk_prob,
        },
        count: own.num_experts,
        chosen: own.num_experts_per_tok,
        ffn: own.moe_intermediate_size,
    };
    let plan = match own.num_experts {
        0 => None,
        _ => Some(plan.check(check, "num_experts", config.num_hidden_layers)?),
    };
    let plain = own.mlp_only_layers.unwrap_or_default();
    let family = qwen3::layers("qwen3_moe", "Qwen3MoeForCausalLM", config);
    let window = config.sliding_window.filter(|_| own.use_sliding_window);
    let family = family.with_windows(vec![window; config.num_hidden_layers]);
    let sparse = |layer: usize| !plain.contains(&layer) && (layer + 1).is_multiple_of(own.decoder_sparse_step);
    Ok(family.with_experts(|layer| plan.filter(|_| sparse(layer))))
}
