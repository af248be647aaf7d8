//! Products with a weight in bf16: its numbers and those of the other factor rounded to eight bits of mantissa, the sums in
//! `f32`.
//!
//! A weight is packed once, into panels of columns whose rows are pairs of numbers that lie side by side: what the
//! instructions of processors with AVX-512 BF16 and with AMX multiply. Elsewhere the same panels are widened.

use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pulp::{Simd, WithSimd};

use super::raw::half::{PANEL, ROWS, STRIDE, available, is_twice_as_fast, panel, round};
use super::raw::tiles::{self, PAIRS, Start, Tiles};
use super::raw::{Mat, MatMut, Words, unfilled};
use super::simd::{self, Level};
use super::threads;

/// Rows that a task converts at once.
const BLOCK_ROWS: usize = 96;
const _: () =
    assert!(BLOCK_ROWS.is_multiple_of(ROWS) && BLOCK_ROWS.is_multiple_of(tiles::ROWS) && STRIDE.is_multiple_of(PAIRS));

/// Rows up to which reading the weight takes longer than multiplying with it.
const FEW: usize = 32;

/// Whether a product of so many rows takes a [`Packed`] weight, at `level`. Where no instruction is faster than `f32`, the
/// weight is [`widened`](widen) for more rows.
pub(crate) fn is_worth_packing(level: Level, rows: usize) -> bool {
    static FAST: LazyLock<bool> = LazyLock::new(is_twice_as_fast);
    rows <= FEW || level == Level::Amx || (level == Level::Avx512 && *FAST)
}

/// How the panels of a packed matrix are multiplied.
enum Unit {
    /// By tiles.
    Tiles(Tiles),
    /// By vectors, with the instruction for pairs in bf16.
    Pairs,
    /// By vectors of `f32`.
    Widened(Level),
}

impl Unit {
    /// The fastest one at `level` for so many rows, for the thread that calls.
    fn of(level: Level, rows: usize) -> Self {
        // Tiles are sixteen rows high: of a few, most of their work is for nothing.
        match Tiles::new() {
            Some(tiles) if level == Level::Amx && rows > 4 => Self::Tiles(tiles),
            _ if level >= Level::Avx512 && available() => Self::Pairs,
            _ => Self::Widened(level),
        }
    }

    /// Rows that are multiplied at once.
    fn rows(&self) -> usize {
        match self {
            Self::Tiles(_) => tiles::ROWS,
            Self::Pairs | Self::Widened(_) => ROWS,
        }
    }
}

/// Numbers of bf16 in `f32`.
pub(crate) fn widen(level: Level, bits: &[u16]) -> Vec<f32> {
    let mut out = unfilled(bits.len());
    threads::chunks(&mut out, 1, |first, out| level.run(Widen(&bits[first..], out)));
    out
}

struct Widen<'a>(&'a [u16], &'a mut [f32]);

impl WithSimd for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _s: S) {
        for (number, bits) in self.1.iter_mut().zip(self.0) {
            *number = f32::from_bits(u32::from(*bits) << 16);
        }
    }
}

/// A matrix in panels.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Panel after panel, pair of rows after pair, column after column: the number of the even row in the lower half.
    words: Words,
    inner: usize,
    columns: usize,
}

impl Packed {
    /// Packs the matrix whose element `(i, j)` is `bits[offset + i * strides[0] + j * strides[1]]`.
    ///
    /// # Panics
    ///
    /// Panics if an element lies outside of `bits`.
    pub(crate) fn new(bits: &[u16], offset: usize, [inner, columns]: [usize; 2], strides: [isize; 2]) -> Self {
        let pairs = inner.div_ceil(2).next_multiple_of(PAIRS);
        let at = |i: usize, j: usize| match i < inner && j < columns {
            true => {
                let index = offset as isize + i as isize * strides[0] + j as isize * strides[1];
                u32::from(bits[index as usize])
            }
            false => 0,
        };
        let panels = columns.div_ceil(PANEL);
        let mut words = Words::zeros(panels * pairs * PANEL);
        for (row, words) in words.chunks_exact_mut(PANEL).enumerate() {
            let (panel, pair) = (row / pairs, row % pairs);
            for (column, word) in words.iter_mut().enumerate() {
                let column = panel * PANEL + column;
                *word = at(2 * pair, column) | at(2 * pair + 1, column) << 16;
            }
        }
        Self { words, inner, columns }
    }

