//! The layer of the first transformer, under the names of a family: attention over its own positions, attention over an
//! encoder's output where the family has it, a feed-forward block, and a norm in front of each or behind.
//!
//! Paper: *Attention Is All You Need*, Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>.

use crate::attention::ProjectedAttention;
use crate::modeling::*;

/// What the layers of a stack have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StandardOptions {
    pub names: StandardNames,
    pub d_model: usize,
    pub heads: usize,
    /// Width of the feed-forward block.
    pub d_ffn: usize,
    pub activation: Activation,
    /// Whether norms come before the blocks, and not after their residual connections.
    pub norm_first: bool,
    pub norm_epsilon: f64,
    /// Of query, key, value and output projection.
    pub biases: [bool; 4],
    /// Dropout on the output of each block, in training.
    pub dropout: f64,
    /// Dropout on attention weights, in training.
    pub attention_dropout: f64,
    /// Dropout inside the feed-forward block, in training.
    pub activation_dropout: f64,
    /// Id of the padding token.
    pub filler: usize,
}

/// Names of the modules of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StandardNames {
    /// The attention's module; its projections are in it.
    pub attention: &'static str,
    /// Query, key, value and output projection.
    pub projections: [&'static str; 4],
    pub attention_norm: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub ffn_norm: &'static str,
}

impl StandardNames {
    /// Those of BART and its relatives.
    pub(crate) const BART: Self = Self {
        attention: "self_attn",
        projections: ["q_proj", "k_proj", "v_proj", "out_proj"],
        attention_norm: "self_attn_layer_norm",
        up: "fc1",
        down: "fc2",
        ffn_norm: "final_layer_norm",
    };
}

/// A layer.
#[derive(Module, Sites, Debug)]
pub(crate) struct StandardLayer {
    attention: NormedAttention,
    /// In a decoder.
    cross: Option<NormedAttention>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    ffn_norm: Sited<LayerNorm>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    norm_first: bool,
    dropout: f64,
    activation_dropout: f64,
    #[module(skip)]
    activation: Activation,
}

/// An attention with its norm and its residual connection.
#[derive(Module, Sites, Debug)]
struct NormedAttention {
    attention: ProjectedAttention,
    norm: Sited<LayerNorm>,
    after: Point<ResidualHook>,
    norm_first: bool,
    dropout: f64,
}

impl StandardLayer {
    /// The layer at `at`, whose path has no module where a block joins the residual stream: the names there are those of
    /// AdapterHub. A layer of a decoder reads an encoder's output.
    pub(crate) fn build(options: &StandardOptions, mut at: Scope<'_>) -> Self {
        let (names, d, ffn) = (options.names, options.d_model, options.d_ffn);
        let stack = at.location().stack;
        Self {
            attention: NormedAttention::build(options, stack, &mut at),
            cross: (stack == Stack::Decoder).then(|| NormedAttention::build(options, Stack::Cross, &mut at)),
            up: at.linear(LinearRole::FfnUp, names.up, [d, ffn]),
            down: at.linear(LinearRole::FfnDown, names.down, [ffn, d]),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, names.ffn_norm, d, options.norm_epsilon),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
            output: at.layer_output(d),
            norm_first: options.norm_first,
            dropout: options.dropout,
            activation_dropout: options.activation_dropout,
            activation: options.activation,
        }
    }
}

impl NormedAttention {
    /// That of the layer at `at` over itself, or over the encoder's output.
    fn build(options: &StandardOptions, stack: Stack, at: &mut Scope<'_>) -> Self {
        let (names, d) = (options.names, options.d_model);
        let (name, norm, after, path) = match stack {
            Stack::Cross => (
                "encoder_attn",
                "encoder_attn_layer_norm",
                ResidualRole::AfterCrossAttention,
                "cross_attention_adapters",
            ),
            Stack::Encoder | Stack::Decoder => (
                names.attention,
                names.attention_norm,
                ResidualRole::AfterAttention,
                "attention_adapters",
            ),
        };
        let after = at.residual(after, path, d);
        let location = Location { stack, ..at.location() };
        let numbers = AttentionOptions::new(d / options.heads, options.attention_dropout, options.filler);
        let mut inside = at.within_at(location, name);
        let sizes = [d, options.heads];
        Self {
            attention: ProjectedAttention::build(names.projections, options.biases, sizes, numbers, &mut inside),
            norm: at
                .within_at(location, "")
                .layer_norm(NormRole::AttentionNorm, norm, d, options.norm_epsilon),
            after,
            norm_first: options.norm_first,
            dropout: options.dropout,
        }
    }

    /// Attention over the layer's own positions, or those of `slot.encoded`, and the residual connection.
    fn forward(&self, x: Tensor<3>, mask: &Option<Tensor<4>>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (read, behind) = placed(&self.norm, self.norm_first, &x, cx);
        let attended = self.attention.forward(read, mask.clone(), slot, |state| state, cx);
        let attended = cx.dropout(attended, self.dropout);
        cx.residual(&self.after, attended, x, behind)
    }
}

/// What a block reads, and the norm after its residual connection, if it is there.
fn placed<'n>(
    norm: &'n Sited<LayerNorm>,
    first: bool,
    x: &Tensor<3>,
    cx: &mut Hooks<'_>,
) -> (Tensor<3>, Option<&'n Sited<LayerNorm>>) {
    match first {
        true => (cx.norm(norm, x.clone()), None),
        false => (x.clone(), Some(norm)),
    }
}

impl Block for StandardLayer {
    /// What queries may see of their own stack, and of the encoder's output.
    type Frame = [Option<Tensor<4>>; 2];

    fn forward(&self, x: Tensor<3>, [own, encoded]: &Self::Frame, mut slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let mut x = self.attention.forward(x, own, slot.own(), cx);
        if let Some(cross) = &self.cross {
            x = cross.forward(x, encoded, slot, cx);
        }
        let (read, behind) = placed(&self.ffn_norm, self.norm_first, &x, cx);
        let up = self.activation.forward(cx.linear(&self.up, read));
        let up = cx.dropout(up, self.activation_dropout);
        let down = cx.linear(&self.down, up);
        let down = cx.dropout(down, self.dropout);
        let x = cx.residual(&self.after_ffn, down, x, behind);
        cx.output(&self.output, x)
    }
}
