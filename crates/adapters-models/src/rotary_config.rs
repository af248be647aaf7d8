//! The configuration of the decoders with rotary positions: the fields that families share.

use std::path::Path;

use adapters_nn::ops::Activation;
use serde::Deserialize;

use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::rotary::Rotary;
use crate::rotary_family::Family;
use crate::rotary_scaling::{Around, RotaryFields, RotaryParameters, RotaryScaling};

/// `config.json`: the fields of all families that change what is computed. A family reads its own next to them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct RotaryDecoderConfig {
    /// Tokens in the vocabulary.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Layers.
    pub(crate) num_hidden_layers: usize,
    /// Heads of the queries.
    pub(crate) num_attention_heads: usize,
    /// Heads of keys and values; as many as of the queries without it.
    pub(crate) num_key_value_heads: Option<usize>,
    /// Features of a head; `hidden_size / num_attention_heads` without it.
    pub(crate) head_dim: Option<usize>,
    /// Width of the feed-forward block.
    pub(crate) intermediate_size: usize,
    /// Activation of the feed-forward block.
    pub(crate) hidden_act: String,
    /// Longest input in tokens.
    pub(crate) max_position_embeddings: usize,
    /// Longest input before `longrope` scaling.
    pub(crate) original_max_position_embeddings: Option<usize>,
    /// Epsilon of the normalizations.
    #[serde(alias = "layer_norm_eps")]
    pub(crate) rms_norm_eps: f64,
    /// Base of the rotary angles.
    pub(crate) rope_theta: f64,
    /// Scaling of the rotary angles.
    pub(crate) rope_scaling: Option<RotaryFields>,
    /// Both of these, in newer files.
    pub(crate) rope_parameters: Option<RotaryParameters>,
    /// The fraction of a head's features that is rotated.
    pub(crate) partial_rotary_factor: Option<f64>,
    /// Whether the head is the table of the token embeddings.
    pub(crate) tie_word_embeddings: bool,
    /// Dropout on attention weights, in training.
    pub(crate) attention_dropout: f64,
    /// Keys a query sees, itself included, in layers with a window.
    pub(crate) sliding_window: Option<usize>,
    /// What each layer sees: `full_attention` or `sliding_attention`.
    pub(crate) layer_types: Option<Vec<String>>,
    /// Id of the padding token.
    pub(crate) pad_token_id: Option<usize>,
    /// Biases in attention, where the family leaves the choice.
    #[serde(default)]
    pub(crate) attention_bias: bool,
    /// Biases in the feed-forward block, where the family leaves the choice.
    #[serde(default)]
    pub(crate) mlp_bias: bool,
}

/// The angles of a model's layers.
#[derive(Clone, Debug)]
pub(crate) struct Rotaries {
    /// Of layers that see the whole text, and of those with a window where these have none of their own.
    pub(crate) full: Rotary,
    /// Of layers with a window, where they have angles of their own.
    pub(crate) sliding: Option<Rotary>,
}

impl RotaryDecoderConfig {
    /// Heads of queries, of keys and values, and features of a head.
    pub(crate) fn heads(&self) -> [usize; 3] {
        let heads = self.num_attention_heads;
        let d_head = self.head_dim.unwrap_or(self.hidden_size / heads.max(1));
        [heads, self.num_key_value_heads.unwrap_or(heads), d_head]
    }

    /// Numbers in the matrices of all layers, where a layer has one feed-forward block; at most the largest number.
    pub(crate) fn layer_elements(&self) -> usize {
        let [heads, kv_heads, d_head] = self.heads();
        let attention = heads.saturating_add(kv_heads).saturating_mul(d_head).saturating_mul(2);
        let feed_forward = self.intermediate_size.saturating_mul(3);
        let of_a_layer = attention.saturating_add(feed_forward).saturating_mul(self.hidden_size);
        of_a_layer.saturating_mul(self.num_hidden_layers)
    }

    /// The window of each layer: in those that `layer_types` lists as `sliding_attention`, or without a list in those of which
    /// `slides` says so.
    pub(crate) fn windows(&self, window: Option<usize>, slides: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
        let sliding: Vec<bool> = match &self.layer_types {
            Some(types) => types.iter().map(|of_layer| of_layer == SLIDING).collect(),
            None => (0..self.num_hidden_layers).map(slides).collect(),
        };
        sliding.into_iter().map(|slides| window.filter(|_| slides)).collect()
    }