    /// Packs a matrix in `f32` whose numbers all fit into bf16; `None` for one of other numbers.
    pub(crate) fn exact(weight: Mat<'_>) -> Option<Self> {
        let [inner, columns] = weight.shape();
        // Hardly any other matrix has a first row that fits.
        let mut first = vec![0.0; columns];
        weight
            .rows(0, inner.min(1))
            .copy_to(&mut MatMut::dense(&mut first, inner.min(1), columns));
        if first.iter().any(|number| number.to_bits() & 0xFFFF != 0) {
            return None;
        }
        let pairs = inner.div_ceil(2).next_multiple_of(PAIRS);
        let mut words = Words::unfilled(columns.div_ceil(PANEL) * pairs * PANEL);
        let tasks = words.chunks_exact_mut(pairs * PANEL).enumerate().collect();
        let (scratch, fits) = (|| vec![0.0; 2 * pairs * PANEL], AtomicBool::new(true));
        threads::tasks(tasks, inner * columns, scratch, |block, (panel, words)| {
            let width = PANEL.min(columns - panel * PANEL);
            if width < PANEL {
                block.fill(0.0);
            }
            let weight = weight.columns(panel * PANEL, width);
            weight.copy_to(&mut MatMut::dense(block, 2 * pairs, PANEL).tile([0, inner], [0, width]));
            let mut lost = 0;
            for (rows, words) in block.chunks_exact(2 * PANEL).zip(words.chunks_exact_mut(PANEL)) {
                let (even, odd) = rows.split_at(PANEL);
                for ((word, even), odd) in words.iter_mut().zip(even).zip(odd) {
                    let (even, odd) = (even.to_bits(), odd.to_bits());
                    lost |= (even | odd) & 0xFFFF;
                    *word = even >> 16 | odd & 0xFFFF_0000;
                }
            }
            if lost != 0 {
                fits.store(false, Ordering::Relaxed);
            }
        });
        fits.into_inner().then_some(Self { words, inner, columns })
    }

    /// `count` pairs of the columns of a panel, from pair `first` on.
    pub(super) fn panel(&self, panel: usize, first: usize, count: usize) -> &[u32] {
        &self.words[(panel * self.pairs() + first) * PANEL..][..count * PANEL]
    }

    /// Pairs of a column, with those of zeros that fill the last tile.
    pub(super) fn pairs(&self) -> usize {
        self.inner.div_ceil(2).next_multiple_of(PAIRS)
    }

    /// `x w + bias`, of `x` row after row.
    ///
    /// # Panics
    ///
    /// Panics if `x` is not whole rows of the inner length, or `bias` of another length than the columns.
    pub(crate) fn product(&self, level: Level, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        assert!(x.len().is_multiple_of(self.inner) && bias.is_none_or(|bias| bias.len() == self.columns));
        let rows = x.len() / self.inner;
        let mut out = unfilled(rows * self.columns);
        // By rows, a few tasks for each thread; by columns where there are too few rows for that, as in generation.
        let (tasks, height) = (4 * rayon::current_num_threads(), Unit::of(level, rows).rows());
        let block_rows = rows.div_ceil(tasks).next_multiple_of(height).min(BLOCK_ROWS);
        let columns = match rows >= tasks * height {
            true => self.columns,
            false => self.columns.div_ceil(tasks).next_multiple_of(PANEL),
        };
        let block_rows = if columns < self.columns { BLOCK_ROWS } else { block_rows };
        let tiles = MatMut::dense(&mut out, rows, self.columns).tiles(block_rows, columns);
        let scratch = || Words::unfilled(BLOCK_ROWS * STRIDE);
        threads::tasks(
            tiles,
            rows * self.inner * self.columns,
            scratch,
            |block, (row, column, tile)| {
                let factor = Factor {
                    x: &x[row * self.inner..],
                    numbers: 0..self.inner,
                    add: false,
                    bias,
                };
                self.tile(&Unit::of(level, rows), &factor, column, block, tile);
            },
        );
        out
    }

