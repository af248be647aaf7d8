//! An encoder and a decoder of the layers of the first transformer, as BART and Whisper have them: the published fields that both
//! families share, and the layers of a stack.

use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardOptions};

/// That of all norms of both families: no configuration has another.
pub(crate) const NORM_EPSILON: f64 = 1e-5;

/// The fields that the configurations of both families have.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct StacksConfig {
    pub(crate) vocab_size: usize,
    pub(crate) d_model: usize,
    pub(crate) encoder_layers: usize,
    pub(crate) encoder_attention_heads: usize,
    pub(crate) encoder_ffn_dim: usize,
    pub(crate) decoder_layers: usize,
    pub(crate) decoder_attention_heads: usize,
    pub(crate) decoder_ffn_dim: usize,
    pub(crate) activation_function: String,
    pub(crate) dropout: f64,
    pub(crate) attention_dropout: f64,
    pub(crate) activation_dropout: f64,
    pub(crate) pad_token_id: usize,
    pub(crate) decoder_start_token_id: usize,
}

impl StacksConfig {
    /// Checks the values against each other; the activation.
    pub(crate) fn check(&self, check: &ConfigCheck<'_>) -> Result<Activation, ModelError> {
        let heads = [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ];
        check.sizes(heads)?;
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
        ])?;
        let layers = ("encoder_layers", self.encoder_layers);
        check.layers([layers, ("decoder_layers", self.decoder_layers)])?;
        for heads in heads {
            check.multiple(("d_model", self.d_model), heads)?;
        }
        check.dropouts([
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
        ])?;
        check.activation("activation_function", &self.activation_function)
    }

    /// What the layers of a stack have in common, with norms in front of the blocks.
    pub(crate) fn options(&self, stack: Stack, activation: Activation) -> StandardOptions {
        let [heads, d_ffn] = match stack {
            Stack::Encoder | Stack::Image => [self.encoder_attention_heads, self.encoder_ffn_dim],
            Stack::Decoder | Stack::Cross => [self.decoder_attention_heads, self.decoder_ffn_dim],
        };
        StandardOptions {
            norm_epsilon: NORM_EPSILON,
            dropouts: [self.dropout; 2],
            attention_dropout: self.attention_dropout,
            activation_dropout: self.activation_dropout,
            filler: self.pad_token_id,
            ..StandardOptions::of([self.d_model, heads, d_ffn], activation)
        }
    }

    /// The layers of a stack. Those of the decoder are counted behind those of the encoder.
    pub(crate) fn layers(&self, options: &StandardOptions, stack: Stack, weights: &mut Weights) -> Vec<StandardLayer> {
        let (first, count) = match stack {
            Stack::Encoder | Stack::Image => (0, self.encoder_layers),
            Stack::Decoder | Stack::Cross => (self.encoder_layers, self.decoder_layers),
        };
        let layers = (0..count).map(|index| {
            let path = format!("{}.layers.{index}", name(stack));
            StandardLayer::build(options, weights.at(Location::layer(stack, first + index), path))
        });
        layers.collect()
    }
}

/// The module of a stack.
pub(crate) fn name(stack: Stack) -> &'static str {
    match stack {
        Stack::Encoder | Stack::Image => "encoder",
        Stack::Decoder | Stack::Cross => "decoder",
    }
}
