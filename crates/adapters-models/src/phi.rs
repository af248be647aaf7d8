//! Phi-1, Phi-1.5 and Phi-2: both blocks read one layer normalization, rotary positions on a part of each head, and every layer has a bias.
//!
//! Paper: *Textbooks Are All You Need II: phi-1.5 technical report*, Li et al., 2023, <https://arxiv.org/abs/2309.05463>.
//! Behavior follows `PhiForCausalLM` of Hugging Face transformers.

use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 51200, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32,
        "intermediate_size": 8192, "hidden_act": "gelu_new", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "tie_word_embeddings": false, "attention_dropout": 0.0,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "qk_layernorm": false,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of this family.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Own {
    qk_layernorm: bool,
    resid_pdrop: f64,
    embd_pdrop: f64,
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, own: Own, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    check.dropouts([("resid_pdrop", own.resid_pdrop), ("embd_pdrop", own.embd_pdrop)])?;
    let family = Family::new("phi", "PhiForCausalLM", config);
    Ok(Family {
        norm: NormKind::Layer,
        final_norm: "final_layernorm",
        attention: AttentionPlan {
            projections: Projections::Separate { bias: true },
            output: ("dense", true),
            norms: match own.qk_layernorm {
                true => QueryKeyNorms::EachHead(["q_layernorm", "k_layernorm"]),
                false => QueryKeyNorms::None,
            },
            ..family.attention
        },
        feed_forward: FeedForwardPlan::Plain,
        placement: Placement::Beside,
        embedding_dropout: own.embd_pdrop,
        residual_dropout: own.resid_pdrop,
        head_bias: true,
        ..family
    })
}