    /// On one thread, `out = x w`, or `out += x w` with `add`, for the rows `numbers` of this matrix and as many of its columns from
    /// `first_column` on as `out` has: `x` row after row, as long as `numbers`.
    ///
    /// # Panics
    ///
    /// Panics if `numbers` do not begin with a multiple of 32 or `first_column` with a panel, on an end outside of the matrix, and
    /// on an `x` that is too short.
    pub(crate) fn part(
        &self,
        level: Level,
        x: &[f32],
        numbers: Range<usize>,
        first_column: usize,
        add: bool,
        out: MatMut<'_>,
    ) {
        let [rows, columns] = out.shape();
        assert!(numbers.start.is_multiple_of(2 * PAIRS) && first_column.is_multiple_of(PANEL));
        assert!(numbers.end <= self.inner && first_column + columns <= self.columns);
        let unit = Unit::of(level, rows);
        let mut block = Words::unfilled(BLOCK_ROWS * STRIDE);
        for (row, _, tile) in out.tiles(BLOCK_ROWS, columns) {
            let factor = Factor {
                x: &x[row * numbers.len()..],
                numbers: numbers.clone(),
                add,
                bias: None,
            };
            self.tile(&unit, &factor, first_column, &mut block, tile);
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Inner length and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.inner, self.columns]
    }

    /// The numbers of a column.
    ///
    /// # Panics
    ///
    /// Panics if there is no such column, or on another length of `out`.
    pub(crate) fn column(&self, column: usize, out: &mut [f32]) {
        assert!(
            column < self.columns && out.len() == self.inner,
            "a column of a packed matrix"
        );
        let panel = &self.words[column / PANEL * self.pairs() * PANEL..];
        for (index, number) in out.iter_mut().enumerate() {
            let word = panel[index / 2 * PANEL + column % PANEL];
            let bits = if index % 2 == 0 { word << 16 } else { word & 0xFFFF_0000 };
            *number = f32::from_bits(bits);
        }
    }

    fn tile(&self, unit: &Unit, factor: &Factor<'_>, first_column: usize, block: &mut [u32], mut tile: MatMut<'_>) {
        let Factor { x, numbers, add, bias } = factor.clone();
        let [rows, columns] = tile.shape();
        let (begin, end, width) = (numbers.start / 2, numbers.end.div_ceil(2), numbers.len());
        for first in (begin..end).step_by(STRIDE) {
            let count = STRIDE.min(end - first);
            let whole = count.next_multiple_of(PAIRS);
            let numbers = 2 * (first - begin)..(2 * (first - begin + count)).min(width);
            for (x, block) in x.chunks_exact(width).take(rows).zip(block.chunks_exact_mut(STRIDE)) {
                match unit {
                    Unit::Widened(level) => level.run(Round(&x[numbers.clone()], block)),
                    Unit::Tiles(_) | Unit::Pairs => round(&x[numbers.clone()], block),
                }
                block[count..whole].fill(0);
            }
            let (add, last) = (add || first > begin, first + count == end);
            for column in (0..columns).step_by(PANEL) {
                let width = PANEL.min(columns - column);
                let words = self.panel((first_column + column) / PANEL, first, whole);
                let bias = bias.map(|bias| &bias[first_column + column..][..width]);
                let bias_last = bias.filter(|_| last);
                for row in (0..rows).step_by(unit.rows()) {
                    let height = unit.rows().min(rows - row);
                    let mut out = tile.tile([row, height], [column, width]);
                    let block = &block[row * STRIDE..];
                    match unit {
                        Unit::Tiles(unit) => {
                            let start = match bias {
                                _ if add => Start::Output,
                                Some(bias) => Start::Bias(bias),
                                None => Start::Zero,
                            };
                            unit.panel([block], STRIDE, [words], whole, &mut out, start);
                        }
                        Unit::Pairs => panel(block, words, count, &mut out, add, bias_last),
                        Unit::Widened(level) => level.run(Widened {
                            block,
                            words: &words[..count * PANEL],
                            count,
                            out: &mut out,
                            add,
                            bias: bias_last,
                        }),
                    }
                }
            }
        }
    }
}

