//! Small rotations of the last axis, block by block, for the methods made of them.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// The inverses of small square matrices, `[n, b, b]`, with their derivative on any backend.
///
/// The inverse `X` is computed on the host, and `X (2 I - A X)` is returned: one step of Newton's iteration, which changes
/// nothing but rounding, and whose derivative is that of the inverse, `-X dA X`.
pub(crate) fn inverse(a: Tensor<3>) -> Tensor<3> {
    let [n, b, _] = a.dims();
    let values: Vec<f64> = a.clone().detach().into_data().iter::<f64>().collect();
    let inverses: Vec<f32> = values
        .chunks_exact(b * b)
        .flat_map(|matrix| invert(matrix.to_vec(), b))
        .map(|x| x as f32)
        .collect();
    let x = Tensor::<3>::from_data(TensorData::new(inverses, [n, b, b]), &a.device());
    let two = Tensor::<2>::eye(b, &a.device()).unsqueeze() * 2.0;
    x.clone().matmul(two - a.matmul(x))
}

/// Gauss-Jordan elimination with pivots. A singular matrix gives infinities.
fn invert(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let mut inverse: Vec<f64> = (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect();
    for col in 0..n {
        let pivot = (col..n)
            .max_by(|i, j| a[i * n + col].abs().total_cmp(&a[j * n + col].abs()))
            .unwrap_or(col);
        for k in 0..n {
            a.swap(col * n + k, pivot * n + k);
            inverse.swap(col * n + k, pivot * n + k);
        }
        let factor = a[col * n + col].recip();
        for k in 0..n {
            a[col * n + k] *= factor;
            inverse[col * n + k] *= factor;
        }
        for row in (0..n).filter(|row| *row != col) {
            let factor = a[row * n + col];
            for k in 0..n {
                a[row * n + k] -= factor * a[col * n + k];
                inverse[row * n + k] -= factor * inverse[col * n + k];
            }
        }
    }
    inverse
}

/// Which of `[v, -v, 0]` stands at each place of a skew-symmetric matrix, `[b b]`, for its upper elements `v` row by row.
pub(crate) fn skew_places(b: usize, device: &Device) -> Tensor<1, Int> {
    let elements = b * (b - 1) / 2;
    let at = |row: usize, col: usize| row * (2 * b - row - 1) / 2 + col - row - 1;
    let place = |i: usize| match (i / b, i % b) {
        (row, col) if row < col => at(row, col),
        (row, col) if row > col => elements + at(col, row),
        _ => 2 * elements,
    };
    let places: Vec<i64> = (0..b * b).map(|i| place(i) as i64).collect();
    Tensor::from_data(TensorData::new(places, [b * b]), device)
}

/// Skew-symmetric matrices, `[n, b, b]`, of their upper elements, `[n, b (b - 1) / 2]`.
pub(crate) fn skew(upper: Tensor<2>, places: Tensor<1, Int>, b: usize) -> Tensor<3> {
    let [n, _] = upper.dims();
    let zero = Tensor::zeros([n, 1], &upper.device());
    let all = Tensor::cat(vec![upper.clone(), -upper, zero], 1);
    all.select(1, places).reshape([n, b, b])
}

/// `(I - S) (I + S)^-1`, a rotation of a skew-symmetric `S`, `[n, b, b]`.
pub(crate) fn cayley(skew: Tensor<3>) -> Tensor<3> {
    let [_, b, _] = skew.dims();
    let eye = Tensor::<2>::eye(b, &skew.device()).unsqueeze();
    (eye.clone() - skew.clone()).matmul(inverse(eye + skew))
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
        let skew = skew(upper.clone(), skew_places(4, &device), 4);
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
