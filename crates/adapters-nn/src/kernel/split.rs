//! Products in `f32` on the tile unit of Intel's processors (AMX), which multiplies numbers of bf16 only: each number is split
//! into three that add up to it, and of the nine products of two such sums the six that reach into the last bit of an `f32`
//! are computed and summed in `f32`.

use super::raw::half::PANEL;
use super::raw::tiles::{PAIRS, ROWS, Start, Tiles, split, split_rows};
use super::raw::{Mat, MatMut, Words, unfilled};
use super::simd::Level;
use super::threads;

/// Rows of a task.
const BLOCK_ROWS: usize = 256;

/// Pairs of numbers that are multiplied before the next columns: what both factors have of them stays in the nearest caches.
const BLOCK_PAIRS: usize = 192;

/// The planes of a split number.
const PLANES: usize = 3;

/// Whether [`product`] is faster than one in `f32`, for so many rows of `x` and so large a weight (measured): to split the weight
/// takes as long as to multiply some hundred rows with it.
pub(crate) fn is_faster(level: Level, rows: usize, weight: [usize; 2]) -> bool {
    level == Level::Amx && rows >= 1024 && weight.into_iter().all(|len| len >= 128)
}

/// A weight that is split, in panels of columns: block of pairs after block, plane after plane, pair after pair.
struct Panels {
    words: Words,
    pairs: usize,
    panels: usize,
}

impl Panels {
    fn new(weight: Mat<'_>) -> Self {
        let [inner, columns] = weight.shape();
        let pairs = inner.div_ceil(2).next_multiple_of(PAIRS);
        let panels = columns.div_ceil(PANEL);
        let panel_words = PLANES * pairs * PANEL;
        let mut words = Words::unfilled(panels * panel_words);
        let tasks = words.chunks_exact_mut(panel_words).take(panels).enumerate().collect();
        let scratch = || vec![0.0; 2 * BLOCK_PAIRS * PANEL];
        threads::tasks(tasks, inner * columns, scratch, |block, (panel, words)| {
            let first_column = panel * PANEL;
            let width = PANEL.min(columns - first_column);
            let weight = weight.columns(first_column, width);
            for first in (0..pairs).step_by(BLOCK_PAIRS) {
                let count = BLOCK_PAIRS.min(pairs - first);
                let numbers = (2 * count).min(inner.saturating_sub(2 * first));
                let block = &mut block[..2 * count * PANEL];
                if numbers < 2 * count || width < PANEL {
                    block.fill(0.0);
                }
                if numbers > 0 {
                    weight
                        .rows(2 * first, numbers)
                        .copy_to(&mut MatMut::dense(block, 2 * count, PANEL).tile([0, numbers], [0, width]));
                }
                let words = &mut words[PLANES * first * PANEL..][..PLANES * count * PANEL];
                let (one, rest) = words.split_at_mut(count * PANEL);
                let (two, three) = rest.split_at_mut(count * PANEL);
                let planes = one
                    .chunks_exact_mut(PANEL)
                    .zip(two.chunks_exact_mut(PANEL))
                    .zip(three.chunks_exact_mut(PANEL));
                for (rows, ((one, two), three)) in block.chunks_exact(2 * PANEL).zip(planes) {
                    let (even, odd) = rows.split_at(PANEL);
                    split_rows(even, odd, [one, two, three]);
                }
            }
        });
        Self { words, pairs, panels }
    }

    /// The planes of a panel for `count` pairs from the block that begins at `first` on.
    fn planes(&self, panel: usize, first: usize, count: usize) -> [&[u32]; PLANES] {
        let start = PLANES * PANEL * (panel * self.pairs + first);
        std::array::from_fn(|plane| &self.words[start + plane * count * PANEL..][..count * PANEL])
    }
}

/// `x w + bias`, of `x` row after row.
///
/// # Panics
///
/// Panics where the unit is not available, and if `x` is not whole rows of the inner length, or `bias` of another length than the
/// columns.
pub(crate) fn product(x: &[f32], weight: Mat<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let [inner, columns] = weight.shape();
    assert!(x.len().is_multiple_of(inner.max(1)) && bias.is_none_or(|bias| bias.len() == columns));
    let rows = x.len() / inner.max(1);
    let panels = Panels::new(weight);
    let mut out = unfilled(rows * columns);
    let block_rows = rows
        .div_ceil(4 * rayon::current_num_threads())
        .next_multiple_of(ROWS)
        .min(BLOCK_ROWS);
    let tiles = MatMut::dense(&mut out, rows, columns).tiles(block_rows, columns);
    let scratch = || Words::unfilled(PLANES * BLOCK_ROWS * BLOCK_PAIRS);
    threads::tasks(tiles, rows * inner * columns, scratch, |block, (row, _, tile)| {
        multiply(&x[row * inner..], inner, &panels, bias, block, tile);
    });
    out
}

