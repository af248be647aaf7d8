//! Small rotations of the last axis, block by block, for the methods made of them.

use adapters_core::{Call, ConfigError};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Steps of Newton's iteration: twelve double the digits from nothing to all of `f32`, the others serve matrices whose
/// norms are up to a thousand times their smallest singular value.
const STEPS: usize = 24;

/// Checks `num_cayley_neumann_terms`, the terms of a series that are computed in place of an inverse: each is a product of matrices
/// in every pass.
pub(crate) fn check_terms(terms: usize) -> Result<(), ConfigError> {
    ConfigError::unless(
        (1..=1000).contains(&terms),
        "num_cayley_neumann_terms",
        "1 to 1000",
        terms,
    )
}

/// The inverses of square matrices, `[n, b, b]`, on their device, with their derivative on any backend.
///
/// Newton's iteration `X <- X (2 I - A X)` from `A^T / (|A|_1 |A|_inf)`, which converges for every regular matrix (Ben-Israel
/// and Cohen, 1966). Only the last step is tracked: at the inverse its derivative is that of the inverse, `-X dA X`.
pub(crate) fn inverse(a: Tensor<3>) -> Tensor<3> {
    let [_, b, _] = a.dims();
    let two = Tensor::<2>::eye(b, &a.device()).unsqueeze() * 2.0;
    let plain = a.clone().detach();
    let sizes = plain.clone().abs();
    let size = sizes.clone().sum_dim(1).max_dim(2) * sizes.sum_dim(2).max_dim(1);
    let begin = plain.clone().swap_dims(1, 2) / size;
    let step = |a: Tensor<3>, x: Tensor<3>| x.clone().matmul(two.clone() - a.matmul(x));
    let x = (1..STEPS).fold(begin, |x, _| step(plain.clone(), x));
    step(a, x)
}

/// Which of `[v, -v, 0]` stands at each index of a skew-symmetric matrix, `[b b]`, for its upper elements `v` row by row.
pub(crate) fn skew_indices(b: usize, device: &Device) -> Tensor<1, Int> {
    let elements = b * (b - 1) / 2;
    let at = |row: usize, col: usize| row * (2 * b - row - 1) / 2 + col - row - 1;
    let index = |i: usize| match (i / b, i % b) {
        (row, col) if row < col => at(row, col),
        (row, col) if row > col => elements + at(col, row),
        _ => 2 * elements,
    };
    let indices: Vec<i64> = (0..b * b).map(|i| index(i) as i64).collect();
    Tensor::from_data(TensorData::new(indices, [b * b]), device)
}

/// Skew-symmetric matrices, `[n, b, b]`, of their upper elements, `[n, b (b - 1) / 2]`.
pub(crate) fn skew(upper: Tensor<2>, indices: Tensor<1, Int>, b: usize) -> Tensor<3> {
    let [n, _] = upper.dims();
    let zero = Tensor::zeros([n, 1], &upper.device());
    let all = Tensor::cat(vec![upper.clone(), -upper, zero], 1);
    all.select(1, indices).reshape([n, b, b])
}

/// `(I - S) (I + S)^-1`, a rotation of a skew-symmetric `S`, `[n, b, b]`.
pub(crate) fn cayley(skew: Tensor<3>) -> Tensor<3> {
    let [_, b, _] = skew.dims();
    let eye = Tensor::<2>::eye(b, &skew.device()).unsqueeze();
    (eye.clone() - skew.clone()).matmul(inverse(eye + skew))
}

/// The blocks, `[blocks, b, b]`, each of which is the identity with probability `prob`, in training. A single block stays.
pub(crate) fn with_identities(blocks: Tensor<3>, prob: f64, call: &Call<'_>) -> Tensor<3> {
    let ([count, b, _], device) = (blocks.dims(), blocks.device());
    match call.kept([count, 1, 1], prob, &device) {
        Some(kept) if count > 1 => {
            let eye = Tensor::<2>::eye(b, &device).unsqueeze();
            eye.clone() + (blocks - eye) * kept
        }
        _ => blocks,
    }
}

/// `x R` with the blocks of `R` on its diagonal: `[rows, blocks b]` and `[blocks, b, b]`, or one block for all.
pub(crate) fn rotate<const D: usize>(x: Tensor<D>, blocks: Tensor<3>) -> Tensor<D> {
    let shape = x.shape();
    let width = shape[D - 1];
    let rows = shape.num_elements() / width;
    let [_, b, _] = blocks.dims();
    let x = x.reshape([rows, width / b, b]).swap_dims(0, 1);
    x.matmul(blocks).swap_dims(0, 1).reshape(shape)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    #[test]
    fn inverses_and_their_derivatives() {
        let device = Device::flex().autodiff();
        // Dominated by their diagonals, hence never close to singular.
        let a = Tensor::<3>::random([3, 4, 4], Distribution::Uniform(-1.0, 1.0), &device);
        let a = (a + Tensor::<2>::eye(4, &device).unsqueeze() * 5.0)
            .detach()
            .require_grad();
        let x = inverse(a.clone());
        let product = a.clone().matmul(x.clone()).into_data();
        let eye = Tensor::<2>::eye(4, &device)
            .unsqueeze::<3>()
            .repeat_dim(0, 3)
            .into_data();
        product.assert_approx_eq::<f32>(&eye, Tolerance::absolute(1e-5));
        // d sum(P o X) = -sum(X^T P X^T o dA).
        let probe = Tensor::<3>::random([3, 4, 4], Distribution::Normal(0.0, 1.0), &device);
        let gradients = (x.clone() * probe.clone()).sum().backward();
        let transposed = x.detach().swap_dims(1, 2);
        let want = -(transposed.clone().matmul(probe).matmul(transposed));
        let got = a.grad(&gradients).unwrap().into_data();
        got.assert_approx_eq::<f32>(&want.into_data(), Tolerance::absolute(1e-4));
    }

    #[test]
    fn cayleys_matrices_are_rotations() {
        let device = Device::flex();
        let upper = Tensor::<2>::random([2, 6], Distribution::Normal(0.0, 1.0), &device);
        let skew = skew(upper.clone(), skew_indices(4, &device), 4);
        let first: Vec<f32> = skew.clone().into_data().iter().take(8).collect();
        let v: Vec<f32> = upper.into_data().iter().take(6).collect();
        assert_eq!(first, [0.0, v[0], v[1], v[2], -v[0], 0.0, v[3], v[4]]);
        let r = cayley(skew);
        let product = r.clone().matmul(r.swap_dims(1, 2)).into_data();
        let eye = Tensor::<2>::eye(4, &device)
            .unsqueeze::<3>()
            .repeat_dim(0, 2)
            .into_data();
        product.assert_approx_eq::<f32>(&eye, Tolerance::absolute(1e-5));
    }
}
