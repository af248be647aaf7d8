//! The normalizations of decoders behind one type.

use adapters_core::{Adaptable, LayerMut, LayerRef, NormRole, NormWeight, Normalization, SiteKind};
use adapters_nn::ops;
use burn::module::{Module, Param};
use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::Tensor;

/// The formula of a normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// `(x - mean) / sqrt(var + eps) w + b`.
    Layer,
    /// `x / sqrt(mean(x^2) + eps) w`.
    Rms,
    /// `x / sqrt(mean(x^2) + eps) (1 + w)`.
    OnePlusRms,
}

/// A normalization of one of these formulas.
#[derive(Module, Debug)]
pub(crate) enum Norm {
    /// [`NormKind::Layer`].
    Layer(LayerNorm),
    /// [`NormKind::Rms`].
    Rms(RmsNorm),
    /// [`NormKind::OnePlusRms`]; its parameter is `w`, as published.
    OnePlusRms(RmsNorm),
}

impl Normalization for Norm {
    fn normalize(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Layer(norm) => ops::layer_norm(norm, x),
            Self::Rms(norm) => ops::rms_norm(norm, x),
            Self::OnePlusRms(norm) => {
                let gamma = Param::initialized(norm.gamma.id, norm.gamma.val() + 1.0);
                ops::rms_norm(
                    &RmsNorm {
                        gamma,
                        epsilon: norm.epsilon,
                    },
                    x,
                )
            }
        }
    }

    fn parameters(&self) -> NormWeight {
        match self {
            Self::Layer(norm) => norm.parameters(),
            Self::Rms(norm) | Self::OnePlusRms(norm) => norm.parameters(),
        }
    }

    fn with_parameters(self, parameters: NormWeight) -> Self {
        match self {
            Self::Layer(norm) => Self::Layer(norm.with_parameters(parameters)),
            Self::Rms(norm) => Self::Rms(norm.with_parameters(parameters)),
            Self::OnePlusRms(norm) => Self::OnePlusRms(norm.with_parameters(parameters)),
        }
    }
}

impl Norm {
    /// Features it normalizes over.
    pub(crate) fn width(&self) -> usize {
        let gamma = match self {
            Self::Layer(norm) => &norm.gamma,
            Self::Rms(norm) | Self::OnePlusRms(norm) => &norm.gamma,
        };
        gamma.lazy_shape()[0]
    }
}

impl Adaptable for Norm {
    type Role = NormRole;

    fn kind(&self) -> SiteKind {
        SiteKind::Norm { d_model: self.width() }
    }

    fn layer(&self) -> LayerRef<'_> {
        LayerRef::Norm(self)
    }

    fn layer_mut(&mut self) -> LayerMut<'_> {
        LayerMut::Norm(self)
    }
}
