//! The output scaled by a learned vector, as (IA)3 does.

use std::borrow::Cow;

use adapters_core::{Call, LinearState, LinearWeight, NamedParams, NotMergeable, SiteAdapter};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::merge;
use crate::module::Gate;

/// `y = (W x + b) * (l s)` with a learned vector `l` and a constant or gated `s`.
#[derive(Module, Debug)]
pub struct OutputScale {
    /// `l`, published as `[d_out, 1]`.
    pub l: Param<Tensor<2>>,
    /// Replaces the constant scale where there is one.
    pub gate: Option<Gate>,
    /// The constant scale `s`.
    pub scale: f64,
}

impl SiteAdapter<LinearState> for OutputScale {
    /// Keeps the factor in `delta`; a stack multiplies factors.
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let [d_out, _] = self.l.dims();
        let factor = self.l.val().reshape([1, 1, d_out]);
        let factor = match &self.gate {
            Some(gate) => factor * gate.forward(state.input.clone()),
            None => factor * self.scale,
        };
        let delta = match state.delta {
            Some(delta) => delta * factor,
            None => factor,
        };
        LinearState {
            delta: Some(delta),
            ..state
        }
    }

    fn finish(&self, state: LinearState) -> Tensor<3> {
        match state.delta {
            Some(factor) => state.output * factor,
            None => state.output,
        }
    }

    fn merged(&self, base: LinearWeight) -> Result<LinearWeight, NotMergeable> {
        if self.gate.is_some() {
            return Err(NotMergeable {
                reason: "its scale is a gate that depends on the input",
            });
        }
        let [d_out, _] = self.l.dims();
        Ok(merge::scale(base, self.l.val().reshape([d_out]) * self.scale))
    }
}

impl NamedParams for OutputScale {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("lora_B".into(), self.l.id)];
        params.extend(self.gate.iter().flat_map(Gate::named_params));
        params
    }
}
