//! A hidden state as a whole.

use burn::tensor::{Bool, Tensor};

use super::fields::by_fields;
use super::hook_state::{HookState, NoWeight};

/// State of a hidden state as a whole: a layer's output, or the input of the language-model head.
#[derive(Clone, Debug)]
pub struct OutputState {
    /// `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// True at padding, as [`Pass::padding`](crate::Pass::padding) has it for these rows.
    pub padding: Option<Tensor<2, Bool>>,
    /// A second state that an adapter takes from layer to layer, `[batch, seq, d_model]`.
    pub carried: Option<Tensor<3>>,
}

by_fields!(OutputState, positions of hidden {
    hidden: tensor,
    padding: optional,
    carried: delta,
});

impl HookState for OutputState {
    type Output = Self;
    type Weight = NoWeight;
    type Effect = ();

    const FIRST_ONLY: bool = true;

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    fn finish(self) -> Self {
        self
    }
}
