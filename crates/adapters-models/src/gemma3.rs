//! The text model of Gemma 3: Gemma 2 with normalized queries and keys in place of caps on the scores of attention, and angles
//! of their own in layers with a window, which are all but every sixth.
//!
//! Paper: *Gemma 3 Technical Report*, Gemma Team, 2025, <https://arxiv.org/abs/2503.19786>. Behavior follows
//! `Gemma3ForCausalLM` of Hugging Face transformers, which ignores `attn_logit_softcapping`.

use crate::gemma2::GemmaFields;
use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 262208, "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "rope_local_base_freq": 10000.0, "tie_word_embeddings": true, "attention_dropout": 0.0,
        "pad_token_id": 0, "query_pre_attn_scalar": 256.0, "sliding_window": 4096, "sliding_window_pattern": 6,
        "use_bidirectional_attention": false,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of this family.
#[derive(Clone, Debug, Deserialize)]
struct Own {
    #[serde(flatten)]
    gemma: GemmaFields,
    rope_local_base_freq: f64,
    sliding_window_pattern: usize,
    use_bidirectional_attention: Option<bool>,
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, own: Own, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    let pattern = own.sliding_window_pattern;
    check.require(pattern > 0, "sliding_window_pattern", "a number above zero", pattern)?;
    let family = Family::new("gemma3_text", "Gemma3ForCausalLM", config);
    let family = own.gemma.family(family, config, check)?;
    let attention = AttentionPlan {
        norms: QueryKeyNorms::EachHead(["q_norm", "k_norm"]),
        ..family.attention
    };
    let family = Family {
        sliding_theta: Some(own.rope_local_base_freq),
        attention,
        embeddings: EmbeddingFactor::Rows((config.hidden_size as f64).sqrt()),
        ..family
    };
    let bidirectional = own.use_bidirectional_attention.unwrap_or_default();
    // Half of the window is behind a query and half before it, as the published class reads the field.
    let reach = |window: usize| if bidirectional { window / 2 + 1 } else { window };
    let windows = config.windows(config.sliding_window.map(reach), |layer| {
        !(layer + 1).is_multiple_of(pattern)
    });
    let family = Family {
        bidirectional,
        ..family
    };
    Ok(family.with_windows(windows))
}
