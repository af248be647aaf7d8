//! The head of a causal language model: scores of the vocabulary from the last hidden state.

use crate::modeling::*;

/// A linear layer to the vocabulary behind a hook for what adapters do with its input.
#[derive(Module, Sites, Debug)]
pub(crate) struct LmHead {
    input: Point<OutputHook>,
    layer: Sited<Linear>,
}

impl LmHead {
    /// The head of the path `name`, `[d_model, vocabulary]`; `tied` is the table that its weight is, where it has none of its
    /// own.
    pub(crate) fn build(
        name: &str,
        bias: bool,
        tied: Option<&Sited<Embedding>>,
        [d_model, vocabulary]: [usize; 2],
        weights: &mut Weights,
    ) -> Self {
        let mut top = weights.at_top(Location::outside(Stack::Decoder), name);
        Self {
            input: top.head_input("", d_model),
            layer: top.head(bias, tied, [d_model, vocabulary]),
        }
    }

    /// Scores of every token, `[batch, seq, d_model] -> [batch, seq, vocabulary]`.
    pub(crate) fn scores(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> LinearScores {
        let hidden = cx.output(&self.input, hidden);
        LinearScores::of(&self.layer, hidden, cx)
    }
}
