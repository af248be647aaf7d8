//! The configuration of ModernBERT.

use std::path::Path;

use adapters_nn::ops::Activation;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checkpoint_folder::object;
use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::rotary::Rotary;
use crate::rotary_scaling::{Around, RotaryFields};
use crate::transformer::{MaskedLmLayout, ModelInfo};

/// `config.json` of a ModernBERT checkpoint: the fields that change what is computed.
#[derive(Debug, Deserialize)]
pub(crate) struct ModernBertConfig {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) hidden_activation: String,
    pub(crate) max_position_embeddings: usize,
    pub(crate) norm_eps: f64,
    pub(crate) norm_bias: bool,
    pub(crate) pad_token_id: usize,
    /// Base of the angles in layers that attend to everything.
    pub(crate) global_rope_theta: f64,
    /// Base of the angles in the others; the same without it.
    pub(crate) local_rope_theta: Option<f64>,
    /// How the angles of both are scaled.
    pub(crate) rope_scaling: Option<RotaryFields>,
    /// In newer files, the angles of both kinds of layers.
    pub(crate) rope_parameters: Option<RotaryOfLayers>,
    /// Every so many layers one attends to everything, the first among them.
    pub(crate) global_attn_every_n_layers: usize,
    /// In newer files, the kind of each layer.
    pub(crate) layer_types: Option<Vec<LayerType>>,
    /// Width of the neighborhood.
    pub(crate) local_attention: usize,
    pub(crate) attention_bias: bool,
    pub(crate) attention_dropout: f64,
    pub(crate) embedding_dropout: f64,
    pub(crate) mlp_bias: bool,
    pub(crate) mlp_dropout: f64,
    /// Whether the last layer of the masked language model has a bias.
    pub(crate) decoder_bias: bool,
    /// Of the layer before it.
    pub(crate) classifier_bias: bool,
    pub(crate) classifier_activation: String,
    pub(crate) classifier_dropout: f64,
    /// What the class for a class of a whole text reads.
    pub(crate) classifier_pooling: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RotaryOfLayers {
    pub(crate) full_attention: RotaryFields,
    pub(crate) sliding_attention: RotaryFields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LayerType {
    FullAttention,
    SlidingAttention,
}

/// The defaults of the published class.
pub(crate) fn defaults() -> Map<String, Value> {
    object(json!({
        "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
        "num_attention_heads": 12, "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5,
        "norm_bias": false, "pad_token_id": 50283, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
        "rope_scaling": null, "rope_parameters": null, "global_attn_every_n_layers": 3, "layer_types": null,
        "local_attention": 128, "attention_bias": false, "attention_dropout": 0.0, "embedding_dropout": 0.0,
        "mlp_bias": false, "mlp_dropout": 0.0, "decoder_bias": true, "classifier_bias": false,
        "classifier_activation": "gelu", "classifier_dropout": 0.0, "classifier_pooling": "cls",
    }))
}

impl ModernBertConfig {
    /// Checks the values against each other.
    pub(crate) fn check(&self, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("global_attn_every_n_layers", self.global_attn_every_n_layers),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        let d_head = self.hidden_size / self.num_attention_heads;
        check.multiple(("hidden_size / num_attention_heads", d_head), ("2", 2))?;
        check.dropouts([
            ("attention_dropout", self.attention_dropout),
            ("embedding_dropout", self.embedding_dropout),
            ("mlp_dropout", self.mlp_dropout),
            ("classifier_dropout", self.classifier_dropout),
        ])?;
        let listed = self.layer_types.as_ref().map_or(self.num_hidden_layers, Vec::len);
        let expected = format!("num_hidden_layers = {} entries", self.num_hidden_layers);
        check.require(listed == self.num_hidden_layers, "layer_types", expected, listed)?;
        check.activation("hidden_activation", &self.hidden_activation)
    }

    /// The angles of layers that attend to everything, and of the others.
    pub(crate) fn rotary(&self, path: &Path) -> Result<[Rotary; 2], ModelError> {
        let plain = RotaryFields::default();
        let scaled = self.rope_scaling.as_ref().unwrap_or(&plain);
        let [global, local] = match &self.rope_parameters {
            Some(of) => [&of.full_attention, &of.sliding_attention],
            None => [scaled, scaled],
        };
        let thetas = [
            self.global_rope_theta,
            self.local_rope_theta.unwrap_or(self.global_rope_theta),
        ];
        let d_head = self.hidden_size / self.num_attention_heads;
        let around = Around {
            features: d_head,
            longest: self.max_position_embeddings,
            original: None,
        };
        let of = |(fields, name): (&RotaryFields, &'static str), theta: f64| {
            let refused = |(field, expected, found)| ConfigCheck::new(path).refusal(field, expected, found);
            let scaling = fields.scaling(around).map_err(refused)?;
            let (name, theta) = match fields.rope_theta {
                Some(theta) => ("rope_theta", theta),
                None => (name, theta),
            };
            ConfigCheck::new(path).require(theta > 1.0, name, "a number above 1", theta)?;
            Ok::<_, ModelError>(Rotary::new(d_head, theta, scaling))
        };
        let [global, local] = [(global, "global_rope_theta"), (local, "local_rope_theta")];
        Ok([of(global, thetas[0])?, of(local, thetas[1])?])
    }

    /// Whether a layer attends to the neighborhood alone.
    pub(crate) fn is_local(&self, layer: usize) -> bool {
        match &self.layer_types {
            Some(types) => types[layer] == LayerType::SlidingAttention,
            None => !layer.is_multiple_of(self.global_attn_every_n_layers),
        }
    }

    /// What heads, tokenizers and reports need.
    pub(crate) fn info(&self) -> ModelInfo {
        ModelInfo {
            num_layers: self.num_hidden_layers,
            max_length: Some(self.max_position_embeddings),
            vocab_size: self.vocab_size,
            pad_id: self.pad_token_id,
            token_types: None,
            head_norm_epsilon: self.norm_eps,
            head_dropout: self.classifier_dropout,
            activation: self.hidden_activation.clone(),
            masked_lm: Some(MaskedLmLayout {
                dense: "head.dense",
                norm: "head.norm",
                decoder: "decoder",
                bias: self.decoder_bias.then_some("decoder.bias"),
                activation: Some(self.classifier_activation.clone().into()),
                dense_bias: self.classifier_bias,
                norm_bias: self.norm_bias,
                below_tags: true,
            }),
        }
    }
}
