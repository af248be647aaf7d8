//! The state at a normalization.

use adapters_nn::NormWeight;
use burn::tensor::Tensor;

use super::hook_state::HookState;
use super::positions::Positions;
use super::rows::Rows;

/// State at a normalization: the parameters it runs with.
#[derive(Clone, Debug)]
pub struct NormState {
    /// `[d_model]`.
    pub weight: Tensor<1>,
    /// `[d_model]`.
    pub bias: Option<Tensor<1>>,
}

/// Nothing here belongs to a row.
impl Rows for NormState {
    fn take_rows(&self, _rows: &[usize]) -> Self {
        self.clone()
    }

    fn join_rows(mut chunks: Vec<Self>) -> Self {
        chunks.swap_remove(0)
    }
}

/// Nor to a position.
impl Positions for NormState {}

impl HookState for NormState {
    type Output = Self;
    type Weight = NormWeight;
    type Effect = ();

    const FIRST_ONLY: bool = true;

    fn rows(&self) -> usize {
        0
    }

    fn finish(self) -> Self {
        self
    }
}
