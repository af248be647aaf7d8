//! What routers over adapters have in common: the largest weights of a token, and the sum that they weigh.

use burn::tensor::{Bool, Tensor};

/// Where the weights of a token, on the last axis, are among its `count` largest.
pub(crate) fn among_largest(weights: &Tensor<3>, count: usize) -> Tensor<3, Bool> {
    let [.., all] = weights.dims();
    let least = weights.clone().detach().topk(count.min(all), 2);
    let kept = least.dims()[2];
    let least = least.slice_dim(2, kept - 1..kept).expand(weights.dims());
    weights.clone().detach().greater_equal(least)
}

/// `sum_e w_e u_e` of the weights `[batch, seq, adapters]` and what each adapter adds, `[batch, seq, d_out]`.
pub(crate) fn weighted_sum(weights: Tensor<3>, additions: Vec<Tensor<3>>) -> Option<Tensor<3>> {
    let weighted = additions
        .into_iter()
        .enumerate()
        .map(|(index, addition)| addition * weights.clone().slice_dim(2, index..index + 1));
    weighted.reduce(|sum, one| sum + one)
}
