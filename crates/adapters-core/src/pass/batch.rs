//! What a model reads, as far as a pass needs to know it.

use burn::tensor::kind::Basic;
use burn::tensor::{Bool, Int, Tensor};

/// The input of a model, which [`Ctx::begin`](crate::Ctx::begin) checks and repeats.
pub trait Batch: Sized {
    /// Rows and positions.
    fn size(&self) -> [usize; 2];

    /// The whole batch `times` times, one copy after the other.
    #[must_use]
    fn repeated(self, times: usize) -> Self;

    /// The sequence of the batch, asked for once, after it was repeated. By default nothing is padded and nothing comes
    /// before it.
    fn sequence(&mut self) -> Sequence {
        Sequence::default()
    }
}

/// What adapters are told about the sequence of a pass.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// True at padding, `[batch, past + seq]`; `None` when nothing is padded.
    pub padding: Option<Tensor<2, Bool>>,
    /// Positions before the first of this pass, which a cache of keys and values holds.
    pub past: usize,
    /// Ids of the tokens of this pass, `[batch, seq]`; `None` where it reads something else.
    pub tokens: Option<Tensor<2, Int>>,
    /// Ids of the tokens of earlier passes, which a cache holds, `[batch, earlier]`; `None` where there are none.
    pub earlier: Option<Tensor<2, Int>>,
}

/// A tensor `[batch, seq, ..]` without padding.
impl<const D: usize, K: Basic> Batch for Tensor<D, K> {
    fn size(&self) -> [usize; 2] {
        let dims = self.dims();
        [0, 1].map(|axis| dims.get(axis).copied().unwrap_or(1))
    }

    fn repeated(self, times: usize) -> Self {
        self.repeat_dim(0, times)
    }
}
