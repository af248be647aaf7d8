//! The layer of the first transformer, under the names of a family: attention over its own positions, attention over an
//! encoder's output where the family has it, a feed-forward block, and a norm in front of each or behind.
//!
//! Paper: *Attention Is All You Need*, Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>.

use crate::distance_scores::DistanceOptions;
use crate::modeling::*;

/// What the layers of a stack have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StandardOptions {
    pub(crate) names: StandardNames,
    pub(crate) d_model: usize,
    pub(crate) heads: usize,
    /// Width of the feed-forward block.
    pub(crate) d_ffn: usize,
    /// Whether the first projection of the feed-forward block makes a gate, too, which is its first half.
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
    /// Whether norms come before the blocks, and not after their residual connections.
    pub(crate) norm_first: bool,
    pub(crate) norm_epsilon: f64,
    /// Of query, key, value and output projection.
    pub(crate) biases: [bool; 4],
    /// Dropout on the output of the attention and on that of the feed-forward block, in training.
    pub(crate) dropouts: [f64; 2],
    /// Dropout on attention weights, in training.
    pub(crate) attention_dropout: f64,
    /// Dropout inside the feed-forward block, in training.
    pub(crate) activation_dropout: f64,
    /// Probability that a row skips a block, in training.
    pub(crate) drop_path: f64,
    /// Probability that a batch skips the layer, in training.
    pub(crate) layer_drop: f64,
    /// Id of the padding token.
    pub(crate) filler: usize,
    /// Scores of distances in the attention over the layer's own positions; `None` for none.
    pub(crate) distances: Option<DistanceOptions>,
}

impl StandardOptions {
    /// What most families have: the names of BART, norms in front of the blocks, biases everywhere, and nothing that drops out;
    /// `[d_model, heads, d_ffn]`.
    pub(crate) const fn of([d_model, heads, d_ffn]: [usize; 3], activation: Activation) -> Self {
        Self {
            names: StandardNames::BART,
            d_model,
            heads,
            d_ffn,
            gated: false,
            activation,
            norm_first: true,
            norm_epsilon: 1e-5,
            biases: [true; 4],
            dropouts: [0.0; 2],
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            drop_path: 0.0,
            layer_drop: 0.0,
            filler: 0,
            distances: None,
        }
    }
}

