//! gpt-oss: experts whose matrices are bare parameters, windows in every other layer, and a sink in every attention.
//!
//! Model card: *gpt-oss-120b & gpt-oss-20b*, OpenAI, 2025, <https://arxiv.org/abs/2508.10925>; sinks: *Efficient Streaming
//! Language Models with Attention Sinks*, Xiao et al., 2023, <https://arxiv.org/abs/2309.17453>. Behavior follows
//! `GptOssForCausalLM` of Hugging Face transformers.

use crate::experts::{ExpertsForm, ExpertsPlan, LIMIT};
use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 201088, "hidden_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "hidden_act": "silu",
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 150000.0, "tie_word_embeddings": false,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
            "original_max_position_embeddings": 4096},
        "attention_dropout": 0.0, "attention_bias": true, "sliding_window": 128, "num_local_experts": 128,
        "num_experts_per_tok": 4,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of this family.
#[derive(Debug, Deserialize)]
struct Own {
    num_local_experts: usize,
    num_experts_per_tok: usize,
    swiglu_limit: Option<f64>,
    quantization_config: Option<Value>,
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, own: Own, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    if let Some(quantized) = &own.quantization_config {
        let found = quantized.get("quant_method").unwrap_or(quantized);
        let expected = "none: weights in blocks of four bits are not read; load the checkpoint in transformers with \
                        `Mxfp4Config(dequantize=True)` and save it";
        check.require(false, "quantization_config.quant_method", expected, found)?;
    }
    let limit = own.swiglu_limit.unwrap_or(LIMIT);
    check.require(limit == LIMIT, "swiglu_limit", "7, as in the reference", limit)?;
    let plan = ExpertsPlan {
        form: ExpertsForm::GptOss,
        count: own.num_local_experts,
        chosen: own.num_experts_per_tok,
        ffn: config.intermediate_size,
    };
    let plan = plan.check(check, "num_local_experts", config.num_hidden_layers)?;
    let family = Family::new("gpt_oss", "GptOssForCausalLM", config);
    let attention = AttentionPlan {
        sinks: true,
        ..family.attention
    };
    let windows = config.windows(config.sliding_window, |layer| layer.is_multiple_of(2));
    let family = Family { attention, ..family }.with_windows(windows);
    Ok(family.with_experts(|_| Some(plan)))
}
