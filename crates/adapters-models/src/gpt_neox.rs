//! GPT-NeoX, Pythia among it, from the published configuration to the logits.
//!
//! Paper: *GPT-NeoX-20B: An Open-Source Autoregressive Language Model*, Black et al., 2022,
//! <https://arxiv.org/abs/2204.06745>. Behavior follows `GPTNeoXForCausalLM` of Hugging Face transformers: attention and
//! feed-forward block read the same hidden state, each behind a normalization of its own, and the first `rotary_pct` of a
//! head's features turn with the position.

use crate::gpt_decoder::{GptDecoder, GptFacts, GptFrame, GptLayer, GptNames};
use crate::modeling::*;
use crate::rotary::Rotary;
use crate::rotary_scaling::{Around, RotaryFields, RotaryScaling};

/// `config.json` of a GPT-NeoX checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct GptNeoXConfig {
    /// Tokens in the vocabulary.
    pub(crate) vocab_size: usize,
    /// Longest input in tokens.
    pub(crate) max_position_embeddings: usize,
    /// Width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Layers.
    pub(crate) num_hidden_layers: usize,
    /// Attention heads.
    pub(crate) num_attention_heads: usize,
    /// Width of the feed-forward block.
    pub(crate) intermediate_size: usize,
    /// Activation of the feed-forward block.
    pub(crate) hidden_act: String,
    /// Fraction of a head's features that are rotated with the position.
    pub(crate) rotary_pct: f64,
    /// Base of the rotary angles.
    pub(crate) rotary_emb_base: f64,
    /// Scaling of the rotary angles.
    pub(crate) rope_scaling: Option<RotaryFields>,
    /// Scaling, base and fraction, in newer files.
    pub(crate) rope_parameters: Option<RotaryFields>,
    /// Dropout on attention weights, in training.
    pub(crate) attention_dropout: f64,
    /// Dropout on embeddings and block outputs, in training.
    pub(crate) hidden_dropout: f64,
    /// Epsilon of the layer normalizations.
    pub(crate) layer_norm_eps: f64,
    /// Whether the feed-forward block reads what enters the layer, and not what the attention left.
    pub(crate) use_parallel_residual: bool,
    /// Biases in attention.
    pub(crate) attention_bias: bool,
    /// Whether the language-model head is the table of the token embeddings.
    pub(crate) tie_word_embeddings: bool,
    /// Id of the padding token.
    pub(crate) pad_token_id: Option<usize>,
}

impl Default for GptNeoXConfig {
    /// The defaults of the published class (GPT-NeoX-20B).
    fn default() -> Self {
        Self {
            vocab_size: 50432,
            max_position_embeddings: 2048,
            hidden_size: 6144,
            num_hidden_layers: 44,
            num_attention_heads: 64,
            intermediate_size: 24576,
            hidden_act: "gelu".to_owned(),
            rotary_pct: 0.25,
            rotary_emb_base: 1e4,
            rope_scaling: None,
            rope_parameters: None,
            attention_dropout: 0.0,
            hidden_dropout: 0.0,
            layer_norm_eps: 1e-5,
            use_parallel_residual: true,
            attention_bias: true,
            tie_word_embeddings: false,
            pad_token_id: None,
        }
    }
}

impl GptNeoXConfig {
    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<(Activation, Rotary), ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        check.multiple(
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
        )?;
        check.dropouts([
            ("attention_dropout", self.attention_dropout),
            ("hidden_dropout", self.hidden_dropout),
        ])?;
        let fields = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let rotated = ((self.hidden_size / self.num_attention_heads) as f64 * self.rotary_pct) as usize;
        let fits = self.rotary_pct <= 1.0 && rotated > 0 && rotated.is_multiple_of(2);
        let expected = "a fraction of at most 1 that gives an even number of features in each head";
        check.require(fits, "rotary_pct", expected, self.rotary_pct)?;
        let around = Around {
            longest: self.max_position_embeddings,
            original: None,
            features: rotated,
        };
        let scaling = fields.map_or(Ok(RotaryScaling::Default), |fields| fields.scaling(around));
        let scaling = scaling.map_err(|(field, expected, found)| check.refusal(field, expected, found))?;
        let base = fields
            .and_then(|fields| fields.rope_theta)
            .unwrap_or(self.rotary_emb_base);
        check.require(base > 1.0, "rotary_emb_base", "a number above 1", base)?;
        Ok((
            check.activation("hidden_act", &self.hidden_act)?,
            Rotary::new(rotated, base, scaling),
        ))
    }
}

/// GPT-NeoX: embeddings, layers, norm and head.
pub(crate) type GptNeoXModel = GptDecoder<GptNeoXLayer>;

