//! Initial values, drawn on the host from the generator given.

use adapters_nn::draw;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;

use crate::orthogonal::Projection;

/// Uniform in plus and minus `1 / sqrt(d_in)`: what torch gives a linear layer.
pub(crate) fn linear<const D: usize>(
    rng: &mut ChaCha8Rng,
    shape: [usize; D],
    d_in: usize,
    device: &Device,
) -> Param<Tensor<D>> {
    let bound = (d_in as f32).sqrt().recip();
    Param::from_data(draw::uniform(rng, shape, bound), device)
}

/// A free projection.
pub(crate) fn free(rng: &mut ChaCha8Rng, rank: usize, d_model: usize, device: &Device) -> Projection {
    Projection {
        original: linear(rng, [rank, d_model], d_model, device),
        base: None,
    }
}

/// A projection with orthonormal rows: those of a random matrix, made orthonormal.
///
/// `base` is the full `Q` of the decomposition `QR` of that matrix's transpose, with signs that make the diagonal of `R`
/// positive, and `original` is minus one on its diagonal and zero elsewhere, which is where `W` is the beginning of `base`.
/// The reference fills `base` up with random columns in place of those the decomposition has; any will do, since only
/// the first ones are `W`.
pub(crate) fn orthonormal(rng: &mut ChaCha8Rng, rank: usize, d_model: usize, device: &Device) -> Projection {
    let bound = (d_model as f32).sqrt().recip();
    let rows: Vec<f32> = draw::uniform(rng, [rank, d_model], bound).iter().collect();
    let rows: Vec<Vec<f64>> = rows
        .chunks(d_model)
        .map(|row| row.iter().map(|x| f64::from(*x)).collect())
        .collect();
    let base: Vec<f32> = full_q(rows, d_model).into_iter().map(|x| x as f32).collect();
    let mut original = vec![0.0f32; rank * d_model];
    for i in 0..rank {
        original[i * d_model + i] = -1.0;
    }
    let base = Param::from_data(TensorData::new(base, [d_model, d_model]), device);
    Projection {
        original: Param::from_data(TensorData::new(original, [rank, d_model]), device),
        base: Some(base.set_require_grad(false)),
    }
}

/// `Q`, `[d, d]` row by row, of the decomposition of the matrix with these columns, by Householder's reflections.
fn full_q(mut columns: Vec<Vec<f64>>, d: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let reflect = |x: &mut [f64], v: &[f64], square: f64| {
        let along = 2.0 * dot(x, v) / square;
        x.iter_mut().zip(v).for_each(|(x, v)| *x -= along * v);
    };
    let mut vectors: Vec<(Vec<f64>, f64)> = Vec::new();
    let mut signs = vec![1.0; d];
    for i in 0..columns.len() {
        let mut v = columns[i].clone();
        v[..i].fill(0.0);
        let norm = dot(&v, &v).sqrt();
        // The reflection sends the column to -sign(v_i) norm e_i.
        let sign = if v[i] < 0.0 { -1.0 } else { 1.0 };
        v[i] += sign * norm;
        signs[i] = -sign;
        let square = dot(&v, &v);
        if square == 0.0 {
            continue;
        }
        for column in &mut columns[i..] {
            reflect(column, &v, square);
        }
        vectors.push((v, square));
    }
    // Rows of Q = H_1 .. H_r: those of the unit matrix, reflected from the left to the right.
    let mut q = vec![0.0; d * d];
    for (i, row) in q.chunks_mut(d).enumerate() {
        row[i] = 1.0;
        for (v, square) in &vectors {
            reflect(row, v, *square);
        }
        row.iter_mut().zip(&signs).for_each(|(x, sign)| *x *= sign);
    }
    q
}