/// What a packed matrix, or a part of it, is multiplied with.
#[derive(Clone, Debug)]
struct Factor<'a> {
    /// Row after row, each as long as `numbers`.
    x: &'a [f32],
    /// The rows of the packed matrix that it meets.
    numbers: Range<usize>,
    /// Whether the product is added to what is there.
    add: bool,
    /// Added to each row of the product.
    bias: Option<&'a [f32]>,
}

/// Rounds numbers to bf16, to the nearest, ties to even, and puts them in pairs.
struct Round<'a>(&'a [f32], &'a mut [u32]);

impl WithSimd for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _s: S) {
        let (pairs, rest) = self.0.as_chunks::<2>();
        for (word, [even, odd]) in self.1.iter_mut().zip(pairs) {
            *word = rounded(*even) | rounded(*odd) << 16;
        }
        if let [last] = rest {
            self.1[pairs.len()] = rounded(*last);
        }
    }
}

/// The bits of `x` in bf16, in the lower half.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // A number that is none stays one.
    let bits = if bits & 0x7FFF_FFFF > 0x7F80_0000 {
        bits | 0x40_0000
    } else {
        up
    };
    bits >> 16
}

/// A panel without the instruction: two rows at a time.
struct Widened<'a, 'b> {
    block: &'a [u32],
    words: &'a [u32],
    count: usize,
    out: &'a mut MatMut<'b>,
    add: bool,
    bias: Option<&'a [f32]>,
}

impl WithSimd for Widened<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [rows, columns] = self.out.shape();
        for row in (0..rows).step_by(2) {
            // The second of an odd number of rows is computed from the next one of the block, and not stored.
            let second = (row + 1).min(rows - 1);
            let a = [row, second].map(|row| &self.block[row * STRIDE..][..self.count]);
            let mut sums = [[0.0; PANEL]; 2];
            let pairs = a[0].iter().zip(a[1]).map(|(first, second)| {
                [first, second].map(|pair| [f32::from_bits(pair << 16), f32::from_bits(pair & 0xFFFF_0000)])
            });
            sums_of(s, pairs, self.words, &mut sums);
            for (sums, row) in sums.iter().zip(row..rows) {
                let out = &mut self.out.row(row)[..columns];
                for (column, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                    let before = if self.add { *out } else { 0.0 };
                    *out = before + sum + self.bias.map_or(0.0, |bias| bias[column]);
                }
            }
        }
    }
}

