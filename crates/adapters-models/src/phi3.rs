//! Phi-3, Phi-3.5 and Phi-4: fused projections, and angles of their own for long texts (`longrope`).
//!
//! Paper: *Phi-3 Technical Report*, Abdin et al., 2024, <https://arxiv.org/abs/2404.14219>. Behavior follows
//! `Phi3ForCausalLM` of Hugging Face transformers, which reads no `embd_pdrop`.

use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 32064, "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 8192, "hidden_act": "silu", "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "attention_dropout": 0.0, "resid_pdrop": 0.0, "pad_token_id": 32000,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of this family.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Own {
    resid_pdrop: f64,
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, own: Own, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    check.dropouts([("resid_pdrop", own.resid_pdrop)])?;
    let family = Family::new("phi3", "Phi3ForCausalLM", config);
    let family = Family {
        attention: AttentionPlan {
            projections: Projections::Fused,
            output: ("o_proj", false),
            ..family.attention
        },
        feed_forward: FeedForwardPlan::FusedGated,
        residual_dropout: own.resid_pdrop,
        ..family
    };
    Ok(family.with_windows(vec![config.sliding_window; config.num_hidden_layers]))
}
