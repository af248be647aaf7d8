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
    /// Whether adapters behind the attention take the residual stream for its output and the other way round.
    pub(crate) swaps_residual: bool,
    pub(crate) norm_epsilon: f64,
    /// Of query, key, value and output projection.
    pub(crate) biases: [bool; 4],
    /// Of the projections of the feed-forward block.
    pub(crate) ffn_bias: bool,
    /// Whether queries are computed after keys and values: gates are recorded in the order of the calls.
    pub(crate) query_last: bool,
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
            swaps_residual: false,
            norm_epsilon: 1e-5,
            biases: [true; 4],
            ffn_bias: true,
            query_last: false,
            dropouts: [0.0; 2],
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            drop_path: 0.0,
            layer_drop: 0.0,
            filler: 0,
            distances: None,
        }
    }

    /// Features of a head.
    pub(crate) const fn d_head(&self) -> usize {
        self.d_model / self.heads
    }
}

/// Names of the modules of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StandardNames {
    /// The attention's module; its projections are in it.
    pub(crate) attention: &'static str,
    /// Query, key, value and output projection.
    pub(crate) projections: [&'static str; 4],
    /// Whether the published class lists key and value in front of the query.
    pub(crate) keys_first: bool,
    /// Where keys and values are, in the attention.
    pub(crate) key_value: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) ffn_norm: &'static str,
    /// The module of the attention over an encoder's output, and its norm; `None` in a decoder that reads none.
    pub(crate) cross: Option<[&'static str; 2]>,
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
        keys_first: true,
        key_value: "",
        attention_norm: "self_attn_layer_norm",
        up: "fc1",
        down: "fc2",
        ffn_norm: "final_layer_norm",
        cross: Some(["encoder_attn", "encoder_attn_layer_norm"]),
        cross_is_attention: false,
        // AdapterHub's names: published checkpoints have no modules there.
        after: ["attention_adapters", "cross_attention_adapters", "output_adapters"],
        scales: None,
    };

    /// Those of BERT and its relatives.
    pub(crate) const BERT: Self = Self {
        attention: "attention",
        projections: ["self.query", "self.key", "self.value", "output.dense"],
        keys_first: false,
        key_value: "self",
        attention_norm: "attention.output.LayerNorm",
        up: "intermediate.dense",
        down: "output.dense",
        ffn_norm: "output.LayerNorm",
        cross: Some(["crossattention", "crossattention.output.LayerNorm"]),
        cross_is_attention: true,
        after: ["attention.output", "crossattention.output", "output"],
        scales: None,
    };

    /// Those of ViT and its relatives.
    pub(crate) const VIT: Self = Self {
        attention: "attention",
        projections: ["attention.query", "attention.key", "attention.value", "output.dense"],
        keys_first: false,
        key_value: "attention",
        attention_norm: "layernorm_before",
        up: "intermediate.dense",
        down: "output.dense",
        ffn_norm: "layernorm_after",
        ..Self::BART
    };

    /// Names of the attention over a layer's own positions, its norm and its residual connection.
    const fn own(&self) -> [&'static str; 3] {
        [self.attention, self.attention_norm, self.after[0]]
    }

    /// Those of the attention over an encoder's output.
    fn encoded(&self) -> Option<[&'static str; 3]> {
        self.cross.map(|[attention, norm]| [attention, norm, self.after[1]])
    }
}

/// A layer.
#[derive(Module, Sites, Debug)]
pub struct StandardLayer {
    attention: NormedAttention,
    /// In a decoder that reads an encoder's output.
    cross: Option<NormedAttention>,
    feed_forward: FeedForwardBlock,
    output: Point<OutputHook>,
    layer_drop: f64,
}

/// An attention, and how it joins the residual stream.
#[derive(Module, Sites, Debug)]
pub(crate) struct NormedAttention {
    pub(crate) attention: Attention,
    pub(crate) output: AttentionOutput,
}

/// The output projection of an attention, and how it joins the residual stream.
#[derive(Module, Sites, Debug)]
pub(crate) struct AttentionOutput {
    pub(crate) projection: Sited<Linear>,
    pub(crate) residual: ResidualConnection,
}

