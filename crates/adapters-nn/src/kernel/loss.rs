//! Cross entropy of a linear layer's outputs, without the outputs: a chunk of the vocabulary at a time.

use pulp::{Simd, WithSimd};

use super::half::Packed;
use super::raw::{Mat, MatMut, product};
use super::simd::{self, Level, Map, Map2, Max, Sum};
use super::threads;

/// Rows of a block, and columns of a chunk.
const ROWS: usize = 256;
const COLUMNS: usize = 1024;

/// The weight of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weight<'a> {
    /// In `f32`.
    Full(Mat<'a>),
    /// In `bf16`, packed for the product with it, and for that with the transposed weight.
    Half(&'a Packed, &'a Packed),
}

impl Weight<'_> {
    fn vocab(&self) -> usize {
        match self {
            Self::Full(weight) => weight.shape()[1],
            Self::Half(weight, _) => weight.shape()[1],
        }
    }

    /// The scores of `columns` from `first` on, `[rows, columns]`.
    fn scores(&self, level: Level, hidden: &[f32], [rows, width]: [usize; 2], first: usize, scores: &mut [f32]) {
        let columns = scores.len() / rows.max(1);
        let out = MatMut::dense(scores, rows, columns);
        match self {
            Self::Full(weight) => {
                let hidden = Mat::dense(hidden, rows, width);
                product(out, hidden, weight.columns(first, columns), 1.0, false, false);
            }
            Self::Half(weight, _) => weight.part(level, &hidden[..rows * width], 0..width, first, false, out),
        }
    }

    /// Adds what the columns from `first` on give to the gradient, `[rows, d]`, or puts it there.
    fn grad(&self, level: Level, scores: &[f32], [rows, width]: [usize; 2], first: usize, grad: &mut [f32]) {
        let columns = scores.len() / rows.max(1);
        let out = MatMut::dense(grad, rows, width);
        match self {
            Self::Full(weight) => {
                let weight = weight.columns(first, columns).transposed();
                product(out, Mat::dense(scores, rows, columns), weight, 1.0, first > 0, false);
            }
            Self::Half(_, weight) => weight.part(level, scores, first..first + columns, 0, first > 0, out),
        }
    }

    fn column(&self, column: usize, out: &mut [f32]) {
        match self {
            Self::Full(weight) => {
                let rows = out.len();
                weight.columns(column, 1).copy_to(&mut MatMut::dense(out, rows, 1));
            }
            Self::Half(weight, _) => weight.column(column, out),
        }
    }
}

/// Losses of `log sum_j exp(h w_j + b_j) - (h w_y + b_y)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrossEntropy<'a> {
    /// `[n, d]`, dense.
    pub hidden: &'a [f32],
    /// `[d, vocab]`.
    pub weight: Weight<'a>,
    /// `[vocab]`.
    pub bias: Option<&'a [f32]>,
    /// The right column of each row; a row whose number is no column is not scored.
    pub targets: &'a [i64],
    /// Numbers of a row of `hidden`.
    pub width: usize,
}

