//! Matrices with orthonormal rows, in torch's parametrization.

use std::borrow::Cow;

use adapters_nn::draw;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;

/// `W`, `[r, d_model]`.
///
/// Source of the orthogonal variants: *Trivializations for Gradient-Based Optimization on Manifolds*, Lezcano-Casado,
/// 2019, <https://arxiv.org/abs/1909.09501>, as `torch.nn.utils.parametrizations.orthogonal` computes them.
#[derive(Module, Debug)]
pub struct Projection {
    /// What trains, `[r, d_model]`: `W` itself, or what it is computed from.
    pub(crate) original: Param<Tensor<2>>,
    /// The orthogonal matrix it moves from, `[d_model, d_model]`; stored and never trained. Without one `W` is free.
    pub(crate) base: Option<Param<Tensor<2>>>,
}

/// Steps of the series for the exponential; exact to 32 bits for matrices of norm 1/2.
const TERMS: usize = 10;
/// How often a matrix is halved at most before the series: exact up to a norm of 2^11, where entries of training are near 1.
const HALVINGS: i32 = 12;

impl Projection {
    /// A free projection.
    pub(crate) fn free(rng: &mut ChaCha8Rng, rank: usize, d_model: usize, device: &Device) -> Self {
        Self {
            original: draw::linear_param(rng, [rank, d_model], d_model, device),
            base: None,
        }
    }

    /// A projection with orthonormal rows: those of a random matrix, made orthonormal.
    ///
    /// `base` is the full `Q` of the decomposition `QR` of that matrix's transpose, with signs that make the diagonal of `R`
    /// positive, and `original` is minus one on its diagonal and zero elsewhere, so that `W` is the beginning of `base`.
    /// Torch replaces the other columns of `base` by random ones; any will do, since only the first ones are `W`.
    pub(crate) fn orthonormal(rng: &mut ChaCha8Rng, rank: usize, d_model: usize, device: &Device) -> Self {
        let rows: Vec<f32> = draw::linear(rng, [rank, d_model], d_model).iter().collect();
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
        Self {
            original: Param::from_data(TensorData::new(original, [rank, d_model]), device),
            base: Some(base.set_require_grad(false)),
        }
    }

    /// `W`, `[r, d_model]`.
    ///
    /// - free: `original`
    /// - `r < d_model`: `W = (base Q)^T` with the first `r` columns of `Q = H_1 .. H_r`, each times the sign on the
    ///   diagonal of `original`; `H_i = 1 - 2 v_i v_i^T / (v_i^T v_i)`, where `v_i` is 1 at `i` and what `original` has in
    ///   its row `i` behind the diagonal after it
    /// - `r = d_model`: `W = (base exp(A))^T` with the skew `A = L - L^T`, `L` the lower triangle of `original^T`
    ///
    /// The diagonal has no gradient. The `adapters` library truncates it to whole numbers at each use, so that a single step of
    /// weight decay makes `W` zero; here that happens once, when values come from a file.
    pub fn weight(&self) -> Tensor<2> {
        let original = self.original.val();
        let Some(base) = &self.base else { return original };
        let [rank, d_model] = original.dims();
        let base = base.val().transpose();
        match rank == d_model {
            true => exponential(skew(original)).transpose().matmul(base),
            false => {
                let signs = diagonal(original.clone().detach()).sign();
                reflected(original).mul(signs).matmul(base)
            }
        }
    }

    /// Name and id of the parameters below `path`.
    pub(crate) fn named_params(&self, path: &str) -> Vec<(Cow<'static, str>, ParamId)> {
        match &self.base {
            None => vec![(format!("{path}.weight").into(), self.original.id)],
            Some(base) => vec![
                (
                    format!("{path}.parametrizations.weight.original").into(),
                    self.original.id,
                ),
                (format!("{path}.parametrizations.weight.0.base").into(), base.id),
            ],
        }
    }
}

/// The first elements of the diagonal, `[r, d] -> [r, 1]`.
fn diagonal(x: Tensor<2>) -> Tensor<2> {
    x.clone().mul(eye_like(&x)).sum_dim(1)
}

/// Ones on the diagonal of a wide matrix of this shape.
fn eye_like(x: &Tensor<2>) -> Tensor<2> {
    let [rows, cols] = x.dims();
    Tensor::eye(cols, &x.device()).slice_dim(0, 0..rows)
}

/// The first `r` rows of `(H_1 .. H_r)^T`, `[r, d]`.
fn reflected(original: Tensor<2>) -> Tensor<2> {
    let eye = eye_like(&original);
    let vectors = original.triu(1) + eye.clone();
    let [rank, _] = vectors.dims();
    let factors = vectors.clone().square().sum_dim(1).recip() * 2.0;
    (0..rank).rev().fold(eye, |rows, i| {
        let v = vectors.clone().slice_dim(0, i..i + 1);
        let factor = factors.clone().slice_dim(0, i..i + 1);
        let along = rows.clone().matmul(v.clone().transpose()) * factor;
        rows - along.matmul(v)
    })
}

/// `L - L^T` of the lower triangle `L` of the transpose, `[d, d]`.
fn skew(original: Tensor<2>) -> Tensor<2> {
    let upper = original.triu(0);
    upper.clone().transpose() - upper
}

/// `exp(A)` by scaling and squaring, `[d, d]`. How often it is halved depends on its norm, and stays on the device: every
/// squaring is computed, and taken while the norm asks for it.
fn exponential(a: Tensor<2>) -> Tensor<2> {
    let [d, _] = a.dims();
    let norm = a.clone().detach().abs().sum_dim(0).max_dim(1);
    let bits = std::f64::consts::LN_2.recip();
    let halvings = ((norm * 2.0).clamp_min(1.0).log() * bits).ceil().clamp_max(HALVINGS);
    let a = a * (halvings.clone() * -std::f64::consts::LN_2).exp();
    let eye = Tensor::<2>::eye(d, &a.device());
    // Horner: 1 + a (1 + a/2 (1 + a/3 (..))).
    let series = (1..=TERMS).rev().fold(eye.clone(), |sum, n| {
        eye.clone() + a.clone().matmul(sum) * (n as f64).recip()
    });
    (0..HALVINGS).fold(series, |x, done| {
        let enough = halvings.clone().lower_equal_elem(done).expand([d, d]);
        x.clone().matmul(x.clone()).mask_where(enough, x)
    })
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
