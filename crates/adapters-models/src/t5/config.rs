//! The configuration of T5.

use crate::modeling::*;

/// `config.json` of a T5 checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct T5Config {
    /// Tokens in the vocabulary.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) d_model: usize,
    /// Width of an attention head.
    pub(crate) d_kv: usize,
    /// Width of the feed-forward block.
    pub(crate) d_ff: usize,
    /// Layers of the encoder.
    pub(crate) num_layers: usize,
    /// Layers of the decoder; without it as many as the encoder has.
    pub(crate) num_decoder_layers: Option<usize>,
    /// Attention heads.
    pub(crate) num_heads: usize,
    /// Kinds of distance the relative position bias tells apart.
    pub(crate) relative_attention_num_buckets: usize,
    /// From this distance on, all are of one kind.
    pub(crate) relative_attention_max_distance: usize,
    /// Dropout, in training.
    pub(crate) dropout_rate: f64,
    /// Epsilon of the normalizations.
    pub(crate) layer_norm_epsilon: f64,
    /// `relu`, `gated-gelu` and the like: the activation, and whether a gate goes with it.
    pub(crate) feed_forward_proj: String,
    /// Whether the language-model head is the embedding table.
    pub(crate) tie_word_embeddings: bool,
    /// Id of the padding token.
    pub(crate) pad_token_id: usize,
    /// Id the decoder starts with.
    pub(crate) decoder_start_token_id: usize,
}

impl Default for T5Config {
    /// The defaults of the published class (T5 small).
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".to_owned(),
            tie_word_embeddings: true,
            pad_token_id: 0,
            decoder_start_token_id: 0,
        }
    }
}

/// The variant of the feed-forward block that `feed_forward_proj` names.
#[derive(Clone, Copy, Debug)]
pub(super) struct FeedForwardVariant {
    pub(super) gated: bool,
    pub(super) activation: Activation,
}

impl T5Config {
    /// Layers of the decoder.
    pub(crate) fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// Checks the values against each other and against what is computed here.
    pub(super) fn check(&self, path: &Path) -> Result<FeedForwardVariant, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_heads", self.num_heads),
        ])?;
        let decoder = ("num_decoder_layers", self.decoder_layers());
        check.layers([("num_layers", self.num_layers), decoder])?;
        // Half of them may be for keys after the query, and half of those are for small distances.
        let (buckets, distance) = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        );
        let field = "relative_attention_num_buckets";
        check.require((4..=1 << 16).contains(&buckets), field, "between 4 and 65536", buckets)?;
        let (field, expected) = (
            "relative_attention_max_distance",
            "above half of relative_attention_num_buckets",
        );
        check.require(distance > buckets / 2 && distance <= 1 << 24, field, expected, distance)?;
        check.dropouts([("dropout_rate", self.dropout_rate)])?;
        let epsilon = self.layer_norm_epsilon;
        check.require(epsilon > 0.0, "layer_norm_epsilon", "above 0", epsilon)?;
        let (gated, name) = match self.feed_forward_proj.strip_prefix("gated-") {
            Some(name) => (true, name),
            None => (false, self.feed_forward_proj.as_str()),
        };
        // The published gated checkpoints were trained with the tanh variant, whatever they call it.
        let name = if gated && name == "gelu" { "gelu_new" } else { name };
        Ok(FeedForwardVariant {
            gated,
            activation: check.activation("feed_forward_proj", name)?,
        })
    }
}
