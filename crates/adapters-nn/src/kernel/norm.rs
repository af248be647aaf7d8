//! Layer normalization and root-mean-square normalization of rows, with the gradient of the rows.

use pulp::{Simd, WithSimd};

use super::activation::Plus;
use super::simd::{self, Identity, Level, Map, Map2, Product, Sum, mul_add};
use super::threads;

/// `(x - mean) / sqrt(variance + epsilon) gamma + beta` of each row, or without the mean, `x / sqrt(mean(x^2) + epsilon) gamma`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm<'a> {
    /// Factor of each column.
    pub gamma: &'a [f32],
    /// Summand of each column, if any.
    pub beta: Option<&'a [f32]>,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether the mean is taken away.
    pub centered: bool,
}

impl Norm<'_> {
    /// The normalized rows of `x` into `out`.
    pub(crate) fn forward(&self, level: Level, x: &[f32], out: &mut [f32]) {
        let width = self.gamma.len();
        threads::chunks(out, width, |first, out| {
            let x = &x[first * width..first * width + out.len()];
            level.run(Rows { norm: *self, x, out });
        });
    }

    /// The normalized rows of `x + residual` into `out`, and the sum into `sum` where there is one.
    pub(crate) fn forward_of_sum(
        &self,
        level: Level,
        x: &[f32],
        residual: &[f32],
        sum: Option<&mut [f32]>,
        out: &mut [f32],
    ) {
        let width = self.gamma.len();
        let row = |index: usize, sum: &mut [f32], out: &mut [f32]| {
            let numbers = index * width..(index + 1) * width;
            level.run(SumRow {
                norm: *self,
                x: &x[numbers.clone()],
                residual: &residual[numbers],
                sum,
                out,
            });
        };
        match sum {
            Some(sum) => threads::chunks2(sum, out, width, |first, sum, out| {
                let rows = sum.chunks_exact_mut(width).zip(out.chunks_exact_mut(width));
                rows.zip(first..).for_each(|((sum, out), index)| row(index, sum, out));
            }),
            None => threads::chunks(out, width, |first, out| {
                let mut sum = vec![0.0; width];
                let rows = out.chunks_exact_mut(width).zip(first..);
                rows.for_each(|(out, index)| row(index, &mut sum, out));
            }),
        }
    }

    /// The gradient of the rows `x`, in place of the gradient of the normalized ones.
    pub(crate) fn backward(&self, level: Level, x: &[f32], grad: &mut [f32]) {
        let width = self.gamma.len();
        threads::chunks(grad, width, |first, grad| {
            let x = &x[first * width..first * width + grad.len()];
            level.run(Gradient { norm: *self, x, grad });
        });
    }

    /// Mean and reciprocal deviation of a row.
    #[inline(always)]
    fn statistics<S: Simd>(&self, s: S, x: &[f32]) -> (f32, f32) {
        let count = x.len() as f32;
        let mean = match self.centered {
            true => simd::fold(s, Identity, Sum, x) / count,
            false => 0.0,
        };
        let variance = simd::fold(s, Deviation(mean), Sum, x) / count;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }

    #[inline(always)]
    fn row<S: Simd>(&self, s: S, x: &[f32], out: &mut [f32]) {
        let (mean, scale) = self.statistics(s, x);
        simd::map2_into(s, Normalize { mean, scale }, x, self.gamma, out);
        if let Some(beta) = self.beta {
            simd::map2(s, Plus, out, beta);
        }
    }
}

struct Rows<'a> {
    norm: Norm<'a>,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let width = self.norm.gamma.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            self.norm.row(s, x, out);
        }
    }
}

struct SumRow<'a> {
    norm: Norm<'a>,
    x: &'a [f32],
    residual: &'a [f32],
    sum: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for SumRow<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        simd::map2_into(s, Plus, self.x, self.residual, self.sum);
        self.norm.row(s, self.sum, self.out);
    }
}

struct Gradient<'a> {
    norm: Norm<'a>,
    x: &'a [f32],
    grad: &'a mut [f32],
}

impl WithSimd for Gradient<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let norm = self.norm;
        let width = norm.gamma.len();
        for (x, grad) in self.x.chunks_exact(width).zip(self.grad.chunks_exact_mut(width)) {
            let (mean, scale) = norm.statistics(s, x);
            simd::map2(s, Product, grad, norm.gamma);
            let count = width as f32;
            let average = match norm.centered {
                true => simd::fold(s, Identity, Sum, grad) / count,
                false => 0.0,
            };
            let along = simd::fold2(s, Along { mean, scale }, Sum, grad, x) / count;
            simd::map2(
                s,
                InputGradient {
                    mean,
                    scale,
                    average,
                    along,
                },
                grad,
                x,
            );
        }
    }
}

/// `(x - mean)^2`.
#[derive(Clone, Copy)]
struct Deviation(f32);

impl Map for Deviation {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        let x = s.sub_f32s(x, s.splat_f32s(self.0));
        s.mul_f32s(x, x)
    }
}

/// `(x - mean) scale gamma`.
#[derive(Clone, Copy)]
struct Normalize {
    mean: f32,
    scale: f32,
}

impl Map2 for Normalize {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s, gamma: S::f32s) -> S::f32s {
        let x = s.mul_f32s(s.sub_f32s(x, s.splat_f32s(self.mean)), s.splat_f32s(self.scale));
        s.mul_f32s(x, gamma)
    }
}

/// `grad (x - mean) scale`.
#[derive(Clone, Copy)]
struct Along {
    mean: f32,
    scale: f32,
}

impl Map2 for Along {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, grad: S::f32s, x: S::f32s) -> S::f32s {
        let x = s.mul_f32s(s.sub_f32s(x, s.splat_f32s(self.mean)), s.splat_f32s(self.scale));
        s.mul_f32s(grad, x)
    }
}

/// `scale (grad - average - (x - mean) scale along)`.
#[derive(Clone, Copy)]
struct InputGradient {
    mean: f32,
    scale: f32,
    average: f32,
    along: f32,
}

impl Map2 for InputGradient {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, grad: S::f32s, x: S::f32s) -> S::f32s {
        let scale = s.splat_f32s(self.scale);
        let x = s.mul_f32s(s.sub_f32s(x, s.splat_f32s(self.mean)), scale);
        let grad = s.sub_f32s(grad, s.splat_f32s(self.average));
        s.mul_f32s(scale, mul_add(s, x, s.splat_f32s(-self.along), grad))
    }
}
