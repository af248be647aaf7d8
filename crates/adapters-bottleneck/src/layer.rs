//! The bottleneck layer.

use std::borrow::Cow;

use adapters_core::{Call, Causality, Finisher, FusionQuery, HiddenState, NamedParams, SiteAdapter};
use adapters_nn::{NonLinearity, ops};
use burn::module::{Module, Param, ParamId};
use burn::nn::LayerNorm;
use burn::tensor::{Tensor, activation};

use crate::bottleneck::ResidualBeforeLn;
use crate::compacter::SharedPhm;
use crate::projection::{Dense, Project};

/// A bottleneck after a block or in parallel to it: `up(act(down(h))) * scaling`, then gate, norm and residual.
#[derive(Module, Debug)]
pub(crate) struct BottleneckLayer {
    /// An own norm before the down projection.
    pub(crate) ln_before: Option<LayerNorm>,
    /// From the model's width to the bottleneck's.
    pub(crate) down: Project,
    /// Between the projections.
    pub(crate) non_linearity: NonLinearity,
    /// Back to the model's width.
    pub(crate) up: Project,
    /// A learned factor, `[1]` or `[d_model]`.
    pub(crate) scaling: Option<Param<Tensor<1>>>,
    /// A learned gate.
    pub(crate) gate: Option<Dense>,
    /// An own norm after the up projection.
    pub(crate) ln_after: Option<LayerNorm>,
    #[module(skip)]
    pub(crate) shape: Shape,
}

/// The options of a configuration that have no parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) insertion: Insertion,
    pub(crate) original_ln_after: bool,
    /// Whether the residual is added before the norm after the up projection.
    pub(crate) residual_before_ln_after: bool,
    /// The constant factor; one where it is learned.
    pub(crate) factor: f64,
    pub(crate) dropout: f64,
    pub(crate) stochastic_depth: f64,
}

/// Where an adapter is inserted relative to its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insertion {
    /// On the block's output.
    Sequential {
        /// Apply the model's residual connection and layer norm before the adapter.
        original_ln_before: bool,
        /// Which state the adapter's own residual connection carries.
        residual: ResidualBeforeLn,
    },
    /// In parallel to the block: reads its input, is added to its output.
    Parallel,
}

impl BottleneckLayer {
    /// `up(act(down(x))) * scaling` with dropout and gate, `[batch, seq, d_model]`; and without them, where a fusion reads
    /// that.
    fn core(&self, x: Tensor<3>, fused: bool, call: &Call<'_, SharedPhm>) -> (Tensor<3>, Option<Tensor<3>>) {
        let gate = self
            .gate
            .as_ref()
            .map(|gate| activation::sigmoid(gate.forward(x.clone())).mean_dim(1));
        let x = match &self.ln_before {
            Some(norm) => ops::layer_norm(norm, x),
            None => x,
        };
        let narrow = self.non_linearity.forward(self.down.forward(x, call.shared));
        let mut out = self.up.forward(narrow, call.shared);
        if self.shape.stochastic_depth > 0.0 && call.dropout.is_some() {
            let rows = out.dims()[0];
            let kept = Tensor::ones([rows, 1, 1], &out.device());
            out = out * call.dropout(kept, self.shape.stochastic_depth);
        }
        if self.shape.factor != 1.0 {
            out = out * self.shape.factor;
        }
        if let Some(scaling) = &self.scaling {
            out = out * scaling.val().unsqueeze();
        }
        let addition = fused.then(|| out.clone());
        let out = call.dropout(out, self.shape.dropout);
        match gate {
            Some(gate) => {
                call.record_gates(|| gate.clone().squeeze_dim(2));
                (out * gate, addition)
            }
            None => (out, addition),
        }
    }

    fn norm_after(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.ln_after {
            Some(norm) => ops::layer_norm(norm, x),
            None => x,
        }
    }
}

impl SiteAdapter<HiddenState, SharedPhm> for BottleneckLayer {
    fn open(&self, state: HiddenState) -> HiddenState {
        let Insertion::Sequential {
            original_ln_before,
            residual,
        } = self.shape.insertion
        else {
            // It reads what the block read.
            return HiddenState {
                hidden: state.read().clone(),
                inner: Some(state.read().clone()),
                ..state
            };
        };
        let before = state.hidden.clone();
        let (sum, hidden) = match original_ln_before {
            false => (state.hidden.clone(), state.hidden),
            true => state.join.read(state.hidden.clone(), state.read().clone()),
        };
        let inner = match residual {
            ResidualBeforeLn::Flag(true) => before,
            ResidualBeforeLn::PostAdd => sum,
            ResidualBeforeLn::Flag(false) => hidden.clone(),
        };
        HiddenState {
            hidden,
            inner: Some(inner),
            ..state
        }
    }

    /// # Panics
    ///
    /// Panics if the last axis is not the model's width.
    fn apply(&self, state: HiddenState, call: &Call<'_, SharedPhm>) -> HiddenState {
        let (out, addition) = self.core(state.hidden, state.fused, call);
        let hidden = match (self.shape.insertion, self.shape.residual_before_ln_after, &state.inner) {
            (Insertion::Parallel, _, _) | (_, _, None) => self.norm_after(out),
            (_, true, Some(inner)) => self.norm_after(ops::add(out, inner.clone())),
            (_, false, Some(inner)) => ops::add(self.norm_after(out), inner.clone()),
        };
        HiddenState {
            hidden,
            addition,
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::of_gate(&self.gate)
    }

    fn finisher(&self) -> Option<&dyn Finisher<HiddenState, SharedPhm>> {
        Some(self)
    }

    fn fusion_query(&self) -> Option<FusionQuery> {
        Some(match self.shape.insertion {
            Insertion::Sequential { .. } => FusionQuery::Hidden,
            Insertion::Parallel => FusionQuery::Beside,
        })
    }
}

impl Finisher<HiddenState, SharedPhm> for BottleneckLayer {
    fn finish(&self, state: HiddenState, _call: &Call<'_, SharedPhm>) -> Tensor<3> {
        let hidden = match self.shape.insertion {
            Insertion::Parallel => ops::add(state.hidden, state.block),
            Insertion::Sequential { .. } => state.hidden,
        };
        if self.shape.original_ln_after {
            state.join.close(hidden, state.residual)
        } else {
            hidden
        }
    }
}

/// Name and id of gain and offset of a layer norm.
fn norm_params(path: &str, norm: &LayerNorm) -> Vec<(Cow<'static, str>, ParamId)> {
    let mut params = vec![(format!("{path}.weight").into(), norm.gamma.id)];
    params.extend(norm.beta.iter().map(|beta| (format!("{path}.bias").into(), beta.id)));
    params
}

impl NamedParams for BottleneckLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = Vec::new();
        if let Some(norm) = &self.ln_before {
            params.extend(norm_params("adapter_down.0", norm));
        }
        let down = ["adapter_down.0", "adapter_down.1"][usize::from(self.ln_before.is_some())];
        params.extend(self.down.named_params(down));
        if let Some(slope) = &self.non_linearity.slope {
            params.push(("non_linearity.f.weight".into(), slope.id));
        }
        params.extend(self.up.named_params("adapter_up"));
        params.extend(self.scaling.iter().map(|s| ("scaling".into(), s.id)));
        params.extend(self.gate.iter().flat_map(|gate| gate.named_params("gate")));
        if let Some(norm) = &self.ln_after {
            params.extend(norm_params("adapter_norm_after", norm));
        }
        params
    }
}