/// Names of the modules of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StandardNames {
    /// The attention's module; its projections are in it.
    pub(crate) attention: &'static str,
    /// Query, key, value and output projection.
    pub(crate) projections: [&'static str; 4],
    /// Where keys and values are, in the attention.
    pub(crate) key_value: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) ffn_norm: &'static str,
    /// The module of the attention over an encoder's output, and its norm.
    pub(crate) cross: [&'static str; 2],
    /// Whether the attention over an encoder's output joins the residual stream in the role of any attention.
    pub(crate) cross_is_attention: bool,
    /// Where the attention, that over an encoder's output and the feed-forward block join the residual stream.
    pub(crate) after: [&'static str; 3],
    /// Factors of each feature of the attention's output and of that of the feed-forward block.
    pub(crate) scales: Option<[&'static str; 2]>,
}

impl StandardNames {
    /// Those of BART and its relatives.
    pub(crate) const BART: Self = Self {
        attention: "self_attn",
        projections: ["q_proj", "k_proj", "v_proj", "out_proj"],
        key_value: "",
        attention_norm: "self_attn_layer_norm",
        up: "fc1",
        down: "fc2",
        ffn_norm: "final_layer_norm",
        cross: ["encoder_attn", "encoder_attn_layer_norm"],
        cross_is_attention: false,
        // AdapterHub's names: published checkpoints have no modules there.
        after: ["attention_adapters", "cross_attention_adapters", "output_adapters"],
        scales: None,
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
    end: BlockEnd,
    activation_dropout: f64,
    layer_drop: f64,
    gated: bool,
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
    end: BlockEnd,
}

/// What happens to the output of a block before it joins the residual stream.
#[derive(Module, Sites, Debug)]
struct BlockEnd {
    dropout: f64,
    drop_path: f64,
    /// Factors of each feature.
    scale: Option<Param<Tensor<1>>>,
}

impl BlockEnd {
    fn build(options: &StandardOptions, block: usize, at: &mut Scope<'_>) -> Self {
        let scale = options
            .names
            .scales
            .map(|names| at.tensor(names[block], [options.d_model]));
        Self {
            dropout: options.dropouts[block],
            drop_path: options.drop_path,
            scale,
        }
    }

    fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let mut x = cx.dropout(x, self.dropout);
        if let Some(scale) = &self.scale {
            x = x * scale.val().unsqueeze();
        }
        match self.drop_path > 0.0 {
            true => {
                let kept = Tensor::ones([x.dims()[0], 1, 1], &x.device().inner());
                x * cx.dropout(kept, self.drop_path)
            }
            false => x,
        }
    }
}

impl StandardLayer {
    /// The layer at `at`. A layer of a decoder reads an encoder's output.
    pub(crate) fn build(options: &StandardOptions, mut at: Scope<'_>) -> Self {
        let (names, d, ffn) = (options.names, options.d_model, options.d_ffn);
        let stack = at.location().stack;
        Self {
            attention: NormedAttention::build(options, stack, &mut at),
            cross: (stack == Stack::Decoder).then(|| NormedAttention::build(options, Stack::Cross, &mut at)),
            up: at.linear(
                LinearRole::FfnUp,
                names.up,
                [d, if options.gated { 2 * ffn } else { ffn }],
            ),
            down: at.linear(LinearRole::FfnDown, names.down, [ffn, d]),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, names.ffn_norm, d, options.norm_epsilon),
            after_ffn: at.residual(ResidualRole::AfterFfn, names.after[2], d),
            output: at.layer_output(d),
            norm_first: options.norm_first,
            end: BlockEnd::build(options, 1, &mut at),
            activation_dropout: options.activation_dropout,
            layer_drop: options.layer_drop,
            gated: options.gated,
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
                names.cross[0],
                names.cross[1],
                ResidualRole::AfterCrossAttention,
                names.after[1],
            ),
            Stack::Encoder | Stack::Decoder | Stack::Image => (
                names.attention,
                names.attention_norm,
                ResidualRole::AfterAttention,
                names.after[0],
            ),
        };
        let location = Location { stack, ..at.location() };
        let after = match stack == Stack::Cross && names.cross_is_attention {
            true => at
                .within_at(location, "")
                .residual(ResidualRole::AfterAttention, path, d),
            false => at.residual(after, path, d),
        };
        let numbers = AttentionOptions {
            distances: options.distances.filter(|_| stack != Stack::Cross),
            ..AttentionOptions::new(d / options.heads, options.attention_dropout, options.filler)
        };
        let mut inside = at.within_at(location, name);
        let sizes = [d, options.heads];
        let projections = ProjectionNames {
            all: names.projections,
            key_value: names.key_value,
        };
        Self {
            attention: ProjectedAttention::build(projections, options.biases, sizes, numbers, &mut inside),
            norm: at
                .within_at(location, "")
                .layer_norm(NormRole::AttentionNorm, norm, d, options.norm_epsilon),
            after,
            norm_first: options.norm_first,
            end: BlockEnd::build(options, 0, at),
        }
    }

    /// Attention over the layer's own positions, or those of `slot.encoded`, and the residual connection.
    fn forward(&self, x: Tensor<3>, mask: &Option<Tensor<4>>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (read, behind) = normed(&self.norm, self.norm_first, &x, cx);
        let attended = self.attention.forward(read, mask.clone(), slot, |state| state, cx);
        let attended = self.end.forward(attended, cx);
        cx.residual(&self.after, attended, x, behind)
    }
}

/// What a block reads, and the norm after its residual connection, if it is there.
fn normed<'n>(
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
        let entered = x.clone();
        let mut x = self.attention.forward(x, own, slot.own(), cx);
        if let Some(cross) = &self.cross {
            x = cross.forward(x, encoded, slot, cx);
        }
        let (read, behind) = normed(&self.ffn_norm, self.norm_first, &x, cx);
        let up = cx.linear(&self.up, read);
        let up = match self.gated {
            true => {
                let half = up.dims()[2] / 2;
                let gate = up.clone().slice_dim(2, 0..half);
                self.activation.gated(gate, up.slice_dim(2, half..2 * half))
            }
            false => self.activation.forward(up),
        };
        let up = cx.dropout(up, self.activation_dropout);
        let down = cx.linear(&self.down, up);
        let down = self.end.forward(down, cx);
        let x = cx.residual(&self.after_ffn, down, x, behind);
        let x = cx.output(&self.output, x);
        match self.layer_drop > 0.0 && cx.pass().dropout.is_some() {
            true => {
                let drawn = cx.dropout(Tensor::ones([1, 1, 1], &x.device().inner()), self.layer_drop);
                let kept = drawn.clone().greater_elem(0.0).float();
                entered.clone() + (x - entered) * kept
            }
            false => x,
        }
    }
}
