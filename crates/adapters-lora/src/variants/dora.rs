//! DoRA: the weight's direction is updated, its magnitude learned.

use std::borrow::Cow;

use adapters_core::{
    Call, Causality, ConfigError, Effect, Finisher, LinearState, LinearWeight, NamedParams, NotMergeable, Shared,
    SiteAdapter,
};
use adapters_nn::ops;
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::config::LoraConfig;
use crate::fused::FusedParts;
use crate::module::Factored;

/// LoRA with a learned magnitude for each output feature: `y = m / |W + s B A| (W x + s B A x)`, the norm taken of each
/// row. `W` and the update keep their direction, `m` their length.
///
/// Paper: *DoRA: Weight-Decomposed Low-Rank Adaptation*, Liu et al., 2024, <https://arxiv.org/abs/2402.09353>.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DoraConfig {
    /// The low-rank part.
    pub lora: LoraConfig,
    /// Whose definition.
    pub form: DoraForm,
}

/// The two definitions that checkpoints are trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DoraForm {
    /// `m / |W + B A| (W x + b + s B A x)`: the norm without the scale and with a gradient, the bias inside.
    #[default]
    AdapterHub,
    /// `m / |W + s B A| (W x + s B A x) + b`: the norm with the scale and without a gradient, the bias outside.
    Peft,
}

impl DoraConfig {
    pub(crate) fn check_fields(&self) -> Result<(), ConfigError> {
        self.lora.check_fields()
    }
}

/// An update with a learned magnitude.
///
/// The norm is computed from the factors, without the dense product:
/// `|W + s L R|^2 = |W|^2 + 2 s (L o (W R^T)) 1 + s^2 (L o (L R R^T)) 1`, with `|W|^2` computed once.
#[derive(Module, Debug)]
pub struct Magnitude<D: Module> {
    /// The update `s L R`.
    pub inner: D,
    /// `m`.
    pub strength: Strength,
    /// `|W|^2` of each row, `[d_out]`.
    pub squares: Tensor<1>,
    /// The parts of a fused projection that are adapted: only they have a magnitude.
    #[module(skip)]
    pub parts: Option<FusedParts>,
    /// Whose definition.
    #[module(skip)]
    pub form: DoraForm,
}

/// The learned magnitudes in the shape they are published in.
#[derive(Module, Debug)]
pub enum Strength {
    /// `[d_out, 1]`, AdapterHub's.
    Column(Param<Tensor<2>>),
    /// `[d_out]`, peft's.
    Vector(Param<Tensor<1>>),
}

impl Strength {
    fn val(&self) -> Tensor<1> {
        match self {
            Self::Column(m) => {
                let [d_out, _] = m.dims();
                m.val().reshape([d_out])
            }
            Self::Vector(m) => m.val(),
        }
    }
}

impl<D: Module + Factored> Magnitude<D> {
    /// `m` over the norm, `[d_out]`. `weight` is `[d_in, d_out]`.
    fn factor(&self, weight: Tensor<2>, shared: &Shared) -> Tensor<1> {
        let (left, right) = self.inner.factors(shared);
        let [d_out, _] = left.dims();
        let scale = match self.form {
            DoraForm::AdapterHub => 1.0,
            DoraForm::Peft => self.inner.scale().unwrap_or(1.0),
        };
        let (left, right) = match self.form {
            DoraForm::AdapterHub => (left, right),
            DoraForm::Peft => (left.detach(), right.detach()),
        };
        let cross = (left.clone() * ops::product(right.clone(), weight).transpose()).sum_dim(1);
        let gram = right.clone().matmul(right.transpose());
        let own = (left.clone() * left.matmul(gram)).sum_dim(1);
        let update = cross * (2.0 * scale) + own * (scale * scale);
        // Rounding may leave a norm of zero slightly below it.
        let norm = (update.reshape([d_out]) + self.squares.clone())
            .clamp_min(f32::MIN_POSITIVE)
            .sqrt();
        match &self.parts {
            Some(parts) => parts.placed(self.strength.val() / parts.taken(norm, 0), 0, 1.0),
            None => self.strength.val() / norm,
        }
    }
}

impl<D> SiteAdapter<LinearState> for Magnitude<D>
where
    D: Module + Factored + SiteAdapter<LinearState>,
{
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        self.inner.apply(state, call)
    }

    fn effect(&self) -> Effect {
        self.inner.effect()
    }

    fn causality(&self) -> Causality {
        self.inner.causality()
    }

    fn finisher(&self) -> Option<&dyn Finisher<LinearState>> {
        Some(self)
    }

    fn merged(&self, base: LinearWeight, shared: &Shared) -> Result<LinearWeight, NotMergeable> {
        let update = self.inner.update(shared)?;
        let factor = self.factor(base.weight.clone(), shared);
        let merged = base.plus(update);
        Ok(LinearWeight {
            weight: merged.weight * factor.clone().unsqueeze(),
            bias: match self.form {
                DoraForm::AdapterHub => merged.bias.map(|bias| bias * factor),
                DoraForm::Peft => merged.bias,
            },
        })
    }
}

impl<D> Finisher<LinearState> for Magnitude<D>
where
    D: Module + Factored + SiteAdapter<LinearState>,
{
    fn finish(&self, state: LinearState, call: &Call<'_>) -> Tensor<3> {
        let factor = self.factor(state.layer.weight.val(), call.shared).unsqueeze();
        let mut layer = state.layer;
        let outside = match self.form {
            DoraForm::AdapterHub => None,
            DoraForm::Peft => layer.bias.take(),
        };
        let inside = ops::linear(&layer, state.input);
        let inside = match state.delta {
            Some(delta) => inside + delta,
            None => inside,
        };
        match outside {
            Some(bias) => inside * factor + bias.val().unsqueeze(),
            None => inside * factor,
        }
    }
}

impl<D: Module + NamedParams> NamedParams for Magnitude<D> {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = self.inner.named_params();
        params.push(match &self.strength {
            Strength::Column(m) => ("m.weight".into(), m.id),
            Strength::Vector(m) => ("lora_magnitude_vector".into(), m.id),
        });
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.inner.fixed_params()
    }
}