/// The feed-forward block, and how it joins the residual stream.
#[derive(Module, Sites, Debug)]
pub(crate) struct FeedForwardBlock {
    up: Sited<Linear>,
    down: Sited<Linear>,
    pub(crate) residual: ResidualConnection,
    dropout: f64,
    gated: bool,
    #[module(skip)]
    activation: Activation,
}

/// Where a block `f` joins the residual stream `x`: `x + f(norm(x))` with the norm in front, `norm(x + f(x))` with the norm behind.
#[derive(Module, Sites, Debug)]
pub(crate) struct ResidualConnection {
    pub(crate) norm: Sited<LayerNorm>,
    pub(crate) point: Point<ResidualHook>,
    norm_first: bool,
    swaps_residual: bool,
    dropout: f64,
    drop_path: f64,
    /// Factors of each feature.
    scale: Option<Param<Tensor<1>>>,
}

impl ResidualConnection {
    /// That of the attention, block 0, or of the feed-forward block, block 1.
    fn build(
        options: &StandardOptions,
        block: usize,
        (norm, point): (Sited<LayerNorm>, Point<ResidualHook>),
        at: &mut Scope<'_>,
    ) -> Self {
        let scale = options
            .names
            .scales
            .map(|names| at.tensor(names[block], [options.d_model]));
        Self {
            norm,
            point,
            norm_first: options.norm_first,
            swaps_residual: options.swaps_residual && block == 0,
            dropout: options.dropouts[block],
            drop_path: options.drop_path,
            scale,
        }
    }

    /// What the block reads of the residual stream.
    pub(crate) fn enter(&self, x: &Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        match self.norm_first {
            true => cx.norm(&self.norm, x.clone()),
            false => x.clone(),
        }
    }

    /// What of the block's output joins the residual stream.
    pub(crate) fn leave(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
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

    /// The residual stream `x` behind the block with this output.
    fn join(&self, output: Tensor<3>, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (hidden, residual) = match (self.leave(output, cx), self.swaps_residual) {
            (output, false) => (output, x),
            (output, true) => (x, output),
        };
        let behind = (!self.norm_first).then_some(&self.norm);
        cx.residual(&self.point, hidden, residual, behind)
    }
}

impl AttentionOutput {
    /// That of the attention over the layer's own positions.
    pub(crate) fn build(options: &StandardOptions, at: &mut Scope<'_>) -> Self {
        Self::of(options, (at.location().stack, options.names.own()), at)
    }

    /// That of an attention of this stack, with its names and those of its norm and its residual connection.
    fn of(options: &StandardOptions, (stack, [name, norm, path]): (Stack, [&str; 3]), at: &mut Scope<'_>) -> Self {
        let (names, d) = (options.names, options.d_model);
        let location = Location { stack, ..at.location() };
        let mut inside = at.within_at(location, name);
        let [.., output] = names.projections;
        let projection = inside.linear_with(options.biases[3], LinearRole::AttentionOutput, output, [d, d]);
        let mut here = at.within_at(location, "");
        let norm = here.layer_norm(NormRole::AttentionNorm, norm, d, options.norm_epsilon);
        let point = match (stack == Stack::Cross, names.cross_is_attention) {
            (true, true) => here.residual(ResidualRole::AfterAttention, path, d),
            (true, false) => at.residual(ResidualRole::AfterCrossAttention, path, d),
            (false, _) => at.residual(ResidualRole::AfterAttention, path, d),
        };
        Self {
            projection,
            residual: ResidualConnection::build(options, 0, (norm, point), at),
        }
    }

    /// The residual stream `x` behind an attention that returned `attended`.
    pub(crate) fn forward(&self, attended: Tensor<3>, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let projected = cx.linear(&self.projection, attended);
        self.residual.join(projected, x, cx)
    }
}

impl NormedAttention {
    /// That over the layer's own positions.
    pub(crate) fn build(options: &StandardOptions, at: &mut Scope<'_>) -> Self {
        Self::of(options, (at.location().stack, options.names.own()), at)
    }

