//! The low-rank update of a linear layer, and what all updates by two factors have in common.

use std::borrow::Cow;

use adapters_core::{
    Call, Causality, Effect, LinearState, LinearWeight, NamedParams, NotMergeable, SiteAdapter, Source,
};
use adapters_nn::ops::project;
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::fused_projection::FusedProjection;
use crate::gate::{GATED, Gate};

/// The low-rank update of one linear layer: `delta = s (B A dropout(x) + c)`.
///
/// A and B are kept as they are published, `[rank, d_in]` and `[d_out, rank]`. The product `B A` is never formed
/// in the forward pass, and the frozen weight gets no gradient.
///
/// On `n` projections of a fused one each has an A and a B of its own, published one below the other:
/// `[n * rank, d_in]` and `[n * width, rank]`, `n * width` in place of `d_out`.
#[derive(Module, Debug)]
pub(crate) struct LowRank {
    /// `[rank, d_in]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_out, rank]`.
    pub(crate) b: Param<Tensor<2>>,
    /// Whether B does not train.
    pub(crate) fixed_b: bool,
    /// `c`, the bias of B, `[d_out]`.
    pub(crate) up_bias: Option<Param<Tensor<1>>>,
    /// Which projections of a fused one are adapted.
    #[module(skip)]
    pub(crate) fused: Option<FusedProjection>,
    /// A copy of the frozen layer's bias that trains, `[d_out]`.
    pub(crate) base_bias: Option<Param<Tensor<1>>>,
    /// What the initial product was, where it is taken out of the frozen weight.
    pub(crate) origin: Option<Origin>,
    /// Replaces the constant scale where there is one.
    pub(crate) gate: Option<Gate>,
    /// The constant scale `s`.
    pub(crate) scale: f64,
    /// Dropout probability on the input of A.
    pub(crate) dropout: f64,
}

/// The initial A and B of an adapter that begins as a part of the weight: `s B0 A0` is subtracted from what the frozen
/// layer computes, in place of changing the frozen weight. Stored, never trained.
#[derive(Module, Debug)]
pub(crate) struct Origin {
    /// `[rank, d_in]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_out, rank]`.
    pub(crate) b: Param<Tensor<2>>,
}

/// An update that is a product of two narrow matrices, and the scale before it.
pub(crate) trait Factored {
    /// What the layers of the adapter share.
    type Shared: 'static;

    /// `[d_out, k]` and `[k, d_in]`.
    fn factors(&self, shared: &Self::Shared) -> (Tensor<2>, Tensor<2>);

    /// The constant scale `s`; `None` where a gate takes its place.
    fn scale(&self) -> Option<f64>;

    /// The update of the weight, `s` times the product, `[d_out, d_in]`.
    ///
    /// # Errors
    ///
    /// [`NotMergeable`] for a gated scale.
    fn update(&self, shared: &Self::Shared) -> Result<Tensor<2>, NotMergeable> {
        let scale = self.scale().ok_or(GATED)?;
        let (left, right) = self.factors(shared);
        Ok(left.matmul(right) * scale)
    }
}

/// A scale on a narrow tensor: nothing to do where a gate replaces it.
pub(crate) fn scaled(x: Tensor<3>, scale: Option<f64>) -> Tensor<3> {
    match scale {
        Some(scale) if scale != 1.0 => x * scale,
        _ => x,
    }
}

/// The state with a delta in place of the one that was there, times the gate of the layer's input.
pub(crate) fn with_delta<P>(
    state: LinearState,
    delta: Tensor<3>,
    gate: Option<&Gate>,
    call: &Call<'_, P>,
) -> LinearState {
    let delta = match gate {
        Some(gate) => delta * gate.recorded(state.input.clone(), call),
        None => delta,
    };
    LinearState {
        delta: Some(delta),
        ..state
    }
}

/// The state after an update through its two factors, from the right to the left.
pub(crate) fn apply_factors<L: Factored>(
    layer: &L,
    state: LinearState,
    call: &Call<'_, L::Shared>,
    dropout: f64,
    gate: Option<&Gate>,
) -> LinearState {
    let (left, right) = layer.factors(call.shared);
    let x = call.dropout(update_input(&state), dropout);
    let delta = project(scaled(project(x, right), layer.scale()), left);
    with_delta(state, delta, gate, call)
}

/// The input of an update: the delta of the adapter before in a stack, else the layer's input.
pub(crate) fn update_input(state: &LinearState) -> Tensor<3> {
    state.delta.clone().unwrap_or_else(|| state.input.clone())
}