/// Adds the products of pairs of numbers of two rows with those of a panel.
#[inline(always)]
pub(super) fn sums_of<S: Simd>(
    s: S,
    pairs: impl Iterator<Item = [[f32; 2]; 2]>,
    words: &[u32],
    sums: &mut [[f32; PANEL]; 2],
) {
    const MOST: usize = PANEL / 4;
    let vectors = PANEL / S::F32_LANES;
    let mut parts = [[s.splat_f32s(0.0); MOST]; 2];
    for (parts, sums) in parts.iter_mut().zip(&*sums) {
        let (sums, _) = S::as_simd_f32s(sums);
        parts[..vectors].copy_from_slice(sums);
    }
    let (sixteen, upper) = (s.splat_u32s(16), s.splat_u32s(0xFFFF_0000));
    let (rows, _) = words.as_chunks::<PANEL>();
    for (row, numbers) in rows.iter().zip(pairs) {
        let (row, _) = S::as_simd_u32s(row);
        for (vector, words) in row.iter().enumerate().take(vectors.min(MOST)) {
            let even = s.transmute_f32s_u32s(s.wrapping_dyn_shl_u32s(*words, sixteen));
            let odd = s.transmute_f32s_u32s(s.and_u32s(*words, upper));
            for (parts, [low, high]) in parts.iter_mut().zip(numbers) {
                parts[vector] = simd::mul_add(s, s.splat_f32s(low), even, parts[vector]);
                parts[vector] = simd::mul_add(s, s.splat_f32s(high), odd, parts[vector]);
            }
        }
    }
    for (sums, parts) in sums.iter_mut().zip(parts) {
        let (out, _) = S::as_mut_simd_f32s(sums);
        out.copy_from_slice(&parts[..vectors]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(i: usize) -> f32 {
        ((i * 7919 + 13) % 1009) as f32 / 504.0 - 1.0
    }

    fn of_bits(bits: u32) -> f64 {
        f64::from(f32::from_bits(bits << 16))
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for (x, wanted) in [
            (1.0, 0x3F80),
            (1.0 + 1.0 / 256.0, 0x3F80),
            (1.0 + 3.0 / 256.0, 0x3F82),
            (-0.0, 0x8000),
        ] {
            assert_eq!(rounded(x), wanted, "{x}");
        }
        assert_eq!(rounded(f32::INFINITY), 0x7F80);
        assert!(f32::from_bits(rounded(f32::from_bits(0x7FFF_FFFF)) << 16).is_nan());
    }

    #[test]
    fn the_instruction_rounds_alike() {
        if !available() {
            return;
        }
        for len in [1, 2, 15, 16, 17, 47, 256] {
            let mut x: Vec<f32> = (0..len).map(|i| number(i) * 3.7).collect();
            x[0] = 1.0 + 1.0 / 256.0;
            let (mut own, mut wanted) = (vec![0; len.div_ceil(2)], vec![0; len.div_ceil(2)]);
            round(&x, &mut own);
            Level::Portable.run(Round(&x, &mut wanted));
            assert_eq!(own, wanted, "{len}");
        }
    }

    #[test]
    fn widening_is_exact() {
        let bits: Vec<u16> = (0..40_000).map(|i| (i * 31) as u16).collect();
        for level in Level::available() {
            let wide = widen(level, &bits);
            let same = |(wide, bits): (&f32, &u16)| wide.to_bits() == u32::from(*bits) << 16;
            assert!(wide.iter().zip(&bits).all(same), "{level:?}");
        }
    }

    #[test]
    fn products_of_odd_sizes_at_every_level() {
        for (rows, inner, columns) in [(1, 1, 1), (3, 5, 7), (13, 385, 33), (97, 31, 64), (200, 802, 95)] {
            let x: Vec<f32> = (0..rows * inner).map(number).collect();
            let bits: Vec<u16> = (0..inner * columns).map(|i| rounded(number(i + 5)) as u16).collect();
            let bias: Vec<f32> = (0..columns).map(number).collect();
            // The rows of the weight are its columns in memory.
            let packed = Packed::new(&bits, 0, [inner, columns], [1, inner as isize]);
            let wanted = |i: usize, j: usize| -> f64 {
                let terms =
                    (0..inner).map(|k| of_bits(rounded(x[i * inner + k])) * of_bits(bits[j * inner + k].into()));
                terms.sum::<f64>() + f64::from(bias[j])
            };
            for level in Level::available() {
                let out = packed.product(level, &x, Some(&bias));
                for (index, out) in out.iter().enumerate() {
                    let wanted = wanted(index / columns, index % columns);
                    let error = (f64::from(*out) - wanted).abs();
                    assert!(
                        error < 1e-5 * (inner as f64).sqrt(),
                        "{level:?} {rows} {inner} {columns}: {out} {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_product_in_parts_is_that_of_the_whole() {
        let (rows, inner, columns) = (110, 601, 70);
        let x: Vec<f32> = (0..rows * inner).map(number).collect();
        let bits: Vec<u16> = (0..inner * columns).map(|i| rounded(number(i + 5)) as u16).collect();
        let packed = Packed::new(&bits, 0, [inner, columns], [columns as isize, 1]);
        let mut column = vec![0.0; inner];
        packed.column(33, &mut column);
        assert!((0..inner).all(|i| f64::from(column[i]) == of_bits(bits[i * columns + 33].into())));
        for level in Level::available() {
            let whole = packed.product(level, &x, None);
            for (first_column, width) in [(0, 64), (64, 6)] {
                let mut out = vec![f32::NAN; rows * width];
                for numbers in [0..320, 320..601] {
                    let part: Vec<f32> = x.chunks(inner).flat_map(|row| row[numbers.clone()].to_vec()).collect();
                    let (add, out) = (numbers.start > 0, MatMut::dense(&mut out, rows, width));
                    packed.part(level, &part, numbers, first_column, add, out);
                }
                for (index, out) in out.iter().enumerate() {
                    let wanted = whole[index / width * columns + first_column + index % width];
                    assert!((out - wanted).abs() < 1e-4, "{level:?} {first_column}: {out} {wanted}");
                }
            }
        }
    }
}
