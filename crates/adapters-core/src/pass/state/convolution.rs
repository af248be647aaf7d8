//! A convolution in groups: what it makes of its input, and what adapters add.

use burn::tensor::Tensor;

use super::fields::by_fields;
use super::hook_state::{HookState, NoWeight};
use super::positions::Positions;
use super::rows::weighted_deltas;

/// State at a convolution in groups: `output + delta`.
#[derive(Clone, Debug)]
pub struct ConvolutionState {
    /// Input of the convolution, `[batch, channels, seq]`.
    pub input: Tensor<3>,
    /// What the frozen convolution makes of it, `[batch, d_out, seq_out]`.
    pub output: Tensor<3>,
    /// What the adapters so far contribute, `[batch, d_out, seq_out]`.
    pub delta: Option<Tensor<3>>,
    /// Zeros at each end of the input.
    pub zeros: usize,
}

by_fields!(ConvolutionState {
    input: tensor,
    output: tensor,
    delta: delta,
    zeros: whole,
});

/// A kernel reads several positions.
impl Positions for ConvolutionState {}

impl HookState for ConvolutionState {
    type Output = Tensor<3>;
    type Weight = NoWeight;
    type Effect = ();

    fn rows(&self) -> usize {
        self.input.dims()[0]
    }

    fn weighted_sum(parts: Vec<(Self, f64)>) -> Option<Self> {
        let first = parts[0].0.clone();
        Some(Self {
            delta: weighted_deltas(parts.into_iter().map(|(state, weight)| (state.delta, weight))),
            ..first
        })
    }

    fn finish(self) -> Tensor<3> {
        match self.delta {
            Some(delta) => self.output + delta,
            None => self.output,
        }
    }
}

impl ConvolutionState {
    /// Adds an update to the delta: how the updates of several active adapters add up.
    #[must_use]
    pub fn plus(self, update: Tensor<3>) -> Self {
        Self {
            delta: Some(match self.delta {
                Some(delta) => delta + update,
                None => update,
            }),
            ..self
        }
    }
}
