//! Matrices in one parameter: what the model reads in place of them.

use burn::tensor::Tensor;

use super::hook_state::HookState;
use super::positions::Positions;
use super::rows::Rows;

/// State at a bare parameter: the matrices the model computes with.
#[derive(Clone, Debug)]
pub struct MatricesState {
    /// `[count, rows, cols]`, as published.
    pub weight: Tensor<3>,
}

/// Nothing here belongs to a row.
impl Rows for MatricesState {
    fn take_rows(&self, _rows: &[usize]) -> Self {
        self.clone()
    }

    fn join_rows(mut chunks: Vec<Self>) -> Self {
        chunks.swap_remove(0)
    }
}

/// Nor to a position.
impl Positions for MatricesState {}

impl HookState for MatricesState {
    type Output = Self;
    type Weight = Tensor<3>;
    type Effect = ();

    fn rows(&self) -> usize {
        0
    }

    fn finish(self) -> Self {
        self
    }
}
