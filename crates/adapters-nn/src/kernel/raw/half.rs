//! The inner loop of products in bf16 with the instruction made for it, `vdpbf16ps` of AVX-512 BF16.

use super::MatMut;

/// Columns of a panel of the packed matrix.
pub(crate) const PANEL: usize = 32;
/// Rows that the loop computes at once: with two vectors of columns, 24 sums stay in registers.
pub(crate) const ROWS: usize = 12;

/// Pairs of numbers from one row of the left factor to the next; a panel of as many pairs and the rows it meets stay in the
/// nearest cache.
pub(crate) const STRIDE: usize = 128;

/// Whether the processor has the instruction.
pub(crate) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether the processor multiplies pairs of bf16 twice as fast as numbers of `f32`, as AMD's with the instruction do. Intel's
/// have one unit for it and two for `f32` (measured: 0.65 of the speed of `f32`).
pub(crate) fn is_twice_as_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        #[allow(unused_unsafe)] // Safe in later versions of the standard library.
        // SAFETY: every processor with the 64-bit instruction set has CPUID.
        let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        available() && name.as_flattened() == b"AuthenticAMD"
    }
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// `out = a b`, or `out += a b` with `add`, and `bias` added to each row: `a` in rows of [`STRIDE`] pairs of numbers of bf16,
/// of which the first `pairs` count, `b` a panel of `pairs` rows of [`PANEL`] such pairs.
///
/// # Panics
///
/// Panics if the instruction is not [`available`], or on slices too short for `out`'s shape, which is at most [`ROWS`] by
/// [`PANEL`] with dense rows.
pub(crate) fn panel(a: &[u32], b: &[u32], pairs: usize, out: &mut MatMut<'_>, add: bool, bias: Option<&[f32]>) {
    let [rows, columns] = [out.rows, out.columns];
    assert!(available(), "AVX-512 BF16");
    assert!((1..=ROWS).contains(&rows) && (1..=PANEL).contains(&columns) && out.column_stride == 1);
    assert!(pairs <= STRIDE && a.len() >= (rows - 1) * STRIDE + pairs && b.len() >= pairs * PANEL);
    assert!(bias.is_none_or(|bias| bias.len() >= columns));
    #[cfg(target_arch = "x86_64")]
    {
        let loops: [Loop; ROWS] = [
            rows_at_once::<1>,
            rows_at_once::<2>,
            rows_at_once::<3>,
            rows_at_once::<4>,
            rows_at_once::<5>,
            rows_at_once::<6>,
            rows_at_once::<7>,
            rows_at_once::<8>,
            rows_at_once::<9>,
            rows_at_once::<10>,
            rows_at_once::<11>,
            rows_at_once::<12>,
        ];
        // SAFETY: the processor has the instructions and the slices are as long as the loop reads, as asserted; `out` is
        // borrowed exclusively.
        unsafe { loops[rows - 1](a, b, pairs, out, add, bias) };
    }
}

/// Rounds numbers to bf16, to the nearest, ties to even, and puts them in pairs, the first in the lower half; the last of an odd
/// number is paired with a zero. Numbers below the least normal one become zero, as in the products.
///
/// # Panics
///
/// Panics if the instruction is not [`available`], or on an `out` that is too short.
pub(crate) fn round(x: &[f32], out: &mut [u32]) {
    assert!(available(), "AVX-512 BF16");
    assert!(out.len() >= x.len().div_ceil(2));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor has the instructions, and `out` has room for the pairs, as asserted.
    unsafe {
        round_all(x, out);
    };
}

/// # Safety
///
/// The processor has AVX-512 F and BF16; `out` has a number for each pair of `x`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn round_all(x: &[f32], out: &mut [u32]) {
    use std::arch::x86_64::*;
    let (whole, rest) = x.as_chunks::<16>();
    let rounded = |numbers: __m512| {
        // SAFETY: both are 256 bits that may hold anything.
        unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(numbers)) }
    };
    for (x, out) in whole.iter().zip(out.as_chunks_mut::<8>().0) {
        // SAFETY: both are as long as what is read and written.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), rounded(_mm512_loadu_ps(x.as_ptr()))) };
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        // SAFETY: the mask keeps to the numbers that are left, and `last` is as long as what is written.
        unsafe {
            let mask = u16::MAX >> (16 - rest.len());
            let numbers = _mm512_maskz_loadu_ps(mask, rest.as_ptr());
            _mm256_storeu_si256(last.as_mut_ptr().cast(), rounded(numbers));
        }
        let pairs = rest.len().div_ceil(2);
        out[8 * whole.len()..][..pairs].copy_from_slice(&last[..pairs]);
    }
}

#[cfg(target_arch = "x86_64")]
type Loop = unsafe fn(&[u32], &[u32], usize, &mut MatMut<'_>, bool, Option<&[f32]>);

/// # Safety
///
/// The processor has AVX-512 F and BF16; `out` has `R` dense rows of at most [`PANEL`] columns, `a` as many of [`STRIDE`] with
/// `pairs` in the last, `b` has `pairs * PANEL` numbers, and `bias` as many as `out` has columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_at_once<const R: usize>(
    a: &[u32],
    b: &[u32],
    pairs: usize,
    out: &mut MatMut<'_>,
    add: bool,
    bias: Option<&[f32]>,
) {
    use std::arch::x86_64::*;
    let masks = [
        u16::MAX >> (16 - out.columns.min(16)),
        if out.columns > 16 {
            u16::MAX >> (PANEL - out.columns)
        } else {
            0
        },
    ];
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let (a, mut b) = (a.as_ptr(), b.as_ptr());
    for pair in 0..pairs {
        // SAFETY: `b` has `pairs` rows of two vectors, `a` has `R` rows of at least `pairs` numbers.
        unsafe {
            let columns: [__m512bh; 2] = [
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.cast())),
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.add(16).cast())),
            ];
            b = b.add(PANEL);
            for (row, [first, second]) in sums.iter_mut().enumerate() {
                let number = _mm512_set1_epi32(*a.add(row * STRIDE + pair) as i32);
                let number = std::mem::transmute::<__m512i, __m512bh>(number);
                *first = _mm512_dpbf16_ps(*first, number, columns[0]);
                *second = _mm512_dpbf16_ps(*second, number, columns[1]);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (half, (mut sum, mask)) in sums.into_iter().zip(masks).enumerate() {
            if mask == 0 {
                continue;
            }
            // SAFETY: `row` is a row of `out`, and the mask keeps to its columns and to those of `bias`.
            unsafe {
                let target = out.data.offset(row as isize * out.row_stride).add(16 * half);
                if add {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, target));
                }
                if let Some(bias) = bias {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(16 * half)));
                }
                _mm512_mask_storeu_ps(target, mask, sum);
            }
        }
    }
}
