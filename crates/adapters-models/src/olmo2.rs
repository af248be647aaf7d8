//! OLMo 2: norms behind both blocks, and over queries and keys of all heads together.
//!
//! Paper: *2 OLMo 2 Furious*, Team OLMo, 2024, <https://arxiv.org/abs/2501.00656>. Behavior follows `Olmo2ForCausalLM` of
//! Hugging Face transformers.

use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 50304, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "attention_dropout": 0.0, "pad_token_id": 1,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, _: IgnoredAny, _: ConfigCheck<'_>) -> Result<Family, ModelError> {
    let family = Family::new("olmo2", "Olmo2ForCausalLM", config);
    Ok(Family {
        attention: AttentionPlan {
            norms: QueryKeyNorms::Whole(["q_norm", "k_norm"]),
            ..family.attention
        },
        feed_forward: FeedForwardPlan::Gated { bias: false },
        placement: Placement::Behind,
        ..family
    })
}
