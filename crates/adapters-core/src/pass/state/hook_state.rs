//! The state of a hook, over which composition is written once: a block takes rows or positions apart and joins them again
//! without knowing what the state holds.

use std::fmt::Debug;

use super::hidden::HiddenState;
use super::positions::Positions;
use super::rows::Rows;

/// The state adapters transform at one kind of site, which the composition blocks cut, join and average.
pub trait HookState: Rows + Positions + Clone + Debug + Send + 'static {
    /// What the hook returns to the model.
    type Output: Rows + Positions;
    /// The frozen layer a method may merge into at this kind of site.
    type Weight;
    /// What a layer has to say about its way of acting: [`Effect`](crate::Effect) where there is a frozen layer that
    /// adapters may leave alone or change, nothing elsewhere.
    type Effect;

    /// Whether only the first adapter of a composition acts, as in the reference: where a sequence is changed as a whole
    /// there is no second one. Each row is changed by the first adapter of what it sees of the composition.
    const FIRST_ONLY: bool = false;

    /// Whether a block whose children act side by side has one finisher, that of its last adapter. Follows the reference
    /// where adapters join the residual stream; elsewhere each child has its own.
    const ONE_FINISHER: bool = false;

    /// Rows of the batch.
    fn rows(&self) -> usize;

    /// Whether a layer with this effect only adds to what the frozen layer computes, so that the frozen layer can run once
    /// for the rows of several adapters.
    fn adds(_effect: &Self::Effect) -> bool {
        false
    }

    /// `sum_i w_i x_i` of what adapters transform, over the states after several adapters; `None` at a kind of site where
    /// an average has no meaning. `states` is never empty.
    fn weighted_sum(_parts: Vec<(Self, f64)>) -> Option<Self> {
        None
    }

    /// The state for rows of a task of their own, which must not notice the rows they are joined with later.
    #[must_use]
    fn apart(self) -> Self {
        self
    }

    /// The batch again, after chunks of its rows were changed: row `i` is row `order[i]` of the chunks joined. What adapters
    /// leave alone is taken from this state, where it is in one piece.
    fn with_rows(&self, chunks: Vec<Self>, order: &[usize]) -> Self {
        Self::join_rows(chunks).take_rows(order)
    }

    /// The batch again, after chunks along the sequence were changed; `None` where positions belong together.
    fn with_positions(&self, chunks: Vec<Self>) -> Option<Self> {
        Self::join_positions(chunks)
    }

    /// What a fusion of adapters at such a site reads and replaces; nothing at most kinds of site.
    fn fusion(&mut self) -> Option<&mut HiddenState> {
        None
    }

    /// The output of the hook where no layer has a finisher of its own.
    fn finish(self) -> Self::Output;
}

/// Nothing to merge into at this kind of site. There is no value of this type.
#[derive(Clone, Copy, Debug)]
pub enum NoWeight {}
