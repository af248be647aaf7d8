//! The hooks a model calls at its sites.

use std::fmt::Debug;
use std::sync::Arc;

use adapters_sites::{
    EmbeddingHook, GroupedConvolution, KeyValueHook, Matrices, OutputHook, Point, ResidualHook, Site, Sited,
};
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::{Bool, Int, Tensor};

use crate::method::site_layer::SiteState;
use crate::pass::call::Pass;
use crate::pass::compose::At;
use crate::pass::plan::Plan;
use crate::pass::state::{
    AnyNorm, ConvolutionState, EmbeddingState, HiddenState, Join, KeyValueState, LinearState, MatricesState, NormState,
    OutputState, TableState,
};
use adapters_nn::{NormWeight, Normalization, ops};

/// The hooks of a pass that has begun; [`Ctx::begin`](crate::Ctx::begin) returns them.
///
/// At a site where no adapter acts a hook is the plain operation, and copies nothing.
#[derive(Debug, Default)]
pub struct Hooks<'a> {
    /// Which adapters act where; `None` where none is active.
    pub(super) plan: Option<Plan<'a>>,
    pub(super) pass: Pass,
    pub(super) first_position: usize,
}

impl<'a> Hooks<'a> {
    /// Hooks without an adapter, in this pass.
    pub fn plain(pass: Pass) -> Self {
        Self {
            pass,
            ..Self::default()
        }
    }

