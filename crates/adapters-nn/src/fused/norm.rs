//! Normalization of rows.

use burn::backend::flex::FlexTensor;
use burn::module::Param;
use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::{Device, Tensor};

use super::graph::{Inputs, Operation, run};
use super::numbers::{constant, dense, numbers, owned, runs_here, tensor};
use crate::kernel::norm::Norm;
use crate::kernel::{Level, raw};

/// What rows are normalized with.
#[derive(Clone, Debug)]
pub(crate) struct Normalization {
    /// Factor of each column.
    pub gamma: Tensor<1>,
    /// Summand of each column.
    pub beta: Option<Tensor<1>>,
    /// Where the number comes from that is added to the variance.
    pub epsilon: Epsilon,
    /// Whether the mean is taken away.
    pub centered: bool,
}

/// The number added to a variance.
#[derive(Clone, Debug)]
pub(crate) enum Epsilon {
    /// It is known.
    Known(f64),
    /// It is that of a layer, which does not tell.
    Of(LayerNorm),
}

impl Epsilon {
    /// The number. Burn's `LayerNorm` keeps it to itself, so that one is asked for the normalized `[t, -t]` with a `t` whose
    /// square is small against any epsilon in use: `y = t / sqrt(t^2 + epsilon)`. Exact for numbers of up to six digits.
    fn value(self) -> f32 {
        let mut norm = match self {
            Self::Known(epsilon) => return epsilon as f32,
            Self::Of(norm) => norm,
        };
        let device = Device::flex();
        let t = 1e-10_f32;
        norm.gamma = Param::from_tensor(Tensor::ones([2], &device));
        norm.beta = None;
        let y = norm.forward(Tensor::<2>::from_data([[t, -t]], &device));
        let y = f64::from(y.slice([0..1, 0..1]).into_scalar::<f32>());
        let t = f64::from(t);
        let epsilon = (t / y).powi(2) - t * t;
        // The result of `f32` arithmetic, rounded to the digits that it has right.
        format!("{epsilon:.5e}").parse().unwrap_or(epsilon as f32)
    }
}

impl Normalization {
    /// What `norm` does.
    pub(crate) fn of_layer(norm: &LayerNorm) -> Self {
        Self {
            gamma: norm.gamma.val(),
            beta: norm.beta.as_ref().map(|beta| beta.val()),
            epsilon: Epsilon::Of(norm.clone()),
            centered: true,
        }
    }

    /// What `norm` does.
    pub(crate) fn of_rms(norm: &RmsNorm) -> Self {
        Self {
            gamma: norm.gamma.val(),
            beta: None,
            epsilon: Epsilon::Known(norm.epsilon),
            centered: false,
        }
    }

    fn operation<const D: usize>(self, x: &Tensor<D>, summed: bool) -> Option<Rows> {
        let width = [x.dims()[D - 1]];
        if !runs_here(x) || self.gamma.dims() != width || self.beta.as_ref().is_some_and(|beta| beta.dims() != width) {
            return None;
        }
        let beta = match &self.beta {
            Some(beta) => Some(dense(constant(beta)?)),
            None => None,
        };
        Some(Rows {
            gamma: dense(constant(&self.gamma)?),
            beta,
            epsilon: self.epsilon.value(),
            centered: self.centered,
            summed,
        })
    }
}

/// The normalized rows of `x`.
pub(crate) fn norm<const D: usize>(with: Normalization, x: &Tensor<D>) -> Option<Tensor<D>> {
    let operation = with.operation(x, false)?;
    Some(run(Inputs::One(x.clone().into_dispatch()), operation))
}

/// The normalized rows of `x + residual`.
pub(crate) fn norm_of_sum<const D: usize>(
    with: Normalization,
    x: &Tensor<D>,
    residual: &Tensor<D>,
) -> Option<Tensor<D>> {
    if !runs_here(residual) || x.dims() != residual.dims() {
        return None;
    }
    let operation = with.operation(x, true)?;
    Some(run(
        Inputs::Two(x.clone().into_dispatch(), residual.clone().into_dispatch()),
        operation,
    ))
}

#[derive(Debug)]
struct Rows {
    gamma: FlexTensor,
    beta: Option<FlexTensor>,
    epsilon: f32,
    centered: bool,
    summed: bool,
}

impl Rows {
    fn norm(&self) -> Norm<'_> {
        Norm {
            gamma: numbers(&self.gamma),
            beta: self.beta.as_ref().map(numbers),
            epsilon: self.epsilon,
            centered: self.centered,
        }
    }
}

impl Operation for Rows {
    #[expect(
        clippy::unreachable,
        reason = "the functions of this file run it with one or two inputs"
    )]
    fn forward(&self, inputs: Vec<FlexTensor>, keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        let mut inputs = inputs.into_iter().map(dense);
        let x = inputs
            .next()
            .unwrap_or_else(|| unreachable!("one or two inputs, as run"));
        let mut out = raw::unfilled(numbers(&x).len());
        let shape = x.layout().shape().clone();
        let kept = match inputs.next() {
            Some(residual) => {
                let mut sum = keep.then(|| raw::unfilled(out.len()));
                let (level, norm) = (Level::chosen(), self.norm());
                let (x, residual) = (numbers(&x), numbers(&residual));
                norm.forward_of_sum(level, x, residual, sum.as_deref_mut(), &mut out);
                sum.map(|sum| tensor(sum, shape.clone()))
            }
            None => {
                self.norm().forward(Level::chosen(), numbers(&x), &mut out);
                keep.then_some(x)
            }
        };
        (tensor(out, shape), kept.into_iter().collect())
    }

    fn backward(&self, kept: Vec<FlexTensor>, grad: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let mut grad = owned(grad);
        self.norm()
            .backward(Level::chosen(), numbers(&kept[0]), grad.storage_mut());
        match self.summed {
            true => vec![wanted[0].then(|| grad.clone()), wanted[1].then_some(grad)],
            false => vec![Some(grad)],
        }
    }
}