    /// Checks the sizes, before a family computes with them.
    pub(crate) fn check_sizes(&self, check: ConfigCheck<'_>) -> Result<(), ModelError> {
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
        check.layers([("num_hidden_layers", self.num_hidden_layers)])
    }

    /// Checks the values against each other and against what is computed here.
    pub(crate) fn check(&self, path: &Path, family: &Family) -> Result<(Activation, Rotaries), ModelError> {
        let check = ConfigCheck::new(path);
        let [heads, kv_heads, _] = self.heads();
        let expected = format!("a divisor of num_attention_heads = {heads}");
        check.require(
            heads.is_multiple_of(kv_heads),
            "num_key_value_heads",
            expected,
            kv_heads,
        )?;
        check.dropouts([("attention_dropout", self.attention_dropout)])?;
        check.require(
            self.rms_norm_eps > 0.0,
            "rms_norm_eps",
            "a number above zero",
            self.rms_norm_eps,
        )?;
        let other = self
            .layer_types
            .iter()
            .flatten()
            .find(|of_layer| !LAYER_TYPES.contains(&of_layer.as_str()));
        let expected = "`full_attention` or `sliding_attention` for each layer";
        check.require(
            other.is_none(),
            "layer_types",
            expected,
            other.map_or("", String::as_str),
        )?;
        let of_layers = family.layers.len();
        let expected = format!("a type for each of num_hidden_layers = {}", self.num_hidden_layers);
        check.require(
            of_layers == self.num_hidden_layers,
            "layer_types",
            expected,
            format!("a list of {of_layers}"),
        )?;
        let windows: Vec<Option<usize>> = family.layers.iter().map(|layer| layer.window).collect();
        check.require(!windows.contains(&Some(0)), "sliding_window", "at least 1", 0)?;
        let (field, name) = (family.activation_field, &family.activation);
        Ok((check.activation(field, name)?, self.rotaries(check, family)?))
    }

    fn rotaries(&self, check: ConfigCheck<'_>, family: &Family) -> Result<Rotaries, ModelError> {
        let (full, sliding) = match &self.rope_parameters {
            Some(RotaryParameters::All(fields)) => (Some(fields), None),
            Some(RotaryParameters::ByLayer {
                full_attention,
                sliding_attention,
            }) => (Some(full_attention), sliding_attention.as_ref()),
            None => (self.rope_scaling.as_ref(), None),
        };
        let sliding = match (sliding, family.sliding_theta) {
            (Some(fields), theta) => Some(self.rotary(check, Some(fields), theta.unwrap_or(self.rope_theta))?),
            (None, Some(theta)) => Some(self.rotary(check, None, theta)?),
            (None, None) => None,
        };
        let full = self.rotary(check, full, self.rope_theta)?;
        Ok(Rotaries { full, sliding })
    }

    fn rotary(&self, check: ConfigCheck<'_>, fields: Option<&RotaryFields>, theta: f64) -> Result<Rotary, ModelError> {
        let fraction = fields.and_then(|fields| fields.partial_rotary_factor);
        let fraction = fraction.or(self.partial_rotary_factor).unwrap_or(1.0);
        let expected = "a fraction above 0, at most 1";
        check.require(
            fraction > 0.0 && fraction <= 1.0,
            "partial_rotary_factor",
            expected,
            fraction,
        )?;
        let [_, _, d_head] = self.heads();
        let features = (d_head as f64 * fraction) as usize;
        let expected = "an even number of rotary features: they are rotated in pairs";
        let even = features > 0 && features.is_multiple_of(2);
        check.require(even, "head_dim, partial_rotary_factor", expected, features)?;
        let theta = fields.and_then(|fields| fields.rope_theta).unwrap_or(theta);
        check.require(theta > 1.0, "rope_theta", "a number above 1", theta)?;
        // Newer files have the original length among the parameters.
        let newer = fields.filter(|_| self.rope_parameters.is_some());
        let newer = newer.and_then(|fields| fields.original_max_position_embeddings);
        let around = Around {
            longest: self.max_position_embeddings,
            original: newer
                .map(|length| length as usize)
                .or(self.original_max_position_embeddings),
            features,
        };
        let scaling = fields.map_or(Ok(RotaryScaling::Default), |fields| fields.scaling(around));
        let scaling = scaling.map_err(|(field, expected, found)| check.refusal(field, expected, found))?;
        Ok(Rotary::new(features, theta, scaling))
    }
}

/// What `layer_types` calls a layer with a window.
const SLIDING: &str = "sliding_attention";

/// What `layer_types` may say.
const LAYER_TYPES: [&str; 2] = ["full_attention", SLIDING];