impl Factored for LowRank {
    type Shared = ();

    fn factors(&self, _shared: &()) -> (Tensor<2>, Tensor<2>) {
        let b = self.b.val();
        let left = match &self.fused {
            Some(fused) => fused.block_diagonal(b),
            None => b,
        };
        (left, self.a.val())
    }

    fn scale(&self) -> Option<f64> {
        self.gate.is_none().then_some(self.scale)
    }
}

impl LowRank {
    /// The bias of B where the output has it, `[d_out]`.
    fn up_bias(&self) -> Option<Tensor<1>> {
        let bias = self.up_bias.as_ref()?.val();
        Some(match &self.fused {
            Some(fused) => fused.scatter(bias, 0, 0.0),
            None => bias,
        })
    }
}

impl SiteAdapter<LinearState> for LowRank {
    /// `delta = s (B A dropout(h) + c)`, where `h` is the delta of the adapter before in a stack, else the layer's input.
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `h` is not `d_in`.
    fn apply(&self, mut state: LinearState, call: &Call<'_>) -> LinearState {
        if let Some(bias) = &self.base_bias {
            state.layer.bias = Some(Param::initialized(ParamId::new(), bias.val()));
        }
        let stacked = state.delta.is_some();
        let h = update_input(&state);
        let (b, a) = self.factors(call.shared);
        let (outer, inner) = (h.dtype(), a.dtype());
        let origin = self
            .origin
            .as_ref()
            .map(|origin| project(scaled(project(h.clone(), origin.a.val()), self.scale()), origin.b.val()));
        let h = call.dropout(h, self.dropout);
        let h = if outer == inner { h } else { h.cast(inner) };
        let narrow = match &self.fused {
            // Each projection continues from its own slice of the previous delta, as it would if it were not fused.
            Some(fused) if stacked => fused.project_each(h, a),
            _ => project(h, a),
        };
        // The scale goes on the narrow side: `rank` numbers a token, not `d_out`.
        let mut delta = project(scaled(narrow, self.scale()), b);
        if let Some(bias) = self.up_bias() {
            delta = delta + (bias * self.scale().unwrap_or(1.0)).unsqueeze();
        }
        let delta = if outer == inner { delta } else { delta.cast(outer) };
        let delta = match origin {
            Some(origin) => delta - origin,
            None => delta,
        };
        with_delta(state, delta, self.gate.as_ref(), call)
    }

    fn effect(&self) -> Effect {
        let [_, d_in] = self.a.dims();
        let width = match &self.fused {
            None => Some(d_in),
            // Each projection reads its own slice of the previous addition.
            Some(fused) => (fused.width() == d_in).then(|| fused.d_out()),
        };
        let source = Source::Previous { width };
        match self.base_bias {
            None => Effect::Adds(source),
            Some(_) => Effect::ChangesAndAdds(source),
        }
    }

    fn causality(&self) -> Causality {
        Causality::of_gate(&self.gate)
    }

    fn merged(&self, base: LinearWeight, shared: &()) -> Result<LinearWeight, NotMergeable> {
        let update = self.update(shared)?;
        let update = match &self.origin {
            Some(origin) => update - origin.b.val().matmul(origin.a.val()) * self.scale,
            None => update,
        };
        let mut merged = base.plus(update);
        if let Some(bias) = &self.base_bias {
            merged.bias = Some(bias.val());
        }
        if let Some(bias) = self.up_bias() {
            let bias = bias * self.scale;
            merged.bias = Some(match merged.bias {
                Some(base) => base + bias,
                None => bias,
            });
        }
        Ok(merged)
    }
}

impl NamedParams for LowRank {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("lora_A".into(), self.a.id), ("lora_B".into(), self.b.id)];
        params.extend(self.up_bias.iter().map(|bias| ("lora_B.bias".into(), bias.id)));
        params.extend(self.base_bias.iter().map(|bias| ("base_layer.bias".into(), bias.id)));
        if let Some(origin) = &self.origin {
            params.push(("lora_A_initial".into(), origin.a.id));
            params.push(("lora_B_initial".into(), origin.b.id));
        }
        params.extend(self.gate.iter().flat_map(Gate::named_params));
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        let origin = self.origin.iter().flat_map(|o| [o.a.id, o.b.id]);
        origin.chain(self.fixed_b.then_some(self.b.id)).collect()
    }
}
