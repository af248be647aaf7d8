//! Granite 3: a Llama with factors on embeddings, scores, blocks and logits.
//!
//! Paper: *Granite 3.0 Language Models*, IBM, 2024,
//! <https://github.com/ibm-granite/granite-3.0-language-models/blob/main/paper.pdf>. Behavior follows `GraniteForCausalLM`
//! of Hugging Face transformers.

use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "attention_dropout": 0.0, "embedding_multiplier": 1.0,
        "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of this family.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Own {
    embedding_multiplier: f64,
    logits_scaling: f64,
    residual_multiplier: f64,
    attention_multiplier: f64,
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, own: Own, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    let by = own.logits_scaling;
    check.require(by != 0.0, "logits_scaling", "a number other than zero", by)?;
    let family = Family::new("granite", "GraniteForCausalLM", config);
    Ok(Family {
        attention: AttentionPlan {
            scale: Some(own.attention_multiplier),
            ..family.attention
        },
        placement: Placement::Before {
            factor: own.residual_multiplier,
        },
        embeddings: EmbeddingFactor::State(own.embedding_multiplier),
        logits: Logits::Divided(by),
        ..family
    })
}