impl CrossEntropy<'_> {
    /// Fills `losses`, `[n]`, and, if there is any, `grad`, `[n, d]`, the gradient of each loss with regard to its row.
    pub(crate) fn run(&self, level: Level, losses: &mut [f32], grad: Option<&mut [f32]>) {
        let (rows, width) = (self.targets.len(), self.width);
        let block = rows.div_ceil(rayon::current_num_threads()).clamp(1, ROWS);
        let mut grads = grad.map(|grad| grad.chunks_mut(block * width));
        let tasks: Vec<_> = losses
            .chunks_mut(block)
            .enumerate()
            .map(|(index, losses)| (index * block, losses, grads.as_mut().and_then(Iterator::next)))
            .collect();
        let operations = self.hidden.len() * self.weight.vocab();
        let scratch = || vec![0.0; block * COLUMNS];
        threads::tasks(tasks, operations, scratch, |scores, (first, losses, grad)| {
            self.block(level, first, scores, losses, grad);
        });
    }

    fn block(&self, level: Level, first: usize, scores: &mut [f32], losses: &mut [f32], mut grad: Option<&mut [f32]>) {
        let (rows, width) = (losses.len(), self.width);
        let vocab = self.weight.vocab();
        let hidden = &self.hidden[first * width..];
        let targets = &self.targets[first..first + rows];
        let mut running = vec![(f32::NEG_INFINITY, 0.0_f32); rows];
        let mut right = vec![0.0; rows];
        for start in (0..vocab).step_by(COLUMNS) {
            let columns = COLUMNS.min(vocab - start);
            let scores = &mut scores[..rows * columns];
            self.weight.scores(level, hidden, [rows, width], start, scores);
            for (row, scores) in scores.chunks_exact_mut(columns).enumerate() {
                if let Some(bias) = self.bias {
                    let bias = &bias[start..start + columns];
                    scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
                }
                if let Some(column) = column(targets[row], vocab)
                    && (start..start + columns).contains(&column)
                {
                    right[row] = scores[column - start];
                }
                let (max, sum) = running[row];
                let (next, more) = level.run(Exponentials { scores, max });
                let factor = (max - next).exp();
                running[row] = (next, sum * factor + more);
                if let Some(grad) = &mut grad
                    && start > 0
                    && factor != 1.0
                {
                    level.run(Scale(&mut grad[row * width..][..width], factor));
                }
            }
            if let Some(grad) = &mut grad {
                self.weight.grad(level, scores, [rows, width], start, grad);
            }
        }
        let mut right_column = vec![0.0; width];
        for (row, loss) in losses.iter_mut().enumerate() {
            let ((max, sum), target) = (running[row], column(targets[row], vocab));
            *loss = match target {
                Some(_) => max + sum.ln() - right[row],
                None => 0.0,
            };
            let Some(grad) = &mut grad else { continue };
            let grad = &mut grad[row * width..][..width];
            match target {
                Some(column) => {
                    self.weight.column(column, &mut right_column);
                    level.run(LessRow {
                        grad,
                        row: &right_column,
                        factor: 1.0 / sum,
                    });
                }
                None => grad.fill(0.0),
            }
        }
    }
}

fn column(target: i64, vocab: usize) -> Option<usize> {
    usize::try_from(target).ok().filter(|target| *target < vocab)
}

/// The exponentials of scores less the largest number so far, and their sum.
struct Exponentials<'a> {
    scores: &'a mut [f32],
    max: f32,
}

#[derive(Clone, Copy)]
struct Shifted(f32);

impl Map for Shifted {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        simd::exp_up_to_88(s, s.sub_f32s(x, s.splat_f32s(self.0)))
    }
}

impl WithSimd for Exponentials<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> (f32, f32) {
        let max = self.max.max(simd::fold(s, simd::Identity, Max, self.scores));
        simd::map(s, Shifted(max), self.scores);
        (max, simd::fold(s, simd::Identity, Sum, self.scores))
    }
}

/// `x factor`.
#[derive(Clone, Copy)]
struct Times(f32);

impl Map for Times {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        s.mul_f32s(x, s.splat_f32s(self.0))
    }
}

/// Multiplies a row.
pub(crate) struct Scale<'a>(pub &'a mut [f32], pub f32);

impl WithSimd for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        simd::map(s, Times(self.1), self.0);
    }
}

/// `grad = factor grad - row`.
struct LessRow<'a> {
    grad: &'a mut [f32],
    row: &'a [f32],
    factor: f32,
}

#[derive(Clone, Copy)]
struct TimesLess(f32);

impl Map2 for TimesLess {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s, y: S::f32s) -> S::f32s {
        s.sub_f32s(s.mul_f32s(x, s.splat_f32s(self.0)), y)
    }
}

impl WithSimd for LessRow<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        simd::map2(s, TimesLess(self.factor), self.grad, self.row);
    }
}
