//! What cannot be written without `unsafe`: buffers that are not cleared first, and products of strided matrices.
//!
//! Everything here has a safe interface: a matrix is checked against the slice it lies in when it is made.

#![allow(unsafe_code)]

pub(crate) mod half;
pub(crate) mod tiles;

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use pulp::bytemuck::{AnyBitPattern, Zeroable, pod_read_unaligned};
use rayon::prelude::*;

use super::threads::keep_awake;

/// A buffer of `len` numbers that the caller fills.
///
/// In a debug build all its bits are set, which is no number, so that a kernel that leaves one out fails its test; in a release
/// build the numbers are whatever the memory held, since clearing it first costs as much as a kernel.
#[allow(clippy::uninit_vec, reason = "the caller fills it before it reads")]
pub(crate) fn unfilled<N: AnyBitPattern>(len: usize) -> Vec<N> {
    if cfg!(debug_assertions) {
        return vec![pod_read_unaligned(&[0xFF; size_of::<Line>()][..size_of::<N>()]); len];
    }
    let mut buffer = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`, every bit pattern is an `N`, and the kernels of this crate, which alone can call
    // this, write every element before they or anyone else reads it (tested against NaN in debug builds).
    unsafe { buffer.set_len(len) };
    buffer
}

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u32; Line::WORDS]);

impl Line {
    const WORDS: usize = 16;
}

// SAFETY: sixteen numbers without anything between them, of which every bit pattern is one.
unsafe impl Zeroable for Line {}
// SAFETY: as above.
unsafe impl AnyBitPattern for Line {}

/// A buffer of pairs of numbers in bf16 that begins with a cache line, so that rows of whole lines are read at full speed.
#[derive(Debug)]
pub(crate) struct Words(Vec<Line>);

impl Words {
    /// `len` zeros, or a few more.
    pub(crate) fn zeros(len: usize) -> Self {
        Self(vec![Line([0; Line::WORDS]); len.div_ceil(Line::WORDS)])
    }

    /// As [`zeros`](Self::zeros), for the caller to fill, like [`unfilled`].
    pub(crate) fn unfilled(len: usize) -> Self {
        Self(unfilled(len.div_ceil(Line::WORDS)))
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: lines are nothing but numbers, which follow each other.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * Line::WORDS) }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as for `deref`, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * Line::WORDS) }
    }
}

/// A matrix that is read, at any strides inside a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mat<'a> {
    data: *const f32,
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
    lifetime: PhantomData<&'a [f32]>,
}

// SAFETY: a `Mat` is a shared borrow of a slice of `f32`, and those may be sent.
unsafe impl Send for Mat<'_> {}
// SAFETY: as above; nothing is written through it.
unsafe impl Sync for Mat<'_> {}

impl<'a> Mat<'a> {
    /// The matrix whose element `(i, j)` is `data[offset + i * row_stride + j * column_stride]`.
    ///
    /// # Panics
    ///
    /// Panics if an element lies outside of `data`.
    pub(crate) fn new(data: &'a [f32], offset: usize, [rows, columns]: [usize; 2], strides: [isize; 2]) -> Self {
        check(data.len(), offset, [rows, columns], strides);
        Self {
            // SAFETY: with at least one element, `offset` is inside of `data` as checked; with none, it is not moved.
            data: unsafe { data.as_ptr().add(if rows * columns == 0 { 0 } else { offset }) },
            rows,
            columns,
            row_stride: strides[0],
            column_stride: strides[1],
            lifetime: PhantomData,
        }
    }

    /// `data` row after row.
    ///
    /// # Panics
    ///
    /// Panics if `data` has fewer than `rows * columns` numbers.
    pub(crate) fn dense(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::new(data, 0, [rows, columns], [columns as isize, 1])
    }

    /// The transposed matrix, without a copy.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// `count` of its rows from `first` on.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many.
    pub(crate) fn rows(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "rows of a matrix");
        let moved = if count == 0 {
            0
        } else {
            first as isize * self.row_stride
        };
        Self {
            // SAFETY: row `first` is a row of this matrix, whose elements were checked to lie inside its slice.
            data: unsafe { self.data.offset(moved) },
            rows: count,
            ..self
        }
    }
}

impl Mat<'_> {
    /// `count` of its columns from `first` on.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many.
    pub(crate) fn columns(self, first: usize, count: usize) -> Self {
        self.transposed().rows(first, count).transposed()
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Copies its elements to a matrix of the same shape with dense rows.
    ///
    /// # Panics
    ///
    /// Panics if `out` is another matrix.
    pub(crate) fn copy_to(self, out: &mut MatMut<'_>) {
        assert_eq!(out.shape(), self.shape(), "the shapes of two matrices");
        for row in 0..self.rows {
            let start = row as isize * self.row_stride;
            for (column, number) in out.row(row).iter_mut().enumerate() {
                // SAFETY: element `(row, column)` is one of this matrix, whose elements were checked to lie inside its slice.
                *number = unsafe { *self.data.offset(start + column as isize * self.column_stride) };
            }
        }
    }
}

/// A matrix that is written, at any strides inside a slice.
#[derive(Debug)]
pub(crate) struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `MatMut` is an exclusive borrow of the elements it names, and those may be sent.
unsafe impl Send for MatMut<'_> {}

impl<'a> MatMut<'a> {
    /// `data` row after row.
    ///
    /// # Panics
    ///
    /// Panics if `data` has fewer than `rows * columns` numbers.
    pub(crate) fn dense(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        check(data.len(), 0, [rows, columns], [columns as isize, 1]);
        Self {
            data: data.as_mut_ptr(),
            rows,
            columns,
            row_stride: columns as isize,
            column_stride: 1,
            lifetime: PhantomData,
        }
    }

    /// A buffer `[batch, seq, heads, width]` as a matrix `[seq, width]` for each head of each row of the batch, in the
    /// order `(batch, head)`.
    ///
    /// # Panics
    ///
    /// Panics if `data` is of another length.
    pub(crate) fn heads(data: &'a mut [f32], [batch, seq, heads, width]: [usize; 4]) -> Vec<Self> {
        assert_eq!(data.len(), batch * seq * heads * width, "a buffer of heads");
        let start = data.as_mut_ptr();
        let head = |index: usize| {
            let (row, head) = (index / heads, index % heads);
            Self {
                // SAFETY: the first element of a head of the buffer, whose length is checked. Two heads have no element in
                // common, so that each is borrowed once.
                data: unsafe { start.add((row * seq * heads + head) * width) },
                rows: seq,
                columns: width,
                row_stride: (heads * width) as isize,
                column_stride: 1,
                lifetime: PhantomData,
            }
        };
        let count = if data.is_empty() { 0 } else { batch * heads };
        (0..count).map(head).collect()
    }

    /// `count` of its rows from `first` on.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many.
    pub(crate) fn rows(&mut self, first: usize, count: usize) -> MatMut<'_> {
        self.tile([first, count], [0, self.columns])
    }

    /// The rows and the columns of these starts and counts.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many.
    pub(crate) fn tile(&mut self, rows: [usize; 2], columns: [usize; 2]) -> MatMut<'_> {
        assert!(
            rows[0] + rows[1] <= self.rows && columns[0] + columns[1] <= self.columns,
            "a tile of a matrix"
        );
        let moved = match rows[1] * columns[1] {
            0 => 0,
            _ => rows[0] as isize * self.row_stride + columns[0] as isize * self.column_stride,
        };
        MatMut {
            // SAFETY: the first element of the tile is one of this matrix, whose elements lie inside its slice.
            data: unsafe { self.data.offset(moved) },
            rows: rows[1],
            columns: columns[1],
            lifetime: PhantomData,
            ..*self
        }
    }

    /// The whole in tiles of at most `rows` by `columns`, with the row and the column each starts at.
    pub(crate) fn tiles(self, rows: usize, columns: usize) -> Vec<(usize, usize, Self)> {
        let mut tiles = Vec::new();
        for row in (0..self.rows).step_by(rows.max(1)) {
            for column in (0..self.columns).step_by(columns.max(1)) {
                let moved = row as isize * self.row_stride + column as isize * self.column_stride;
                let tile = Self {
                    // SAFETY: as in `tile`; two tiles have no element in common, so that each is borrowed once, and the
                    // whole is consumed.
                    data: unsafe { self.data.offset(moved) },
                    rows: rows.min(self.rows - row),
                    columns: columns.min(self.columns - column),
                    lifetime: PhantomData,
                    ..self
                };
                tiles.push((row, column, tile));
            }
        }
        tiles
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// A row of a matrix whose rows are dense.
    ///
    /// # Panics
    ///
    /// Panics on another matrix, or if there is no such row.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows && self.column_stride == 1, "a dense row of a matrix");
        // SAFETY: the elements of a row of this matrix, which is borrowed exclusively, follow each other.
        unsafe { std::slice::from_raw_parts_mut(self.data.offset(row as isize * self.row_stride), self.columns) }
    }
}

fn check(len: usize, offset: usize, shape: [usize; 2], strides: [isize; 2]) {
    if shape.contains(&0) {
        return;
    }
    let reach = |sign: isize| -> isize {
        let axis = |axis: usize| (shape[axis] as isize - 1) * strides[axis];
        [axis(0), axis(1)].into_iter().filter(|x| x * sign > 0).sum()
    };
    let (first, last) = (offset as isize + reach(-1), offset as isize + reach(1));
    assert!(
        first >= 0 && last < len as isize,
        "a matrix {shape:?} at {offset} with strides {strides:?} in {len} numbers"
    );
}

/// `out = x w`, on all threads where it is long enough: each takes rows, or columns where there are few rows.
///
/// # Panics
///
/// Panics if `out` has not as many numbers as the product.
pub(crate) fn layer_product(out: &mut [f32], x: Mat<'_>, weight: Mat<'_>) {
    /// Rows below which the time goes into reading the weight.
    const FEW: usize = 16;
    let ([rows, inner], [_, columns]) = (x.shape(), weight.shape());
    let operations = rows.saturating_mul(inner).saturating_mul(columns);
    let threads = rayon::current_num_threads();
    let out = MatMut::dense(out, rows, columns);
    if rows >= FEW || threads == 1 || operations < 1 << 18 {
        return product(out, x, weight, 1.0, false, operations >= 1 << 20);
    }
    let tiles = out.tiles(rows, columns.div_ceil(threads).next_multiple_of(FEW));
    keep_awake();
    tiles.into_par_iter().for_each(|(_, first, tile)| {
        let weight = weight.columns(first, tile.columns);
        product(tile, x, weight, 1.0, false, false);
    });
}

/// `out = x^T grad`, on all threads where it is long enough: each takes rows or columns, of which there are more.
///
/// # Panics
///
/// Panics if `out` has not as many numbers as the product.
pub(crate) fn weight_gradient(out: &mut [f32], x: Mat<'_>, grad: Mat<'_>) {
    let ([inner, rows], [_, columns]) = (x.shape(), grad.shape());
    let threads = match inner.saturating_mul(rows).saturating_mul(columns) {
        0..0x4_0000 => 1,
        _ => rayon::current_num_threads(),
    };
    let (tile_rows, tile_columns) = match rows > columns {
        true => (rows.div_ceil(threads).next_multiple_of(16), columns),
        false => (rows, columns.div_ceil(threads).next_multiple_of(16)),
    };
    let tiles = MatMut::dense(out, rows, columns).tiles(tile_rows, tile_columns);
    if threads > 1 {
        keep_awake();
    }
    tiles.into_par_iter().for_each(|(row, column, tile)| {
        let [rows, columns] = tile.shape();
        let x = x.columns(row, rows).transposed();
        product(tile, x, grad.columns(column, columns), 1.0, false, false);
    });
}

/// `out = scale * a b`, or `out += scale * a b` with `add`; on all threads of the pool with `parallel`.
///
/// # Panics
///
/// Panics if the shapes do not fit.
pub(crate) fn product(out: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, scale: f32, add: bool, parallel: bool) {
    assert_eq!(
        (out.rows, out.columns, a.columns),
        (a.rows, b.columns, b.rows),
        "a product's shapes"
    );
    if parallel {
        keep_awake();
    }
    // SAFETY: each matrix was checked against its slice when it was made, `out` is borrowed exclusively and so overlaps
    // neither operand, and the shapes fit as asserted.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            a.columns,
            out.data,
            out.column_stride,
            out.row_stride,
            add,
            a.data,
            a.column_stride,
            a.row_stride,
            b.data,
            b.column_stride,
            b.row_stride,
            1.0,
            scale,
            false,
            false,
            false,
            if parallel {
                gemm::Parallelism::Rayon(0)
            } else {
                gemm::Parallelism::None
            },
        );
    }
}
