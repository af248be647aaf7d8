//! Concatenated factors, and the best factors of a given rank.

use burn::linalg::{qr, svd};
use burn::tensor::{Device, Tensor};

use crate::combine::inputs::Factor;
use crate::combine::matrix::Matrix;
use crate::init::SWEEPS;

/// All A above each other, times `weight`, and all B next to each other.
pub(super) fn concatenated(factors: &[Factor], weight: impl Fn(&Factor) -> f64, device: &Device) -> (Matrix, Matrix) {
    let a = factors.iter().map(|f| f.a.tensor(device) * weight(f)).collect();
    let b = factors.iter().map(|f| f.b.tensor(device)).collect();
    (Matrix::of(Tensor::cat(a, 0)), Matrix::of(Tensor::cat(b, 1)))
}

/// The `rank` largest singular triplets of `left right`, as `A = V^T` and `B = U S`; zeros beyond what there is.
///
/// The dense product is not formed: both factors are made orthogonal first, and what is left is narrow.
pub(super) fn product_svd(left: &Matrix, right: &Matrix, rank: usize, device: &Device) -> (Matrix, Matrix) {
    if left.cols >= left.rows.min(right.cols) {
        return dense_svd(left.tensor(device).matmul(right.tensor(device)), rank);
    }
    let (q_left, r_left) = qr(left.tensor(device), true);
    let (q_right, r_right) = qr(right.tensor(device).transpose(), true);
    let (u, s, vt) = svd::<2, 1>(r_left.matmul(r_right.transpose()), SWEEPS);
    truncate(q_left.matmul(u), s, vt.matmul(q_right.transpose()), rank)
}

pub(super) fn dense_svd(update: Tensor<2>, rank: usize) -> (Matrix, Matrix) {
    let (u, s, vt) = svd::<2, 1>(update, SWEEPS);
    truncate(u, s, vt, rank)
}

fn truncate(u: Tensor<2>, s: Tensor<1>, vt: Tensor<2>, rank: usize) -> (Matrix, Matrix) {
    let [d_out, there] = u.dims();
    let [_, d_in] = vt.dims();
    let device = u.device();
    let kept = rank.min(there);
    let b = u.slice_dim(1, 0..kept) * s.slice_dim(0, 0..kept).unsqueeze_dim(0);
    let a = vt.slice_dim(0, 0..kept);
    let missing = rank - kept;
    if missing == 0 {
        return (Matrix::of(a), Matrix::of(b));
    }
    let a = Tensor::cat(vec![a, Tensor::zeros([missing, d_in], &device)], 0);
    let b = Tensor::cat(vec![b, Tensor::zeros([d_out, missing], &device)], 1);
    (Matrix::of(a), Matrix::of(b))
}
