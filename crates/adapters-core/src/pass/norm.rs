//! Normalizations as adapters see them: parameters that are read and replaced, whatever the formula.

use burn::module::{Param, ParamId};
use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::Tensor;

use crate::pass::state::NormWeight;

/// A normalization whose parameters adapters may put others in the place of.
pub trait Normalization: Clone {
    /// Its parameters.
    fn parameters(&self) -> NormWeight;

    /// The same normalization with other parameters, which train if they are tracked.
    #[must_use]
    fn with_parameters(self, parameters: NormWeight) -> Self;
}

impl Normalization for LayerNorm {
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
