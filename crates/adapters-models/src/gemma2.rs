//! Gemma 2: norms around both blocks, capped scores, scaled embeddings, and a window in every other layer.
//!
//! Paper: *Gemma 2: Improving Open Language Models at a Practical Size*, Gemma Team, 2024, <https://arxiv.org/abs/2408.00118>.
//! Behavior follows `Gemma2ForCausalLM` of Hugging Face transformers.

use crate::rotary_modeling::*;

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 256000, "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "attention_dropout": 0.0, "pad_token_id": 0,
        "query_pre_attn_scalar": 256.0, "sliding_window": 4096, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    });
    RotaryDecoder::load_family(source, defaults, family, device)
}

/// Fields of the Gemma families.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct GemmaFields {
    hidden_activation: String,
    query_pre_attn_scalar: f64,
    pub(crate) attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
}

impl GemmaFields {
    /// What the Gemma families have in common.
    pub(crate) fn family(
        &self,
        family: Family,
        config: &RotaryDecoderConfig,
        check: ConfigCheck<'_>,
    ) -> Result<Family, ModelError> {
        let positive = |field, value: f64| check.require(value > 0.0, field, "a number above zero", value);
        positive("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        positive("attn_logit_softcapping", self.attn_logit_softcapping.unwrap_or(1.0))?;
        positive("final_logit_softcapping", self.final_logit_softcapping.unwrap_or(1.0))?;
        Ok(Family {
            activation: self.hidden_activation.clone(),
            activation_field: "hidden_activation",
            norm: NormKind::OnePlusRms,
            attention: AttentionPlan {
                scale: Some(self.query_pre_attn_scalar.sqrt().recip()),
                window: Window::Dropping,
                ..family.attention
            },
            feed_forward: FeedForwardPlan::Gated { bias: false },
            placement: Placement::Around,
            embeddings: EmbeddingFactor::State((config.hidden_size as f64).sqrt()),
            logits: self.final_logit_softcapping.map_or(Logits::Plain, Logits::Capped),
            adapterhub: AdapterHubForm::InterfaceWithLastNorms,
            ..family
        })
    }
}

/// What the configuration decides.
fn family(config: &RotaryDecoderConfig, own: GemmaFields, check: ConfigCheck<'_>) -> Result<Family, ModelError> {
    let family = own.family(Family::new("gemma2", "Gemma2ForCausalLM", config), config, check)?;
    let attention = AttentionPlan {
        cap: own.attn_logit_softcapping,
        ..family.attention
    };
    let windows = config.windows(config.sliding_window, |layer| layer.is_multiple_of(2));
    Ok(Family { attention, ..family }.with_windows(windows))
}
