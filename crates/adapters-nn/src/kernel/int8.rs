//! Products of a few rows with a weight in eight bits, which is read once, as it is.

use pulp::{Simd, WithSimd};

use super::raw::{MatMut, unfilled};
use super::simd::Level;
use super::threads;

/// Rows up to which reading the weight takes longer than multiplying with it.
pub(crate) const FEW: usize = 8;

/// Columns of a block, whose sums stay in the nearest cache.
const COLUMNS: usize = 128;

/// Sums of a block.
type Sums = [[f32; COLUMNS]; FEW];

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
        let mut out = unfilled(rows * self.columns);
        let tiles = MatMut::dense(&mut out, rows, self.columns).tiles(rows, COLUMNS);
        let scratch = || [[0.0; COLUMNS]; FEW];
        threads::tasks(tiles, x.len() * self.columns, scratch, |sums, (_, first, out)| {
            let weight = *self;
            level.run(Block {
                weight,
                x,
                inner,
                first,
                sums,
                out,
            });
        });
        out
    }
}

/// Some columns of a product.
struct Block<'a, 'b> {
    weight: ByColumn<'a>,
    x: &'a [f32],
    inner: usize,
    first: usize,
    sums: &'a mut Sums,
    out: MatMut<'b>,
}

impl WithSimd for Block<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _s: S) {
        let Self {
            weight,
            x,
            inner,
            first,
            sums,
            mut out,
        } = self;
        let ([rows, columns], run) = (out.shape(), weight.run);
        for begin in (0..inner).step_by(run) {
            let values = &weight.values[begin * weight.columns..][..run * weight.columns];
            for (row, sums) in sums.iter_mut().enumerate().take(rows) {
                let sums = &mut sums[..columns];
                sums.fill(0.0);
                let x = &x[row * inner + begin..][..run];
                add(values, weight.columns, first, x, sums);
            }
            let scales = &weight.scales[begin / run * weight.columns + first..][..columns];
            for (row, sums) in sums.iter().enumerate().take(rows) {
                for ((out, sum), scale) in out.row(row)[..columns].iter_mut().zip(sums).zip(scales) {
                    let before = if begin == 0 { 0.0 } else { *out };
                    *out = before + sum * scale;
                }
            }
        }
    }
}

/// `sums += x values` for the columns from `first` on; four rows of the weight at a time. The compiler makes vectors of it.
#[inline(always)]
fn add(values: &[i8], columns: usize, first: usize, x: &[f32], sums: &mut [f32]) {
    let count = sums.len();
    let row = |i: usize| &values[i * columns + first..][..count];
    let (fours, rest) = x.as_chunks::<4>();
    for (i, x) in fours.iter().enumerate() {
        let [a, b, c, d] = [row(4 * i), row(4 * i + 1), row(4 * i + 2), row(4 * i + 3)];
        for (j, sum) in sums.iter_mut().enumerate() {
            let [a, b, c, d] = [a[j], b[j], c[j], d[j]].map(f32::from);
            *sum += (x[0] * a + x[1] * b) + (x[2] * c + x[3] * d);
        }
    }
    for (i, x) in rest.iter().enumerate() {
        for (sum, value) in sums.iter_mut().zip(row(4 * fours.len() + i)) {
            *sum += x * f32::from(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_rows_have_the_product_with_the_restored_weight() {
        for (rows, run, runs, columns) in [(1, 1, 1, 1), (3, 7, 2, 130), (8, 64, 3, 300)] {
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
