//! The layer of BERT and its relatives: attention and a feed-forward block, each joined to the residual stream by a
//! normalization behind it.
//!
//! [`PostNormBlocks`] stand alone, since DeBERTa and X-MOD put them around another attention or other norms; the layer of the first
//! transformer, in `standard_layer.rs`, has its norms behind or in front, and may read an encoder's output.

use crate::distance_scores::DistanceOptions;
use crate::modeling::*;

/// The output of the attention and the feed-forward block, with a normalization behind each.
#[derive(Module, Sites, Debug)]
pub(crate) struct PostNormBlocks {
    pub(crate) attention_output: Sited<Linear>,
    pub(crate) attention_norm: Sited<LayerNorm>,
    pub(crate) after_attention: Point<ResidualHook>,
    pub(crate) up: Sited<Linear>,
    pub(crate) down: Sited<Linear>,
    pub(crate) ffn_norm: Sited<LayerNorm>,
    pub(crate) after_ffn: Point<ResidualHook>,
    pub(crate) output: Point<OutputHook>,
    pub(crate) attention_output_dropout: f64,
    pub(crate) ffn_dropout: f64,
    /// Whether adapters behind the attention take the residual stream for its output and the other way round.
    pub(crate) swaps_residual: bool,
    #[module(skip)]
    pub(crate) activation: Activation,
}

/// A layer with both.
#[derive(Module, Sites, Debug)]
pub struct PostNormLayer {
    attention: Attention,
    pub(crate) blocks: PostNormBlocks,
}

/// Published paths of a layer's modules, from the layer on.
#[derive(Clone, Copy, Debug)]
pub struct LayerNames {
    /// Query, key and value.
    pub projections: [&'static str; 3],
    /// The attention.
    pub key_value: &'static str,
    /// Output of the attention, its normalization, and where it joins the residual stream.
    pub attention: [&'static str; 3],
    /// First and second feed-forward projection, their normalization, and where they join the residual stream.
    pub feed_forward: [&'static str; 4],
}

/// The names in BERT, which most of its relatives have too.
pub(crate) const BERT_NAMES: LayerNames = LayerNames {
    projections: ["attention.self.query", "attention.self.key", "attention.self.value"],
    key_value: "attention.self",
    attention: [
        "attention.output.dense",
        "attention.output.LayerNorm",
        "attention.output",
    ],
    feed_forward: ["intermediate.dense", "output.dense", "output.LayerNorm", "output"],
};

/// The numbers of a layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerSizes {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward block.
    pub d_ffn: usize,
    /// Activation of the feed-forward block.
    pub activation: Activation,
    /// Epsilon of the normalizations.
    pub epsilon: f64,
    /// Dropout on attention weights, in training.
    pub attention_dropout: f64,
    /// Dropout on the attention's output, in training.
    pub attention_output_dropout: f64,
    /// Dropout on the output of the feed-forward block, in training.
    pub ffn_dropout: f64,
    /// Id of the padding token.
    pub pad_id: usize,
    /// Scores of distances in the attention; `None` for none.
    pub distances: Option<DistanceOptions>,
}

impl LayerSizes {
    /// Features of a head.
    pub fn d_head(&self) -> usize {
        self.d_model / self.heads
    }

    /// Attention of a layer over its own positions, with the layers of these names.
    pub(crate) fn attention(&self, names: &LayerNames, at: &mut Scope<'_>) -> Attention {
        let options = AttentionOptions {
            distances: self.distances,
            ..AttentionOptions::new(self.d_head(), self.attention_dropout, self.pad_id)
        };
        let sizes = [self.d_model, self.heads];
        Attention::build(names.projections, names.key_value, [true; 3], sizes, options, at)
    }
}

impl PostNormBlocks {
    /// With the layers of these names.
    pub(crate) fn build(names: &LayerNames, sizes: &LayerSizes, at: &mut Scope<'_>) -> Self {
        let (d, ffn, eps) = (sizes.d_model, sizes.d_ffn, sizes.epsilon);
        let [attention_output, attention_norm, after_attention] = names.attention;
        let [up, down, ffn_norm, after_ffn] = names.feed_forward;
        Self {
            attention_output: at.linear(LinearRole::AttentionOutput, attention_output, [d, d]),
            attention_norm: at.layer_norm(NormRole::AttentionNorm, attention_norm, d, eps),
            after_attention: at.residual(ResidualRole::AfterAttention, after_attention, d),
            up: at.linear(LinearRole::FfnUp, up, [d, ffn]),
            down: at.linear(LinearRole::FfnDown, down, [ffn, d]),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, ffn_norm, d, eps),
            after_ffn: at.residual(ResidualRole::AfterFfn, after_ffn, d),
            output: at.layer_output(d),
            attention_output_dropout: sizes.attention_output_dropout,
            ffn_dropout: sizes.ffn_dropout,
            swaps_residual: false,
            activation: sizes.activation,
        }
    }

    /// What the layer returns for its input `x` and what the attention made of it, all `[batch, seq, d_model]`.
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    pub(crate) fn forward(&self, attended: Tensor<3>, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (hidden, residual) = match (self.attention_output(attended, cx), self.swaps_residual) {
            (attended, false) => (attended, x),
            (attended, true) => (x, attended),
        };
        let x = cx.residual(&self.after_attention, hidden, residual, Some(&self.attention_norm));
        let fed = self.feed(x.clone(), cx);
        let x = cx.residual(&self.after_ffn, fed, x, Some(&self.ffn_norm));
        cx.output(&self.output, x)
    }

    /// The output projection of the attention.
    pub(crate) fn attention_output(&self, attended: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let projected = cx.linear(&self.attention_output, attended);
        cx.dropout(projected, self.attention_output_dropout)
    }

    /// The feed-forward block before its residual connection.
    pub(crate) fn feed(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let up = cx.linear(&self.up, x);
        let down = cx.linear(&self.down, self.activation.forward(up));
        cx.dropout(down, self.ffn_dropout)
    }
}

impl PostNormLayer {
    /// With the layers of these names.
    pub fn build(names: &LayerNames, sizes: &LayerSizes, mut at: Scope<'_>) -> Self {
        Self {
            attention: sizes.attention(names, &mut at),
            blocks: PostNormBlocks::build(names, sizes, &mut at),
        }
    }

    /// `count` layers of an encoder, the first of which has the path `{path}.0`.
    pub fn stack(names: &LayerNames, sizes: &LayerSizes, path: &str, count: usize, weights: &mut Weights) -> Vec<Self> {
        let at = |index| Location::layer(Stack::Encoder, index);
        (0..count)
            .map(|index| Self::build(names, sizes, weights.at(at(index), format!("{path}.{index}"))))
            .collect()
    }
}

impl Block for PostNormLayer {
    /// The bias of padding, `[batch, 1, 1, seq]`.
    type Frame = Option<Tensor<4>>;

    fn forward(&self, x: Tensor<3>, bias: &Option<Tensor<4>>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let attended = self.attention.forward(x.clone(), bias.clone(), slot, |state| state, cx);
        self.blocks.forward(attended, x, cx)
    }
}
