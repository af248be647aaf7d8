//! Where a block joins the residual stream.

use std::sync::Arc;

use adapters_nn::{NormParameters, ops};
use burn::tensor::Tensor;

use super::fields::by_fields;
use super::hook_state::{HookState, NoWeight};
use super::rows::weighted;

/// A normalization of any formula, with the parameters it has in this pass.
pub type AnyNorm = Arc<dyn NormParameters + Send + Sync>;

/// How a block joins the residual stream, and what an adapter reads that asks for the joined state.
#[derive(Clone, Debug, Default)]
pub enum Join {
    /// `residual + hidden`, where the model normalizes in front of its blocks.
    #[default]
    Sum,
    /// `norm(residual + hidden)`, where it normalizes behind them.
    NormOfSum(AnyNorm),
    /// `residual + norm(hidden)`: adapters act in front of the norm.
    SumOfNorm {
        /// Of the block's output.
        norm: AnyNorm,
        /// Of the sum `residual + hidden`, for an adapter that reads it.
        of_sum: AnyNorm,
    },
    /// `residual + factor * hidden`.
    Scaled(f64),
    /// `residual + hidden` where another block reads the same input: an adapter reads `hidden` alone.
    Beside,
}

impl Join {
    /// The residual stream behind the block; all `[batch, seq, d_model]`.
    pub fn close(&self, hidden: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Sum | Self::Beside => ops::add(hidden, residual),
            Self::NormOfSum(norm) => norm.apply_to_sum(hidden, residual),
            Self::SumOfNorm { norm, .. } => ops::add(norm.apply(hidden), residual),
            Self::Scaled(factor) => hidden * *factor + residual,
        }
    }

    /// What an adapter reads that asks for the joined state: the sum, and what the model's norm makes of it.
    pub fn read(&self, hidden: Tensor<3>, residual: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        match self {
            Self::Beside => (hidden.clone(), hidden),
            Self::Sum | Self::Scaled(_) => {
                let sum = ops::add(hidden, residual);
                (sum.clone(), sum)
            }
            Self::NormOfSum(norm) | Self::SumOfNorm { of_sum: norm, .. } => {
                let sum = ops::add(hidden, residual);
                (sum.clone(), norm.apply(sum))
            }
        }
    }
}

/// State where a block joins the residual stream.
#[derive(Clone, Debug)]
pub struct HiddenState {
    /// What adapters transform, at first the output of the block, `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// Output of the block as it was, `[batch, seq, d_model]`.
    pub block: Tensor<3>,
    /// What is added to it, `[batch, seq, d_model]`.
    pub residual: Tensor<3>,
    /// The input of the block, `[batch, seq, d_model]`, where adapters read it in place of `residual`.
    pub input: Option<Tensor<3>>,
    /// What the residual connection inside an adapter carries, once an adapter has opened the site.
    pub inner: Option<Tensor<3>>,
    /// How it joins.
    pub join: Join,
    /// Whether a fusion reads what adapters add.
    pub fused: bool,
    /// What the last adapter added to the residual stream before its gate, norm and residual, `[batch, seq, d_model]`, where a
    /// fusion reads it.
    pub addition: Option<Tensor<3>>,
}

impl HiddenState {
    /// What adapters take for the residual stream.
    pub fn read(&self) -> &Tensor<3> {
        self.input.as_ref().unwrap_or(&self.residual)
    }
}

by_fields!(HiddenState, positions of hidden {
    hidden: tensor,
    block: tensor,
    residual: tensor,
    input: optional,
    inner: optional,
    join: whole,
    fused: whole,
    addition: optional,
});

impl HookState for HiddenState {
    type Output = Tensor<3>;
    type Weight = NoWeight;
    type Effect = ();

    const ONE_FINISHER: bool = true;

    fn fusion(&mut self) -> Option<&mut HiddenState> {
        Some(self)
    }

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    fn weighted_sum(states: Vec<(Self, f64)>) -> Option<Self> {
        let first = states[0].0.clone();
        let hidden = weighted(states.into_iter().map(|(state, weight)| (state.hidden, weight)))?;
        Some(Self { hidden, ..first })
    }

    fn finish(self) -> Tensor<3> {
        self.join.close(self.hidden, self.residual)
    }
}