    /// What everything in this pass is told.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// The model's own dropout; see [`Pass::dropout`].
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, prob: f64) -> Tensor<D> {
        self.pass.dropout(x, prob)
    }

    /// The position of the first token: how many positions the active adapters count as taken before it. A model adds it
    /// to the positions of its tokens.
    pub fn first_position(&self) -> usize {
        self.first_position
    }

    /// Goes on with the next stack of the model, in the same pass: from here on, adapters are told about this padding,
    /// `[batch, seq]`, and nothing is inserted yet.
    pub fn next_stack(&mut self, padding: Option<Tensor<2, Bool>>) {
        self.pass.padding = padding;
        self.pass.past = 0;
        self.pass.inserted.clear();
    }

    /// A linear layer: `layer(x)` and what the adapters add.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_in] -> [batch, seq, d_out]`
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `x` is not `d_in`.
    pub fn linear(&mut self, layer: &Sited<Linear>, x: Tensor<3>) -> Tensor<3> {
        self.linear_at(layer.site(), layer, x)
    }

    /// The linear layer that a model has at a site, where it is used outside the model's own pass: see [`linear`](Self::linear).
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `x` is not `d_in`.
    pub fn linear_at(&mut self, site: Site, layer: &Linear, x: Tensor<3>) -> Tensor<3> {
        match self.at(site) {
            None => ops::linear(layer, x),
            Some(at) => {
                let [batch, seq, _] = x.dims();
                at.run(LinearState {
                    tokens: self.pass.tokens_of([batch, seq]),
                    earlier: self.pass.earlier.clone().filter(|earlier| earlier.dims()[0] == batch),
                    input: x,
                    layer: layer.clone(),
                    delta: None,
                })
            }
        }
    }

    /// Whether no adapter acts at a linear layer, so that its hook is the frozen layer alone.
    pub fn is_plain(&self, layer: &Sited<Linear>) -> bool {
        self.at::<LinearState>(layer.site()).is_none()
    }

    /// A normalization, with its own parameters or those of an adapter.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]` to the same.
    pub fn norm<N: Normalization>(&mut self, norm: &Sited<N>, x: Tensor<3>) -> Tensor<3> {
        match self.adapted_norm(norm) {
            None => norm.normalize(x),
            Some(adapted) => adapted.normalize(x),
        }
    }

    /// The normalization with the parameters of an adapter; `None` where none acts.
    fn adapted_norm<N: Normalization>(&self, norm: &Sited<N>) -> Option<N> {
        let at = self.at(norm.site())?;
        let NormWeight { weight, bias } = norm.parameters();
        let NormState { weight, bias } = at.run(NormState { weight, bias });
        Some(N::clone(norm).with_parameters(NormWeight { weight, bias }))
    }

    /// Matrices in one parameter, with what adapters add to them, `[count, rows, cols]`.
    pub fn matrices(&self, matrices: &Sited<Matrices>) -> Tensor<3> {
        let weight = matrices.weight.val();
        match self.at(matrices.site()) {
            None => weight,
            Some(at) => at.run(MatricesState { weight }).weight,
        }
    }

    /// A convolution in groups: what it makes of `x`, and what the adapters add.
    ///
    /// # Shapes
    ///
    /// `[batch, channels, seq] -> [batch, d_out, seq_out]`
    ///
    /// # Panics
    ///
    /// As [`GroupedConvolution::forward`].
    pub fn convolution(&mut self, layer: &Sited<GroupedConvolution>, x: Tensor<3>) -> Tensor<3> {
        let output = layer.forward(x.clone());
        match self.at(layer.site()) {
            None => output,
            Some(at) => at.run(ConvolutionState {
                input: x,
                output,
                delta: None,
                zeros: layer.zeros,
            }),
        }
    }

    /// Rows of an embedding table.
    ///
    /// # Shapes
    ///
    /// `[batch, seq]` of indices to `[batch, seq, d_model]`
    ///
    /// # Panics
    ///
    /// Panics on an index outside the table.
    pub fn lookup(&mut self, table: &Sited<Embedding>, ids: Tensor<2, Int>) -> Tensor<3> {
        let output = table.forward(ids.clone());
        match self.at(table.site()) {
            None => output,
            Some(at) => at.run(TableState {
                ids,
                output,
                delta: None,
            }),
        }
    }

    /// A normalization with its own parameters or those of an adapter, to be told to [`join`](Self::join).
    pub fn norm_here<N>(&self, norm: &Sited<N>) -> AnyNorm
    where
        N: Normalization + Debug + Send + Sync + 'static,
    {
        Arc::new(self.adapted_norm(norm).unwrap_or_else(|| N::clone(norm)))
    }

    /// A block joining the residual stream: `norm(hidden + residual)`, without `norm` in pre-LN models.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`, all three.
    pub fn residual(
        &mut self,
        point: &Point<ResidualHook>,
        hidden: Tensor<3>,
        residual: Tensor<3>,
        norm: Option<&Sited<LayerNorm>>,
    ) -> Tensor<3> {
        let join = norm.map_or(Join::Sum, |norm| Join::NormOfSum(self.norm_here(norm)));
        self.join(point, hidden, residual, join)
    }

    /// A block joining the residual stream in a way of its own.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`, all three.
    pub fn join(
        &mut self,
        point: &Point<ResidualHook>,
        hidden: Tensor<3>,
        residual: Tensor<3>,
        join: Join,
    ) -> Tensor<3> {
        self.join_reading(point, hidden, residual, None, join)
    }

    /// A block joining the residual stream, `hidden + residual`, where adapters read the `input` of the block in place of
    /// `residual`.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`, all four.
    pub fn residual_reading(
        &mut self,
        point: &Point<ResidualHook>,
        hidden: Tensor<3>,
        residual: Tensor<3>,
        input: Tensor<3>,
    ) -> Tensor<3> {
        self.join_reading(point, hidden, residual, Some(input), Join::Sum)
    }

    fn join_reading(
        &mut self,
        point: &Point<ResidualHook>,
        hidden: Tensor<3>,
        residual: Tensor<3>,
        input: Option<Tensor<3>>,
        join: Join,
    ) -> Tensor<3> {
        match self.at(point.site()) {
            None => join.close(hidden, residual),
            Some(at) => at.run(HiddenState {
                block: hidden.clone(),
                hidden,
                residual,
                input,
                inner: None,
                join,
                fused: false,
                addition: None,
            }),
        }
    }

    /// Whether rows of the batch see different adapters.
    pub fn chooses_by_row(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.groups.len() > 1)
    }

    /// Keys and values of an attention, after position encoding: those of the whole sequence, past included.
    ///
    /// # Shapes
    ///
    /// `[batch, heads, seq_k, d_head]`; an adapter may make `seq_k` longer, and the bias with it.
    pub fn key_value(&mut self, point: &Point<KeyValueHook>, state: KeyValueState) -> KeyValueState {
        match self.at(point.site()) {
            None => state,
            Some(at) => at.run(state),
        }
    }

    /// Embedded tokens, before the first layer; an adapter may make `seq` longer. From there on the model goes by what
    /// comes back, and [`Pass::padding`], [`Pass::inserted`] and [`Pass::past`] by it too.
    ///
    /// A model with positions or a normalization between its token table and its first layer calls this twice, with one
    /// state: at [`Role::EmbeddedTokens`](crate::Role::EmbeddedTokens) and at [`Role::Embedding`](crate::Role::Embedding).
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`
    pub fn embedding(&mut self, point: &Point<EmbeddingHook>, state: EmbeddingState) -> EmbeddingState {
        let before = state.inserted.len();
        let state = match self.at(point.site()) {
            None => state,
            Some(at) => at.run(state),
        };
        self.pass.past = state.past;
        self.pass.carried.clone_from(&state.carried);
        if state.inserted.len() > before {
            self.pass.padding = state.padding.clone();
            self.pass.inserted = state.inserted.clone();
        }
        state
    }

    /// A hidden state as a whole: what enters or leaves a layer, or what enters the language-model head.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, d_model]`
    pub fn output(&mut self, point: &Point<OutputHook>, hidden: Tensor<3>) -> Tensor<3> {
        let Some(at) = self.at(point.site()) else {
            return hidden;
        };
        let state = at.run(OutputState {
            hidden,
            padding: self.pass.padding.clone(),
            carried: self.pass.carried.clone(),
        });
        self.pass.carried = state.carried;
        state.hidden
    }

    /// What an adapter takes along next to the hidden state, from layer to layer. A model hands it from block to block, so that
    /// a block that is computed again has it.
    pub fn take_carried(&mut self) -> Option<Tensor<3>> {
        self.pass.carried.take()
    }

    /// Goes on with what [`take_carried`](Self::take_carried) returned.
    pub fn carry(&mut self, carried: Option<Tensor<3>>) {
        self.pass.carried = carried;
    }

    /// The hidden state that enters the language-model head, after what adapters did to the embeddings at `site` is
    /// undone.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, d_model]`
    pub fn before_lm_head(&mut self, site: Site, hidden: Tensor<3>) -> Tensor<3> {
        match self.at::<EmbeddingState>(site) {
            None => hidden,
            Some(at) => at.undo(hidden),
        }
    }

    /// The site, if an active adapter has a layer of this kind there.
    fn at<S: SiteState>(&self, site: Site) -> Option<At<'_, 'a, S>> {
        At::new(self.plan.as_ref()?, site, &self.pass)
    }
}
