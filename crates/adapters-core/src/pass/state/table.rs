//! An embedding table: the rows it gives, and what adapters add to them.

use burn::tensor::{Int, Tensor};

use super::effect::Effect;
use super::fields::by_fields;
use super::hook_state::HookState;
use super::rows::weighted_deltas;

/// State at an embedding table: `output + delta`.
#[derive(Clone, Debug)]
pub struct TableState {
    /// Indices of the rows looked up, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// The rows of the frozen table, `[batch, seq, d_model]`.
    pub output: Tensor<3>,
    /// What the adapters so far contribute, `[batch, seq, d_model]`.
    pub delta: Option<Tensor<3>>,
}

by_fields!(TableState, positions of ids {
    ids: tensor,
    output: tensor,
    delta: delta,
});

impl HookState for TableState {
    type Output = Tensor<3>;
    type Weight = Tensor<2>;
    type Effect = Effect;

    fn rows(&self) -> usize {
        self.ids.dims()[0]
    }

    fn weighted_sum(states: Vec<(Self, f64)>) -> Option<Self> {
        let first = states[0].0.clone();
        Some(Self {
            delta: weighted_deltas(states.into_iter().map(|(state, weight)| (state.delta, weight))),
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
