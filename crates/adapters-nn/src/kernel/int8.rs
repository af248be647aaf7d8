//! Products of a few rows with a weight in eight bits, which is read once, as it is.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::simd::Level;
use super::threads;

/// Rows up to which reading the weight takes longer than multiplying with it.
pub(crate) const FEW: usize = 8;

/// Columns that are added up at once. Their sums stay in the nearest caches, and what is read of a row of the weight lies side by side.
const COLUMNS: usize = 2048;

/// Numbers of a weight that are worth a thread.
const ALONE: usize = 1 << 15;

/// A weight `w_ij = scales[i / run, j] values[i, j]`, `[d_in, columns]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByColumn<'a> {
    /// Row after row.
    pub values: &'a [i8],
    /// Row after row, one for each run and column.
    pub scales: &'a [f32],
    /// Rows that have a scale in common.
    pub run: usize,
    /// Columns, at least one.
    pub columns: usize,
}

impl ByColumn<'_> {
    /// In `f32`, row after row.
    pub(crate) fn restored(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.values.len());
        for (row, values) in self.values.chunks_exact(self.columns).enumerate() {
            let scales = &self.scales[row / self.run * self.columns..][..self.columns];
            out.extend(values.iter().zip(scales).map(|(q, scale)| f32::from(*q) * scale));
        }
        out
    }

    /// `x w`, of `x` row after row.
    ///
    /// # Panics
    ///
    /// Panics on more than [`FEW`] rows, and on lengths that do not fit.
    pub(crate) fn product(&self, level: Level, x: &[f32]) -> Vec<f32> {
        let inner = self.values.len() / self.columns;
        let rows = x.len() / inner.max(1);
        assert!(rows <= FEW && x.len() == rows * inner, "a few whole rows");
        assert_eq!(self.scales.len() * self.run, self.values.len(), "a scale for each run");
        // Each thread reads rows that follow each other, from memory in one go, and has sums of its own.
        let parts = rayon::current_num_threads().min(self.values.len() / ALONE).max(1);
        let of_part = inner.div_ceil(parts).next_multiple_of(4).max(1);
        let length = (rows * self.columns).max(1);
        let mut sums = vec![0.0; inner.div_ceil(of_part).max(1) * length];
        let tasks: Vec<_> = sums.chunks_exact_mut(length).enumerate().collect();
        threads::tasks(tasks, x.len() * self.columns, Vec::new, |of_run, (part, out)| {
            let rows = part * of_part..inner.min((part + 1) * of_part);
            level.run(Part {
                weight: *self,
                x,
                inner,
                rows,
                of_run,
                out,
            });
        });
        let mut parts = sums.chunks_exact(length);
        let mut out = parts.next().map_or_else(Vec::new, <[f32]>::to_vec);
        for part in parts {
            out.iter_mut().zip(part).for_each(|(out, sum)| *out += sum);
        }
        out.truncate(rows * self.columns);
        out
    }
}

/// Some rows of the weight and what they add to the product.
struct Part<'a, 'b> {
    weight: ByColumn<'a>,
    x: &'a [f32],
    inner: usize,
    rows: Range<usize>,
    of_run: &'b mut Vec<f32>,
    out: &'b mut [f32],
}

impl WithSimd for Part<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _s: S) {
        let Self {
            weight,
            x,
            inner,
            rows,
            of_run,
            out,
        } = self;
        let columns = weight.columns;
        let most = columns.min(COLUMNS);
        of_run.resize(out.len() / columns * most, 0.0);
        let mut begin = rows.start;
        while begin < rows.end {
            // As far as the scales are the same.
            let end = rows.end.min((begin / weight.run + 1) * weight.run);
            for first in (0..columns).step_by(COLUMNS) {
                let width = most.min(columns - first);
                of_run.fill(0.0);
                for four in (begin..end).step_by(4) {
                    let four = four..end.min(four + 4);
                    for (sums, x) in of_run.chunks_exact_mut(most).zip(x.chunks_exact(inner)) {
                        let values = &weight.values[four.start * columns + first..];
                        add(values, columns, &x[four.clone()], &mut sums[..width]);
                    }
                }
                let scales = &weight.scales[begin / weight.run * columns + first..][..width];
                for (sums, out) in of_run.chunks_exact(most).zip(out.chunks_exact_mut(columns)) {
                    let out = &mut out[first..first + width];
                    for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                        *out += sum * scale;
                    }
                }
            }
            begin = end;
        }
    }
}

/// `sums += x values` of up to four rows of the weight. The compiler makes vectors of it.
#[inline(always)]
fn add(values: &[i8], columns: usize, x: &[f32], sums: &mut [f32]) {
    let count = sums.len();
    let row = |i: usize| &values[i * columns..][..count];
    match x {
        [w, x, y, z] => {
            let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
            for (j, sum) in sums.iter_mut().enumerate() {
                let [a, b, c, d] = [a[j], b[j], c[j], d[j]].map(f32::from);
                *sum += (w * a + x * b) + (y * c + z * d);
            }
        }
        few => {
            for (i, x) in few.iter().enumerate() {
                for (sum, value) in sums.iter_mut().zip(row(i)) {
                    *sum += x * f32::from(*value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_rows_have_the_product_with_the_restored_weight() {
        for (rows, run, runs, columns) in [
            (1, 1, 1, 1),
            (3, 7, 2, 130),
            (8, 64, 3, 300),
            (1, 161, 4, 150),
            (2, 9, 2, 2100),
        ] {
            let inner = run * runs;
            let number = |i: usize| ((i * 7919 + 13) % 255) as f32 / 127.0 - 1.0;
            let values: Vec<i8> = (0..inner * columns).map(|i| (i * 31 % 255) as u8 as i8).collect();
            let scales: Vec<f32> = (0..runs * columns).map(|i| number(i + 3) / 50.0).collect();
            let x: Vec<f32> = (0..rows * inner).map(number).collect();
            let weight = ByColumn {
                values: &values,
                scales: &scales,
                run,
                columns,
            };
            let restored = weight.restored();
            for level in Level::available() {
                for (index, out) in weight.product(level, &x).iter().enumerate() {
                    let (i, j) = (index / columns, index % columns);
                    let term = |k: usize| f64::from(x[i * inner + k]) * f64::from(restored[k * columns + j]);
                    let wanted: f64 = (0..inner).map(term).sum();
                    assert!(
                        (f64::from(*out) - wanted).abs() < 1e-4,
                        "{level:?}: {out}, not {wanted}"
                    );
                }
            }
        }
    }
}
