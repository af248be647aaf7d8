//! Several texts in one row that do not see each other.

use adapters_nn::ops;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Which text of its row each token belongs to, and where in it. A token sees the tokens of its own text alone, and the positions of
/// each text begin at zero, so that a text has the hidden states it has alone.
#[derive(Clone, Debug)]
pub struct Packing {
    /// `[batch, seq]`; padding is a text of its own.
    texts: Tensor<2, Int>,
    /// `[batch, seq]`.
    positions: Tensor<2, Int>,
}

impl Packing {
    /// Rows of `seq` tokens that begin with texts of these lengths, one behind the other.
    pub fn new(rows: &[&[usize]], seq: usize, device: &Device) -> Self {
        let (mut texts, mut positions) = (Vec::new(), Vec::new());
        for lengths in rows {
            let used: usize = lengths.iter().sum();
            let padding = seq.saturating_sub(used);
            for (text, length) in lengths.iter().chain([&padding]).enumerate() {
                texts.extend(std::iter::repeat_n(text as i64, *length));
                positions.extend(0..*length as i64);
            }
        }
        let tensor = |values| Tensor::from_data(TensorData::new(values, [rows.len(), seq]), device);
        Self {
            texts: tensor(texts),
            positions: tensor(positions),
        }
    }

    pub(crate) fn repeated(self, times: usize) -> Self {
        Self {
            texts: self.texts.repeat_dim(0, times),
            positions: self.positions.repeat_dim(0, times),
        }
    }

    /// The positions of the tokens, `[batch, seq]`.
    pub(crate) fn positions(&self) -> Tensor<2, Int> {
        self.positions.clone()
    }
}

/// What each query of a decoder may see that looks ahead, too: with a window, keys that are fewer positions than that away from it.
pub(crate) fn bidirectional_bias(
    [seq, past]: [usize; 2],
    window: Option<usize>,
    padding: Option<&Tensor<2, Bool>>,
    packing: Option<&Packing>,
    device: &Device,
) -> Tensor<4> {
    let keys = past + seq;
    let reach = window.map_or(keys, |window| window.saturating_sub(1));
    let bias = ops::window_bias(keys, reach, padding, device).slice_dim(2, past..keys);
    within_texts(bias, packing)
}

/// The same bias, with which the texts of a packed row do not see each other.
fn within_texts(bias: Tensor<4>, packing: Option<&Packing>) -> Tensor<4> {
    match packing {
        Some(packing) => ops::packed_bias(bias, &packing.texts),
        None => bias,
    }
}

/// What each query of a decoder may see; see [`ops::causal_bias`].
pub(crate) fn causal_bias(
    [seq, past]: [usize; 2],
    window: Option<usize>,
    padding: Option<&Tensor<2, Bool>>,
    packing: Option<&Packing>,
    device: &Device,
) -> Tensor<4> {
    let bias = ops::causal_bias(seq, past, window, padding, device);
    within_texts(bias, packing)
}
