//! The two projections of a bottleneck: linear, or hypercomplex.

use std::borrow::Cow;

use adapters_nn::{draw, ops};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::compacter::{PhmLayer, SharedPhm};

/// How the projections are initialized; biases are zero in all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Normal, standard deviation 0.02.
    #[default]
    Bert,
    /// Down: Kaiming uniform with a = sqrt(5). Up: zero, so that the adapter starts as the identity.
    MamAdapter,
    /// Normal of standard deviation 0.01, cut off at two deviations.
    Houlsby,
}

/// Which of the two projections a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the model's width to the bottleneck's.
    Down,
    /// And back.
    Up,
}

/// A projection of the bottleneck.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there are two for each layer; a box would be one more thing to read"
)]
pub(crate) enum Project {
    /// `x W^T + b`.
    Linear(Dense),
    /// `x H + b`.
    Phm(PhmLayer),
}

/// A linear layer in the published layout.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[d_out, d_in]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Param<Tensor<1>>,
}

impl Dense {
    /// A layer with the initial weight of `init` on this side of the bottleneck, and bias zero.
    pub(crate) fn new(
        d_in: usize,
        d_out: usize,
        init: Init,
        side: Side,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Self {
        let shape = [d_out, d_in];
        let weight = match (init, side) {
            (Init::Bert, _) => draw::normal(rng, shape, 0.02),
            (Init::MamAdapter, Side::Down) => draw::linear(rng, shape, d_in),
            (Init::MamAdapter, Side::Up) => draw::constant(shape, 0.0),
            (Init::Houlsby, _) => draw::truncated_normal(rng, shape, 0.01),
        };
        Self {
            weight: Param::from_data(weight, device),
            bias: Param::from_data(draw::constant([d_out], 0.0), device),
        }
    }

    /// `[batch, seq, d_in] -> [batch, seq, d_out]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::affine(x, self.weight.val(), self.bias.val())
    }

    pub(crate) fn named_params(&self, path: &str) -> [(Cow<'static, str>, ParamId); 2] {
        [
            (format!("{path}.weight").into(), self.weight.id),
            (format!("{path}.bias").into(), self.bias.id),
        ]
    }
}

impl Project {
    /// `[batch, seq, d_in] -> [batch, seq, d_out]`
    pub(crate) fn forward(&self, x: Tensor<3>, shared: &SharedPhm) -> Tensor<3> {
        match self {
            Self::Linear(layer) => layer.forward(x),
            Self::Phm(layer) => layer.forward(x, shared),
        }
    }

    pub(crate) fn named_params(&self, path: &str) -> Vec<(Cow<'static, str>, ParamId)> {
        match self {
            Self::Linear(layer) => layer.named_params(path).to_vec(),
            Self::Phm(layer) => layer.named_params(path),
        }
    }
}
