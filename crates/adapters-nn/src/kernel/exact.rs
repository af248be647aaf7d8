//! Products in `f32` with a weight whose numbers all fit into bf16, as those of checkpoints do that are published in bf16. Such a
//! weight is read in half the bytes, and the tile unit multiplies it with numbers that are split into three, which is half of
//! what it has to do for [any weight](super::split). Nothing is rounded but the sums.

use std::iter;

use pulp::{Simd, WithSimd};

use super::half::{Packed, sums_of};
use super::raw::half::{PANEL, STRIDE};
use super::raw::tiles::{self, Start, Tiles};
use super::raw::{MatMut, Words, unfilled};
use super::simd::Level;
use super::split::split_row;
use super::threads;

/// Rows that a task splits at once.
const BLOCK_ROWS: usize = 96;
const _: () = assert!(BLOCK_ROWS.is_multiple_of(tiles::ROWS));

/// For how long a weight is packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Packing {
    /// For this product and those to come: reading the weight takes longer than multiplying with it.
    Kept,
    /// For this product.
    Once,
}

/// Whether a weight is worth packing for a product with so many rows, if its numbers fit (measured).
pub(crate) fn packing(level: Level, rows: usize, weight: [usize; 2]) -> Option<Packing> {
    let few = if level == Level::Amx { 32 } else { 8 };
    match rows {
        _ if weight.into_iter().any(|len| len < 128) => None,
        rows if rows <= few => Some(Packing::Kept),
        256.. if level == Level::Amx => Some(Packing::Once),
        _ => None,
    }
}

/// `x w + bias` in `f32`, of `x` row after row.
///
/// # Panics
///
/// Panics if `x` is not whole rows of the inner length, or `bias` of another length than the columns.
pub(crate) fn product(level: Level, x: &[f32], weight: &Packed, bias: Option<&[f32]>) -> Vec<f32> {
    let [inner, columns] = weight.shape();
    assert!(x.len().is_multiple_of(inner) && bias.is_none_or(|bias| bias.len() == columns));
    let rows = x.len() / inner;
    let mut out = unfilled(rows * columns);
    // By rows, a few tasks for each thread; by columns where there are too few rows for that, as in generation.
    let tasks = 4 * rayon::current_num_threads();
    let (block_rows, block_columns) = match rows >= tasks * tiles::ROWS {
        true => (
            rows.div_ceil(tasks).next_multiple_of(tiles::ROWS).min(BLOCK_ROWS),
            columns,
        ),
        false => (BLOCK_ROWS, columns.div_ceil(tasks).next_multiple_of(PANEL)),
    };
    let tiles = MatMut::dense(&mut out, rows, columns).tiles(block_rows, block_columns);
    // Tiles are sixteen rows high: of a few, most of their work is for nothing.
    let tiled = level == Level::Amx && rows > 4;
    let scratch = || Words::unfilled(if tiled { 3 * BLOCK_ROWS * STRIDE } else { 0 });
    threads::tasks(tiles, rows * inner * columns, scratch, |block, (row, column, tile)| {
        let (x, bias) = (&x[row * inner..], bias.map(|bias| &bias[column..]));
        match Tiles::new().filter(|_| tiled) {
            Some(unit) => by_tiles(&unit, x, weight, column, bias, block, tile),
            None => by_vectors(level, x, weight, column, bias, tile),
        }
    });
    out
}

fn by_tiles(
    unit: &Tiles,
    x: &[f32],
    weight: &Packed,
    first_column: usize,
    bias: Option<&[f32]>,
    block: &mut [u32],
    mut out: MatMut<'_>,
) {
    let ([rows, columns], [inner, _]) = (out.shape(), weight.shape());
    for first in (0..weight.pairs()).step_by(STRIDE) {
        let count = STRIDE.min(weight.pairs() - first);
        let numbers = (2 * first).min(inner)..(2 * (first + count)).min(inner);
        let (one, rest) = block.split_at_mut(BLOCK_ROWS * STRIDE);
        let (two, three) = rest.split_at_mut(BLOCK_ROWS * STRIDE);
        let planes = one.chunks_exact_mut(STRIDE).zip(two.chunks_exact_mut(STRIDE));
        let planes = planes.zip(three.chunks_exact_mut(STRIDE));
        for (x, ((one, two), three)) in x.chunks_exact(inner).take(rows).zip(planes) {
            split_row(&x[numbers.clone()], [one, two, three].map(|plane| &mut plane[..count]));
        }
        for column in (0..columns).step_by(PANEL) {
            let width = PANEL.min(columns - column);
            let words = weight.panel((first_column + column) / PANEL, first, count);
            let start = match bias {
                _ if first > 0 => Start::Output,
                Some(bias) => Start::Bias(&bias[column..][..width]),
                None => Start::Zero,
            };
            for row in (0..rows).step_by(tiles::ROWS) {
                let planes = [&*one, two, three].map(|plane| &plane[row * STRIDE..]);
                let mut out = out.tile([row, tiles::ROWS.min(rows - row)], [column, width]);
                unit.panel(planes, STRIDE, [words], count, &mut out, start);
            }
        }
    }
}

