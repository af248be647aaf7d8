//! A learned gate in place of a constant scale.

use std::borrow::Cow;

use adapters_core::{Call, NotMergeable};
use adapters_nn::ops::project;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, activation};

use crate::fused_projection::FusedProjection;

/// The learned scale of a gated layer: `mean_t sigmoid(w x_t + c)`, one number a row, and one for each adapted
/// projection of a fused one.
#[derive(Module, Debug)]
pub(crate) struct Gate {
    /// `[1, d_in]`.
    pub(crate) weight: Param<Tensor<2>>,
    /// `[1]`.
    pub(crate) bias: Param<Tensor<1>>,
    /// Which projections of a fused one are adapted.
    #[module(skip)]
    pub(crate) fused: Option<FusedProjection>,
}

impl Gate {
    /// The gate of an input. Its values are recorded where the pass records.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_in] -> [batch, 1, 1]`, or `[batch, 1, d_out]` for single projections of a fused one; padded
    /// positions count, as in the reference.
    pub(crate) fn recorded<P>(&self, x: Tensor<3>, call: &Call<'_, P>) -> Tensor<3> {
        let values = self.values(x);
        call.record_gates(|| values.clone().squeeze_dim(1));
        self.spread(values)
    }

    /// `[batch, 1, 1]`, or a number for each adapted projection of a fused one, `[batch, 1, n]`.
    fn values(&self, x: Tensor<3>) -> Tensor<3> {
        let logits = project(x, self.weight.val()) + self.bias.val().unsqueeze();
        activation::sigmoid(logits).mean_dim(1)
    }

    fn spread(&self, values: Tensor<3>) -> Tensor<3> {
        match &self.fused {
            Some(fused) => fused.spread(values),
            None => values,
        }
    }

    pub(crate) fn named_params(&self) -> [(Cow<'static, str>, ParamId); 2] {
        [
            ("gate.weight".into(), self.weight.id),
            ("gate.bias".into(), self.bias.id),
        ]
    }
}

/// Why a gated layer is not merged.
pub(crate) const GATED: NotMergeable = NotMergeable {
    reason: "its scale is a gate that depends on the input",
};