/// A layer of GPT-NeoX.
#[derive(Module, Sites, Debug)]
pub(crate) struct GptNeoXLayer {
    attention_norm: Sited<LayerNorm>,
    /// Query, key and value of one head after the other, `[d_model, 3 d_model]`.
    query_key_value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    attention_output: Sited<Linear>,
    after_attention: Point<ResidualHook>,
    ffn_norm: Sited<LayerNorm>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    dropout: f64,
    parallel: bool,
    #[module(skip)]
    attention: AttentionOptions,
    #[module(skip)]
    activation: Activation,
}

impl GptLayer for GptNeoXLayer {
    type Config = GptNeoXConfig;

    const NAMES: GptNames = GptNames {
        model_type: "gpt_neox",
        class_name: "GPTNeoXForCausalLM",
        prefix: "gpt_neox.",
        table: "embed_in",
        layers: "layers",
        norm: "final_layer_norm",
        head: "embed_out",
        head_bias: false,
        // Masks and angles of old checkpoints.
        unused: &[".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"],
    };

    fn facts(config: &GptNeoXConfig, path: &Path) -> Result<GptFacts, ModelError> {
        let (activation, rotary) = config.check(path)?;
        Ok(GptFacts {
            d_model: config.hidden_size,
            norm_epsilon: config.layer_norm_eps,
            embedding_dropout: config.hidden_dropout,
            is_tied: config.tie_word_embeddings,
            activation,
            rotary,
            info: ModelInfo {
                num_layers: config.num_hidden_layers,
                max_length: Some(config.max_position_embeddings),
                vocab_size: config.vocab_size,
                pad_id: config.pad_token_id.unwrap_or(0),
                token_types: None,
                head_norm_epsilon: config.layer_norm_eps,
                head_dropout: 0.0,
                activation: config.hidden_act.clone(),
                masked_lm: None,
            },
        })
    }

    fn build(config: &GptNeoXConfig, activation: Activation, mut at: Scope<'_>) -> Self {
        let (d, ffn, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (heads, bias) = (config.num_attention_heads, config.attention_bias);
        let (qkv, output) = (LinearRole::QueryKeyValue, LinearRole::AttentionOutput);
        Self {
            attention_norm: at.layer_norm(NormRole::AttentionNorm, "input_layernorm", d, eps),
            query_key_value: at
                .linear_with(bias, qkv, "attention.query_key_value", [d, 3 * d])
                .interleaved(heads),
            key_value: at.key_value("attention", heads, d / heads),
            attention_output: at.linear_with(bias, output, "attention.dense", [d, d]),
            after_attention: at.residual(ResidualRole::AfterAttention, "attention_adapters", d),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, "post_attention_layernorm", d, eps),
            up: at.linear(LinearRole::FfnUp, "mlp.dense_h_to_4h", [d, ffn]),
            down: at.linear(LinearRole::FfnDown, "mlp.dense_4h_to_h", [ffn, d]),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
            output: at.layer_output(d),
            dropout: config.hidden_dropout,
            parallel: config.use_parallel_residual,
            attention: AttentionOptions::new(d / heads, config.attention_dropout, config.pad_token_id.unwrap_or(0)),
            activation,
        }
    }
}

impl Block for GptNeoXLayer {
    type Frame = GptFrame;

    fn forward(&self, x: Tensor<3>, frame: &GptFrame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (heads, rotation) = (&self.attention, &frame.rotation);
        let normed = cx.norm(&self.attention_norm, x.clone());
        let fused = cx.linear(&self.query_key_value, normed.clone());
        let ([batch, seq, _], d_head) = (fused.dims(), heads.d_head);
        let fused = fused
            .reshape([batch as i64, seq as i64, -1, 3 * d_head as i64])
            .swap_dims(1, 2);
        let projection = |index: usize| fused.clone().slice_dim(3, index * d_head..(index + 1) * d_head);
        let (query, key) = (rotation.apply(projection(0)), rotation.apply(projection(1)));
        let mask = Some(frame.mask.clone());
        let attended = heads.attend(query, (key, projection(2)), normed, mask, (&self.key_value, slot), cx);
        let attended = cx.linear(&self.attention_output, attended);
        let attended = cx.dropout(attended, self.dropout);

        let after = cx.residual(&self.after_attention, attended, x.clone(), None);
        let read = if self.parallel { x } else { after.clone() };
        let normed = cx.norm(&self.ffn_norm, read);
        let up = cx.linear(&self.up, normed);
        let down = cx.linear(&self.down, self.activation.forward(up));
        let down = cx.dropout(down, self.dropout);
        let x = cx.residual(&self.after_ffn, down, after, None);
        cx.output(&self.output, x)
    }
}
