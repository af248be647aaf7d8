//! The configuration of the decoders with rotary positions, and what their families decide.

use std::path::Path;

use adapters_nn::ops::Activation;
use serde::Deserialize;

use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::rotary::{Rotary, RotaryFields, RotaryScaling};

/// `config.json`: the fields of all families that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RotaryDecoderConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of the queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values; as many as of the queries without it.
    pub num_key_value_heads: Option<usize>,
    /// Features of a head; `hidden_size / num_attention_heads` without it.
    pub head_dim: Option<usize>,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Activation of the gate.
    pub hidden_act: String,
    /// Longest input in tokens.
    pub max_position_embeddings: usize,
    /// Epsilon of the normalizations.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Scaling of the rotary angles.
    pub rope_scaling: Option<RotaryFields>,
    /// Both of these, in newer files.
    #[serde(default)]
    pub rope_parameters: Option<RotaryFields>,
    /// Whether the head is the table of the token embeddings.
    pub tie_word_embeddings: bool,
    /// Dropout on attention weights, in training.
    pub attention_dropout: f64,
    /// Keys a query sees, itself included, in layers with a window.
    #[serde(default)]
    pub sliding_window: Option<usize>,
    /// Id of the padding token.
    pub pad_token_id: Option<usize>,
    /// Biases in attention, where the family leaves the choice.
    #[serde(default)]
    pub attention_bias: bool,
    /// Biases in the feed-forward block, where the family leaves the choice.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Qwen2: whether any layer has a window.
    #[serde(default)]
    pub use_sliding_window: bool,
    /// Qwen2: layers without a window, from the first on.
    #[serde(default)]
    pub max_window_layers: usize,
    /// Qwen2: what each layer does, in newer files.
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
}

/// What a family is called, and what it decides.
#[derive(Clone, Debug)]
pub struct Family {
    /// The published `model_type`.
    pub model_type: &'static str,
    /// The published class.
    pub class_name: &'static str,
    /// Biases of the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias of the output projection of attention.
    pub output_bias: bool,
    /// Biases of the feed-forward block.
    pub ffn_bias: bool,
    /// Keys a query sees, layer by layer; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Whether AdapterHub's `intermediate` is the second projection of the feed-forward block and its `output` the first.
    pub swaps_feed_forward: bool,
    /// Whether what an adapter did to the embeddings is undone before the head.
    pub undoes_embeddings: bool,
}

impl RotaryDecoderConfig {
    /// Heads of queries, of keys and values, and features of a head.
    pub(crate) fn heads(&self) -> [usize; 3] {
        let heads = self.num_attention_heads;
        let d_head = self.head_dim.unwrap_or(self.hidden_size / heads.max(1));
        [heads, self.num_key_value_heads.unwrap_or(heads), d_head]
    }

    /// Checks the values against each other and against what is computed here.
    pub(crate) fn check(&self, path: &Path, family: &Family) -> Result<(Activation, Rotary), ModelError> {
        let check = ConfigCheck::new(path);
        let [heads, kv_heads, d_head] = self.heads();
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", d_head),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let expected = format!("a divisor of num_attention_heads = {heads}");
        check.require(
            heads.is_multiple_of(kv_heads),
            "num_key_value_heads",
            expected,
            kv_heads,
        )?;
        check.require(
            d_head.is_multiple_of(2),
            "head_dim",
            "an even number: features turn in pairs",
            d_head,
        )?;
        check.dropouts([("attention_dropout", self.attention_dropout)])?;
        check.require(
            self.rms_norm_eps > 0.0,
            "rms_norm_eps",
            "a number above zero",
            self.rms_norm_eps,
        )?;
        let windows = &family.windows;
        let fit = windows.len() == self.num_hidden_layers && !windows.contains(&Some(0));
        let expected = "a window of at least 1, and a type for each layer";
        check.require(fit, "sliding_window, layer_types", expected, format!("{windows:?}"))?;
        let fields = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let scaling = fields.map_or(Ok(RotaryScaling::Default), RotaryFields::scaling);
        let scaling = scaling.map_err(|(field, expected, found)| check.refusal(field, expected, found))?;
        let theta = fields.and_then(|fields| fields.rope_theta).unwrap_or(self.rope_theta);
        check.require(theta > 1.0, "rope_theta", "a number above 1", theta)?;
        Ok((self.hidden_act.parse()?, Rotary::new(d_head, theta, scaling)))
    }
}