fn by_vectors(
    level: Level,
    x: &[f32],
    weight: &Packed,
    first_column: usize,
    bias: Option<&[f32]>,
    mut out: MatMut<'_>,
) {
    let ([rows, columns], [inner, _]) = (out.shape(), weight.shape());
    for column in (0..columns).step_by(PANEL) {
        let width = PANEL.min(columns - column);
        let words = weight.panel((first_column + column) / PANEL, 0, weight.pairs());
        for (row, x) in x.chunks(2 * inner).enumerate().take(rows.div_ceil(2)) {
            let (row, last) = (2 * row, rows - 2 * row == 1);
            // The second of an odd number of rows is the first again, and not stored.
            let (first, second) = (&x[..inner], if last { &x[..inner] } else { &x[inner..2 * inner] });
            let sums = level.run(TwoRows { first, second, words });
            for (sums, row) in sums.iter().zip(row..rows) {
                let out = &mut out.row(row)[column..column + width];
                match bias {
                    Some(bias) => {
                        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[column..]) {
                            *out = sum + bias;
                        }
                    }
                    None => out.copy_from_slice(&sums[..width]),
                }
            }
        }
    }
}

/// The products of two rows with a panel.
struct TwoRows<'a> {
    first: &'a [f32],
    second: &'a [f32],
    words: &'a [u32],
}

impl WithSimd for TwoRows<'_> {
    type Output = [[f32; PANEL]; 2];
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> [[f32; PANEL]; 2] {
        let ([first, second], words) = ([self.first, self.second].map(<[f32]>::as_chunks::<2>), self.words);
        let pairs = first.0.iter().zip(second.0).map(|(first, second)| [*first, *second]);
        let last = match (first.1, second.1) {
            ([first], [second]) => Some([[*first, 0.0], [*second, 0.0]]),
            _ => None,
        };
        let (whole, rest) = words.split_at(first.0.len() * PANEL);
        let mut sums = [[0.0; PANEL]; 2];
        sums_of(s, pairs, whole, &mut sums);
        if let Some(last) = last {
            sums_of(s, iter::once(last), rest, &mut sums);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::super::raw::Mat;
    use super::super::split::products;
    use super::*;

    /// A number with eight bits of mantissa.
    fn short(i: usize) -> f32 {
        f32::from_bits(products::number(i).to_bits() & 0xFFFF_0000)
    }

    #[test]
    fn products_of_odd_sizes_at_every_level() {
        let sizes = [
            (1, 1, 1),
            (3, 5, 7),
            (13, 385, 33),
            (8, 31, 64),
            (97, 64, 64),
            (200, 802, 95),
        ];
        for level in Level::available() {
            products::check(&sizes, short, 6e-7, |x, weight, bias| {
                product(level, x, &Packed::exact(weight).unwrap(), bias)
            });
        }
    }

    #[test]
    fn a_weight_with_one_number_that_does_not_fit_is_not_packed() {
        let mut w: Vec<f32> = (0..200 * 70).map(short).collect();
        assert!(Packed::exact(Mat::dense(&w, 200, 70)).is_some());
        for place in [0, 69, 100 * 70 + 35, w.len() - 1] {
            let before = w[place];
            w[place] = 1.000_001;
            assert!(Packed::exact(Mat::dense(&w, 200, 70)).is_none(), "{place}");
            w[place] = before;
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let w = [2.0, 1.0];
        let packed = Packed::exact(Mat::dense(&w, 2, 1)).unwrap();
        for level in Level::available() {
            let x = [f32::INFINITY, 1.0, f32::NAN, 1.0, 1e30, 1.0, 0.0, 0.0, 0.0, 0.0];
            let out = product(level, &x, &packed, None);
            assert!(
                !out[0].is_finite() && out[1].is_nan() && out[2] == 2e30,
                "{level:?} {out:?}"
            );
        }
    }
}
