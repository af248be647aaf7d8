//! Normalizations whose parameters are read and replaced, whatever the formula.

use std::fmt::Debug;

use burn::module::{Param, ParamId};
use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::Tensor;

use crate::ops;

/// Weight and bias of a normalization.
#[derive(Clone, Debug)]
pub struct NormWeight {
    /// `[d_model]`.
    pub weight: Tensor<1>,
    /// `[d_model]`.
    pub bias: Option<Tensor<1>>,
}

/// A normalization whose parameters may be replaced.
pub trait Normalization: Clone {
    /// Normalizes; `[batch, seq, d_model]` to the same shape.
    fn normalize(&self, x: Tensor<3>) -> Tensor<3>;

    /// Normalizes `x + y`; `[batch, seq, d_model]`, all three.
    fn normalize_sum(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        self.normalize(ops::add(x, y))
    }

    /// Its parameters.
    fn parameters(&self) -> NormWeight;

    /// The same normalization with other parameters, which train if they are tracked.
    #[must_use]
    fn with_parameters(self, parameters: NormWeight) -> Self;
}

/// A [`Normalization`] of any formula, behind a reference.
pub trait NormParameters: Debug {
    /// Its parameters.
    fn get(&self) -> NormWeight;
    /// Puts others there.
    fn set(&mut self, parameters: NormWeight);
    /// Normalizes; `[batch, seq, d_model]` to the same shape.
    fn apply(&self, x: Tensor<3>) -> Tensor<3>;
    /// Normalizes `x + y`; `[batch, seq, d_model]`, all three.
    fn apply_to_sum(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3>;
}

impl<N: Normalization + Debug> NormParameters for N {
    fn get(&self) -> NormWeight {
        self.parameters()
    }

    fn set(&mut self, parameters: NormWeight) {
        *self = self.clone().with_parameters(parameters);
    }

    fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        self.normalize(x)
    }

    fn apply_to_sum(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        self.normalize_sum(x, y)
    }
}

impl Normalization for LayerNorm {
    fn normalize(&self, x: Tensor<3>) -> Tensor<3> {
        ops::layer_norm(self, x)
    }

    fn normalize_sum(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        ops::add_layer_norm(self, x, y)
    }

    fn parameters(&self) -> NormWeight {
        NormWeight {
            weight: self.gamma.val(),
            bias: self.beta.as_ref().map(|beta| beta.val()),
        }
    }

    fn with_parameters(mut self, parameters: NormWeight) -> Self {
        self.gamma = param(self.gamma.id, parameters.weight);
        let id = self.beta.as_ref().map(|beta| beta.id);
        self.beta = parameters.bias.map(|bias| param(id.unwrap_or_default(), bias));
        self
    }
}

/// Without a bias; one that is put into it is ignored, for nothing can make one.
impl Normalization for RmsNorm {
    fn normalize(&self, x: Tensor<3>) -> Tensor<3> {
        ops::rms_norm(self, x)
    }

    fn parameters(&self) -> NormWeight {
        NormWeight {
            weight: self.gamma.val(),
            bias: None,
        }
    }

    fn with_parameters(mut self, parameters: NormWeight) -> Self {
        self.gamma = param(self.gamma.id, parameters.weight);
        self
    }
}

/// The parameter of this id with other values, so that what is put back is what was there.
fn param<const D: usize>(id: ParamId, tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::initialized(id, tensor)
}
