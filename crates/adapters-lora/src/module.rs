//! The low-rank layer.

use std::borrow::Cow;

use adapters_core::ops::project;
use adapters_core::{Call, LinearState, LinearWeight, NamedParams, NotMergeable, SiteAdapter};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, activation};

use crate::merge;

/// The low-rank update of one linear layer: `delta = s B A dropout(x)`.
///
/// A and B are kept as they are published, `[rank, d_in]` and `[d_out, rank]`. The product `B A` is never formed
/// in the forward pass, and the frozen weight gets no gradient.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[rank, d_in]`.
    pub a: Param<Tensor<2>>,
    /// `[d_out, rank]`.
    pub b: Param<Tensor<2>>,
    /// Replaces the constant scale where there is one.
    pub gate: Option<Gate>,
    /// The constant scale `s`.
    pub scale: f64,
    /// Dropout probability on the input of A.
    pub dropout: f64,
}

/// The learned scale of a gated layer: `mean_t sigmoid(w x_t + c)`, one number a row.
#[derive(Module, Debug)]
pub struct Gate {
    /// `[1, d_in]`.
    pub weight: Param<Tensor<2>>,
    /// `[1]`.
    pub bias: Param<Tensor<1>>,
}

impl Gate {
    /// # Shapes
    ///
    /// `[batch, seq, d_in] -> [batch, 1, 1]`; padded positions count, as in the reference.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let logits = project(x, self.weight.val()) + self.bias.val().unsqueeze();
        activation::sigmoid(logits).mean_dim(1)
    }

    pub(crate) fn named_params(&self) -> [(Cow<'static, str>, ParamId); 2] {
        [
            ("gate.weight".into(), self.weight.id),
            ("gate.bias".into(), self.bias.id),
        ]
    }
}

impl LowRank {
    /// The constant scale, or one where a gate takes its place.
    fn constant_scale(&self) -> f64 {
        if self.gate.is_some() { 1.0 } else { self.scale }
    }
}

impl SiteAdapter<LinearState> for LowRank {
    /// `delta = s B A dropout(h)`, where `h` is the delta of the adapter before in a stack, else the layer's input.
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `h` is not `d_in`.
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let gate = self.gate.as_ref().map(|gate| gate.forward(state.input.clone()));
        let h = state.delta.unwrap_or_else(|| state.input.clone());
        let (a, b) = (self.a.val(), self.b.val());
        let (outer, inner) = (h.dtype(), a.dtype());
        let h = call.dropout(h, self.dropout);
        let h = if outer == inner { h } else { h.cast(inner) };
        // The scale goes on the narrow side: `rank` numbers a token, not `d_out`.
        let delta = project(project(h, a) * self.constant_scale(), b);
        let delta = if outer == inner { delta } else { delta.cast(outer) };
        let delta = match gate {
            Some(gate) => delta * gate,
            None => delta,
        };
        LinearState {
            delta: Some(delta),
            ..state
        }
    }

    fn merged(&self, base: LinearWeight) -> Result<LinearWeight, NotMergeable> {
        if self.gate.is_some() {
            return Err(NotMergeable {
                reason: "its scale is a gate that depends on the input",
            });
        }
        Ok(merge::add(base, self.a.val(), self.b.val(), self.scale))
    }
}

impl NamedParams for LowRank {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("lora_A".into(), self.a.id), ("lora_B".into(), self.b.id)];
        params.extend(self.gate.iter().flat_map(Gate::named_params));
        params
    }
}
