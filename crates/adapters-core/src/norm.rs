//! Normalisations as adapters see them: parameters that are read and replaced, whatever the formula.

use burn::module::{Param, ParamId};
use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::Tensor;

use crate::state::NormWeight;

/// A normalisation whose parameters adapters may put others in the place of.
pub trait Normalisation: Clone {
    /// Its parameters.
    fn parameters(&self) -> NormWeight;

    /// The same normalisation with other values of its parameters, which keep their ids.
    #[must_use]
    fn with_parameters(self, parameters: NormWeight) -> Self;
}

impl Normalisation for LayerNorm {
    fn parameters(&self) -> NormWeight {
        NormWeight {
            weight: self.gamma.val(),
            bias: self.beta.as_ref().map(|beta| beta.val()),
        }
    }

    fn with_parameters(mut self, parameters: NormWeight) -> Self {
        self.gamma = Param::initialized(self.gamma.id, parameters.weight);
        self.beta = parameters.bias.map(|bias| {
            let id = self.beta.as_ref().map_or_else(ParamId::new, |beta| beta.id);
            Param::initialized(id, bias)
        });
        self
    }
}

/// Without a bias; one that is put into it is ignored, for nothing can make one.
impl Normalisation for RmsNorm {
    fn parameters(&self) -> NormWeight {
        NormWeight {
            weight: self.gamma.val(),
            bias: None,
        }
    }

    fn with_parameters(mut self, parameters: NormWeight) -> Self {
        self.gamma = Param::initialized(self.gamma.id, parameters.weight);
        self
    }
}