/// One block of rows, on one thread.
#[expect(
    clippy::expect_used,
    reason = "the caller asked whether there are tiles, as documented"
)]
fn multiply(x: &[f32], inner: usize, weight: &Panels, bias: Option<&[f32]>, block: &mut [u32], mut out: MatMut<'_>) {
    let unit = Tiles::new().expect("AMX");
    let [rows, columns] = out.shape();
    for first in (0..weight.pairs).step_by(BLOCK_PAIRS) {
        let count = BLOCK_PAIRS.min(weight.pairs - first);
        let numbers = (2 * count).min(inner.saturating_sub(2 * first));
        let [one, two, three] = planes(block);
        for (row, x) in x.chunks_exact(inner).take(rows).enumerate() {
            let x = &x[2 * first..][..numbers];
            let [one, two, three] = [&mut *one, two, three].map(|plane| &mut plane[row * BLOCK_PAIRS..][..count]);
            split_row(x, [one, two, three]);
        }
        let [one, two, three] = planes(block);
        for panel in 0..weight.panels {
            let column = panel * PANEL;
            let width = PANEL.min(columns - column);
            let start = match bias {
                _ if first > 0 => Start::Output,
                Some(bias) => Start::Bias(&bias[column..][..width]),
                None => Start::Zero,
            };
            let b = weight.planes(panel, first, count);
            for row in (0..rows).step_by(ROWS) {
                let height = ROWS.min(rows - row);
                let a = [&*one, two, three].map(|plane| &plane[row * BLOCK_PAIRS..]);
                unit.panel(
                    a,
                    BLOCK_PAIRS,
                    b,
                    count,
                    &mut out.tile([row, height], [column, width]),
                    start,
                );
            }
        }
    }
}

/// The planes of a row, and zeros behind them.
pub(super) fn split_row(x: &[f32], planes: [&mut [u32]; PLANES]) {
    let pairs = x.len().div_ceil(2);
    split(
        x,
        planes.map(|plane| {
            let (plane, rest) = plane.split_at_mut(pairs);
            rest.fill(0);
            plane
        }),
    );
}

/// The planes of a block of rows.
fn planes(block: &mut [u32]) -> [&mut [u32]; PLANES] {
    let (one, rest) = block.split_at_mut(BLOCK_ROWS * BLOCK_PAIRS);
    let (two, three) = rest.split_at_mut(BLOCK_ROWS * BLOCK_PAIRS);
    [one, two, three]
}

/// Compares products with those in `f64`, for the tests of this kernel and of the one for weights that fit into bf16.
#[cfg(test)]
pub(super) mod products {
    use super::Mat;

    pub(in super::super) fn number(i: usize) -> f32 {
        ((i * 7919 + 13) % 1009) as f32 / 504.0 - 1.0 + (i % 17) as f32 * 1e-6
    }

    /// Checks `product` for each of these rows, inner lengths and columns, with a weight of dense rows and of dense columns, with
    /// and without a bias; `most` is the error that a product of size one may have.
    pub(in super::super) fn check(
        sizes: &[(usize, usize, usize)],
        weight: impl Fn(usize) -> f32,
        most: f64,
        product: impl Fn(&[f32], Mat<'_>, Option<&[f32]>) -> Vec<f32>,
    ) {
        for &(rows, inner, columns) in sizes {
            let x: Vec<f32> = (0..rows * inner).map(number).collect();
            let w: Vec<f32> = (0..inner * columns).map(|i| weight(3 * i + 5)).collect();
            let bias: Vec<f32> = (0..columns).map(number).collect();
            let layouts = [
                (Mat::dense(&w, inner, columns), [columns, 1]),
                (Mat::new(&w, 0, [inner, columns], [1, inner as isize]), [1, inner]),
            ];
            for (weight, strides) in layouts {
                for bias in [None, Some(&bias[..])] {
                    for (index, out) in product(&x, weight, bias).iter().enumerate() {
                        let (i, j) = (index / columns, index % columns);
                        let term =
                            |k: usize| f64::from(x[i * inner + k]) * f64::from(w[k * strides[0] + j * strides[1]]);
                        let wanted = (0..inner).map(term).sum::<f64>() + bias.map_or(0.0, |bias| f64::from(bias[j]));
                        let size = (0..inner).map(|k| term(k).abs()).sum::<f64>() + 1.0;
                        let error = (f64::from(*out) - wanted).abs();
                        assert!(error < most * size, "{rows} {inner} {columns}: {out} {wanted}");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_odd_sizes_have_the_accuracy_of_f32() {
        if !Level::available().contains(&Level::Amx) {
            return;
        }
        let sizes = [(1, 1, 1), (3, 5, 7), (70, 385, 33), (97, 31, 64), (200, 1202, 95)];
        products::check(&sizes, products::number, 4e-7, product);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        if !Level::available().contains(&Level::Amx) {
            return;
        }
        let x = [f32::INFINITY, 1.0, f32::NAN, 1.0, 1e30, 1.0];
        let out = product(&x, Mat::dense(&[2.0, 1.0], 2, 1), None);
        assert!(!out[0].is_finite() && out[1].is_nan() && out[2] == 2e30, "{out:?}");
    }
}
