//! The layers: vectors inserted among the embedded tokens.

use std::borrow::Cow;

use adapters_core::{Call, Causality, EmbeddingState, NamedParams, SiteAdapter};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::p_tuning::network::NetworkParams;
use crate::virtual_tokens::PROMPT;

/// `[P; x]`, or `[x_0; P; x_1 ..]`.
#[derive(Module, Debug)]
pub(crate) struct PromptLayer {
    /// `P`, `[prompt_length, d_model]`.
    pub(crate) vectors: Param<Tensor<2>>,
    /// Position of the text before which they are inserted.
    pub(crate) position: usize,
}

impl SiteAdapter<EmbeddingState> for PromptLayer {
    /// Inserts the vectors. The padding mask grows at its front, as in the `adapters` library: the vectors are seen by all
    /// tokens and do not see padding.
    ///
    /// # Panics
    ///
    /// Panics if the last axis is not the model's width.
    fn apply(&self, state: EmbeddingState, _call: &Call<'_>) -> EmbeddingState {
        state.insert(self.position, self.vectors.val())
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl NamedParams for PromptLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![("prompt_embedding.weight".into(), self.vectors.id)]
    }
}

/// `[P; x]`, where `P` are the first rows of what the adapter shares.
#[derive(Module, Debug)]
pub(crate) struct VirtualTokensLayer {
    /// Rows of `P`.
    pub(crate) rows: usize,
}

/// The rows of an adapter, or the network that computes them.
#[derive(Module, Debug)]
pub(crate) enum PromptRows {
    /// `[rows, d_model]`.
    Rows(Param<Tensor<2>>),
    /// What computes them.
    Network(NetworkParams),
}

impl NamedParams for PromptRows {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        match self {
            Self::Rows(rows) => vec![(PROMPT.into(), rows.id)],
            Self::Network(network) => network.named_params(),
        }
    }
}

impl SiteAdapter<EmbeddingState, PromptRows> for VirtualTokensLayer {
    /// # Panics
    ///
    /// Panics if the last axis is not the width of the token table.
    fn apply(&self, state: EmbeddingState, call: &Call<'_, PromptRows>) -> EmbeddingState {
        let vectors = match call.shared {
            PromptRows::Rows(rows) => rows.val(),
            PromptRows::Network(network) => network.forward(|x, prob| call.dropout(x, prob)),
        };
        state.insert(0, vectors.slice_dim(0, 0..self.rows))
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

/// All its parameters are shared.
impl NamedParams for VirtualTokensLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use adapters_core::{Pass, Role, Site, Stack};
    use burn::tensor::{Bool, Device, TensorData};

    use super::*;

    const SITE: Site = Site::outside(Stack::Encoder, Role::Embedding);

    fn applied(at: usize, seq: usize, padding: Option<Vec<bool>>) -> (Vec<f32>, Option<Vec<bool>>) {
        let device = Device::flex();
        let layer = PromptLayer {
            vectors: Param::from_tensor(Tensor::from_data([[-1.0], [-2.0]], &device)),
            position: at,
        };
        let pass = Pass::default();
        let call = Call {
            pass: &pass,
            shared: &(),
            adapter: "a",
            site: SITE,
        };
        let tokens: Vec<f32> = (0..seq).map(|t| t as f32).collect();
        let hidden = Tensor::<3>::from_data(TensorData::new(tokens, [1, seq, 1]), &device);
        let padding = padding.map(|flags| Tensor::<2, Bool>::from_data(TensorData::new(flags, [1, seq]), &device));
        let state = layer.apply(EmbeddingState::new(hidden, padding), &call);
        let padding = state.padding.map(|padding| padding.into_data().iter().collect());
        (state.hidden.into_data().iter().collect(), padding)
    }

    #[test]
    fn short_rows_left_padding_and_no_mask() {
        assert_eq!(applied(0, 3, None), (vec![-1.0, -2.0, 0.0, 1.0, 2.0], None));
        assert_eq!(applied(1, 3, None).0, [0.0, -1.0, -2.0, 1.0, 2.0]);
        // One token, which is fewer than there are vectors.
        assert_eq!(applied(1, 1, None).0, [0.0, -1.0, -2.0]);
        let left = applied(0, 2, Some(vec![true, false]));
        assert_eq!(
            left,
            (vec![-1.0, -2.0, 0.0, 1.0], Some(vec![false, false, true, false]))
        );
    }
}