    /// As [`AttentionOutput::of`].
    fn of(options: &StandardOptions, (stack, all): (Stack, [&str; 3]), at: &mut Scope<'_>) -> Self {
        let (names, [name, ..]) = (options.names, all);
        let numbers = AttentionOptions {
            distances: options.distances.filter(|_| stack != Stack::Cross),
            query_last: options.query_last,
            keys_first: names.keys_first,
            ..AttentionOptions::new(options.d_head(), options.attention_dropout, options.filler)
        };
        let ([query, key, value, _], [of_query, of_key, of_value, _]) = (names.projections, options.biases);
        let mut inside = at.within_at(Location { stack, ..at.location() }, name);
        Self {
            attention: Attention::build(
                [query, key, value],
                names.key_value,
                [of_query, of_key, of_value],
                [options.d_model, options.heads],
                numbers,
                &mut inside,
            ),
            output: AttentionOutput::of(options, (stack, all), at),
        }
    }

    /// Attention over the layer's own positions, or those of `slot.encoded`, and the residual connection.
    fn forward(&self, x: Tensor<3>, mask: &Option<Tensor<4>>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let read = self.output.residual.enter(&x, cx);
        let attended = self.attention.forward(read, mask.clone(), slot, |state| state, cx);
        self.output.forward(attended, x, cx)
    }
}

impl FeedForwardBlock {
    /// That of the layer at `at`.
    pub(crate) fn build(options: &StandardOptions, at: &mut Scope<'_>) -> Self {
        let (names, d, ffn, bias) = (options.names, options.d_model, options.d_ffn, options.ffn_bias);
        let width = if options.gated { 2 * ffn } else { ffn };
        let up = at.linear_with(bias, LinearRole::FfnUp, names.up, [d, width]);
        let down = at.linear_with(bias, LinearRole::FfnDown, names.down, [ffn, d]);
        let norm = at.layer_norm(NormRole::FfnNorm, names.ffn_norm, d, options.norm_epsilon);
        let point = at.residual(ResidualRole::AfterFfn, names.after[2], d);
        Self {
            up,
            down,
            residual: ResidualConnection::build(options, 1, (norm, point), at),
            dropout: options.activation_dropout,
            gated: options.gated,
            activation: options.activation,
        }
    }

    /// What the two projections make of what they read.
    pub(crate) fn feed(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let up = cx.linear(&self.up, x);
        let up = match self.gated {
            true => {
                let half = up.dims()[2] / 2;
                let gate = up.clone().slice_dim(2, 0..half);
                self.activation.gated(gate, up.slice_dim(2, half..2 * half))
            }
            false => self.activation.forward(up),
        };
        let up = cx.dropout(up, self.dropout);
        cx.linear(&self.down, up)
    }

    /// The residual stream behind the block.
    pub(crate) fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let read = self.residual.enter(&x, cx);
        let fed = self.feed(read, cx);
        self.residual.join(fed, x, cx)
    }
}

impl StandardLayer {
    /// The layer at `at`.
    pub(crate) fn build(options: &StandardOptions, mut at: Scope<'_>) -> Self {
        let is_decoder = at.location().stack == Stack::Decoder;
        let encoded = options.names.encoded().filter(|_| is_decoder);
        Self {
            attention: NormedAttention::build(options, &mut at),
            cross: encoded.map(|names| NormedAttention::of(options, (Stack::Cross, names), &mut at)),
            feed_forward: FeedForwardBlock::build(options, &mut at),
            output: at.layer_output(options.d_model),
            layer_drop: options.layer_drop,
        }
    }

    /// `count` layers of a stack, the first of which has the path `{path}.0`.
    pub(crate) fn stack(
        options: &StandardOptions,
        (stack, path): (Stack, &str),
        count: usize,
        weights: &mut Weights,
    ) -> Vec<Self> {
        let at = |index| Location::layer(stack, index);
        (0..count)
            .map(|index| Self::build(options, weights.at(at(index), format!("{path}.{index}"))))
            .collect()
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
        let x = self.feed_forward.forward(x, cx);
        let x = cx.output(&self.output, x);
        match cx.pass().kept([1, 1, 1], self.layer_drop, &x.device()) {
            Some(kept) => entered.clone() + (x - entered) * kept,
            None => x,
        }
    }
}
