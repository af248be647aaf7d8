//! How the state of a hook is cut and joined along the sequence: axis 1 of its tensors.
//!
//! Only states whose positions can be told apart implement the methods. The keys and values of an attention are seen from
//! every position, and what enters a model as a whole has no range of its own, so that a `Split` has no meaning there.

use std::ops::Range;

use burn::tensor::Tensor;

/// A batch whose positions can be taken apart and joined, where that has a meaning.
pub trait Positions: Sized {
    /// How many positions there are; `None` where they belong together.
    fn positions(&self) -> Option<usize> {
        None
    }

    /// These positions alone; `None` where they belong together.
    fn take_positions(&self, _range: Range<usize>) -> Option<Self> {
        None
    }

    /// Parts of a sequence in order; `None` where positions belong together. `chunks` is never empty.
    fn join_positions(_parts: Vec<Self>) -> Option<Self> {
        None
    }
}

impl Positions for Tensor<3> {
    fn positions(&self) -> Option<usize> {
        Some(self.dims()[1])
    }

    fn take_positions(&self, range: Range<usize>) -> Option<Self> {
        Some(self.clone().slice_dim(1, range))
    }

    fn join_positions(chunks: Vec<Self>) -> Option<Self> {
        Some(Tensor::cat(chunks, 1))
    }
}

/// A delta at these positions. One that holds for all positions, as a factor does, is kept.
pub(super) fn cut(delta: &Tensor<3>, range: Range<usize>, positions: usize) -> Tensor<3> {
    match delta.dims()[1] == positions {
        true => delta.clone().slice_dim(1, range),
        false => delta.clone(),
    }
}

/// A delta with this many positions, repeated where it holds for all.
pub(super) fn spread(delta: Tensor<3>, positions: usize) -> Tensor<3> {
    let [rows, seq, d] = delta.dims();
    match seq == positions {
        true => delta,
        false => delta.expand([rows, positions, d]),
    }
}

/// Deltas of chunks with these numbers of positions; one that is absent counts as zero next to one that is not.
pub(super) fn join(deltas: Vec<(usize, Option<Tensor<3>>)>) -> Option<Tensor<3>> {
    let first = deltas.iter().find_map(|(_, delta)| delta.as_ref())?;
    let ([rows, _, d], device) = (first.dims(), first.device());
    let spread = deltas.into_iter().map(|(positions, delta)| match delta {
        Some(delta) => spread(delta, positions),
        None => Tensor::zeros([rows, positions, d], &device),
    });
    Some(Tensor::cat(spread.collect(), 1))
}
