//! How the rows of a batch are cut, joined and summed: axis 0 of every tensor.

use burn::tensor::kind::Basic;
use burn::tensor::{Int, Tensor, TensorData};

use super::positions::spread;

/// A batch whose rows can be taken apart and joined: axis 0 of every tensor in it.
pub trait Rows: Sized {
    /// The rows of these indices, in this order.
    fn take_rows(&self, rows: &[usize]) -> Self;
    /// Batches joined in order. `chunks` is never empty.
    fn join_rows(chunks: Vec<Self>) -> Self;
}

/// The rows of these indices: a slice where they follow each other.
pub(super) fn take<const D: usize, K: Basic>(tensor: &Tensor<D, K>, rows: &[usize]) -> Tensor<D, K> {
    match rows {
        [first, ..] if rows.windows(2).all(|pair| pair[1] == pair[0] + 1) => {
            let run = *first..first + rows.len();
            match run == (0..tensor.dims()[0]) {
                true => tensor.clone(),
                false => tensor.clone().slice_dim(0, run),
            }
        }
        rows => {
            let indices: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
            let indices = TensorData::new(indices, [rows.len()]);
            tensor
                .clone()
                .select(0, Tensor::<1, Int>::from_data(indices, &tensor.device()))
        }
    }
}

/// Batches joined; one alone is as it was.
pub(super) fn cat<const D: usize, K: Basic>(mut tensors: Vec<Tensor<D, K>>) -> Tensor<D, K> {
    match tensors.len() {
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, 0),
    }
}

impl Rows for Tensor<3> {
    fn take_rows(&self, rows: &[usize]) -> Self {
        take(self, rows)
    }

    fn join_rows(chunks: Vec<Self>) -> Self {
        cat(chunks)
    }
}

/// Deltas joined; one that is absent counts as zero next to one that is not.
pub(super) fn join_deltas(deltas: Vec<(usize, Option<Tensor<3>>)>) -> Option<Tensor<3>> {
    let present = || deltas.iter().filter_map(|(_, delta)| delta.as_ref());
    let first = present().next()?;
    let ([_, _, d], device) = (first.dims(), first.device());
    // A factor holds for all positions and has one of its own.
    let positions = present().map(|delta| delta.dims()[1]).max()?;
    let filled = deltas.into_iter().map(|(rows, delta)| match delta {
        Some(delta) => spread(delta, positions),
        None => Tensor::zeros([rows, positions, d], &device),
    });
    Some(cat(filled.collect()))
}

/// `sum_i w_i x_i`.
pub(super) fn weighted<const D: usize>(terms: impl IntoIterator<Item = (Tensor<D>, f64)>) -> Option<Tensor<D>> {
    terms.into_iter().map(|(x, weight)| x * weight).reduce(|sum, x| sum + x)
}

/// `sum_i w_i d_i` of the deltas that are there.
pub(super) fn weighted_deltas(deltas: impl IntoIterator<Item = (Option<Tensor<3>>, f64)>) -> Option<Tensor<3>> {
    weighted(deltas.into_iter().filter_map(|(delta, weight)| Some((delta?, weight))))
}
