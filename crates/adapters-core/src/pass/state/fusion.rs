//! What a fusion layer reads: what several adapters add to one hidden state.

use burn::tensor::Tensor;

use super::hook_state::{HookState, NoWeight};
use super::positions::Positions;
use super::rows::Rows;

/// What a fusion computes its query from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusionQuery {
    /// What enters an adapter after its block: the hidden state, before or after the normalization as the fusion's
    /// configuration says.
    Hidden,
    /// What enters an adapter next to its block: what the block read.
    Beside,
}

/// State of a fusion of adapters where a block joins the residual stream. Each row and position is fused for itself.
#[derive(Clone, Debug)]
pub struct FusionState {
    /// The hidden state before the last of the fused adapters opened the site, `[batch, seq, d_model]`.
    pub before: Tensor<3>,
    /// The hidden state after that, `[batch, seq, d_model]`.
    pub opened: Tensor<3>,
    /// Which of the two the last of the fused adapters reads.
    pub query: FusionQuery,
    /// What the residual connection inside the adapters carries, `[batch, seq, d_model]`.
    pub residual: Tensor<3>,
    /// What each adapter adds, `[batch, seq, d_model]`, in the order of the fusion. There is at least one.
    pub additions: Vec<Tensor<3>>,
    /// What the fusion layer made of them, `[batch, seq, d_model]`.
    pub fused: Option<Tensor<3>>,
}

impl FusionState {
    /// The fusion of adapters of a hidden state, before any of them ran.
    pub(crate) fn new(before: Tensor<3>, query: Option<FusionQuery>) -> Self {
        Self {
            opened: before.clone(),
            residual: before.clone(),
            before,
            query: query.unwrap_or(FusionQuery::Hidden),
            additions: Vec::new(),
            fused: None,
        }
    }
}

impl Rows for FusionState {
    fn take_rows(&self, rows: &[usize]) -> Self {
        let take = |x: &Tensor<3>| x.take_rows(rows);
        Self {
            before: take(&self.before),
            opened: take(&self.opened),
            query: self.query,
            residual: take(&self.residual),
            additions: self.additions.iter().map(take).collect(),
            fused: self.fused.as_ref().map(take),
        }
    }

    fn join_rows(chunks: Vec<Self>) -> Self {
        let join = |of: &dyn Fn(&Self) -> Tensor<3>| Tensor::join_rows(chunks.iter().map(of).collect());
        let fused = chunks
            .iter()
            .map(|chunk| chunk.fused.clone())
            .collect::<Option<Vec<_>>>();
        Self {
            before: join(&|chunk| chunk.before.clone()),
            opened: join(&|chunk| chunk.opened.clone()),
            query: chunks[0].query,
            residual: join(&|chunk| chunk.residual.clone()),
            additions: (0..chunks[0].additions.len())
                .map(|index| join(&|chunk| chunk.additions[index].clone()))
                .collect(),
            fused: fused.map(Tensor::join_rows),
        }
    }
}

impl Positions for FusionState {}

impl HookState for FusionState {
    type Output = Tensor<3>;
    type Weight = NoWeight;
    type Effect = ();

    fn rows(&self) -> usize {
        self.before.dims()[0]
    }

    fn finish(self) -> Tensor<3> {
        self.fused.unwrap_or(self.residual)
    }
}
