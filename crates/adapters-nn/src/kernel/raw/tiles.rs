//! The inner loop of products in bf16 on the tile unit of Intel's processors, AMX, and numbers of `f32` as sums of three of bf16.

use std::marker::PhantomData;

use super::MatMut;
use super::half::PANEL;

/// Rows of the left factor that [`Tiles::panel`] multiplies at once.
pub(crate) const ROWS: usize = 32;

/// The pairs of numbers of a panel are a multiple of this.
pub(crate) const PAIRS: usize = 16;

/// Whether the processor has the unit and the system lets this process use it.
pub(crate) fn available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        use std::sync::LazyLock;
        static AVAILABLE: LazyLock<bool> = LazyLock::new(|| super::half::available() && has_tiles() && permitted());
        *AVAILABLE
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Whether the processor multiplies tiles of bf16, and the system keeps tiles apart for each thread.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const OSXSAVE: u32 = 1 << 27;
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    const TILE_STATE: u64 = 0b11 << 17;
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: the register exists wherever the instruction does.
        unsafe { _xgetbv(0) }
    }
    #[allow(unused_unsafe)] // Safe in later versions of the standard library.
    // SAFETY: every processor with the 64-bit instruction set has CPUID, and the leaf is asked for only where it exists;
    // `enabled` is called where the system has turned the instruction on.
    unsafe {
        __cpuid(0).eax >= 7
            && __cpuid(1).ecx & OSXSAVE != 0
            && __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE
            && enabled() & TILE_STATE == TILE_STATE
    }
}

/// Asks the system to keep tiles for the threads of this process, as Linux wants it before their first use.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: a system call that touches no memory of the process; a kernel that does not know it returns an error.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// What a product starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What is in the output.
    Output,
    /// A row that is added to each row of the product.
    Bias(&'a [f32]),
}

/// The tile unit, set up for the thread that holds this.
#[derive(Debug)]
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// `None` where the unit is not [`available`].
    pub(crate) fn new() -> Option<Self> {
        if !available() {
            return None;
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            #[repr(C, align(64))]
            struct Configuration([u8; 64]);
            let mut configuration = Configuration([0; 64]);
            configuration.0[0] = 1;
            for tile in 0..8 {
                // Eight tiles of sixteen rows of 64 bytes.
                configuration.0[16 + 2 * tile] = 64;
                configuration.0[48 + tile] = 16;
            }
            // SAFETY: the unit is there and permitted, and the configuration is 64 bytes in the form it reads. The compiler
            // does not use tiles.
            unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        }
        Some(Self(PhantomData))
    }

    /// `out = start + sum of a_i b_j`, for the pairs `(i, j)` of the planes of `a` and `b` that matter: all, where `b` is one plane;
    /// of three each, which add up to the numbers of a matrix in `f32` as [`split`] makes them, all but those below the last bit of
    /// the products. Each plane of `a` is [`ROWS`] rows, `stride` pairs apart, of which the first `pairs` count; each of `b` is a panel of
    /// `pairs` rows of [`PANEL`] pairs.
    ///
    /// # Panics
    ///
    /// Panics on slices that are too short, on `pairs` that are no multiple of [`PAIRS`], and on an `out` of more than [`ROWS`] by
    /// [`PANEL`] numbers or without dense rows.
    pub(crate) fn panel<const A: usize, const B: usize>(
        &self,
        a: [&[u32]; A],
        stride: usize,
        b: [&[u32]; B],
        pairs: usize,
        out: &mut MatMut<'_>,
        start: Start<'_>,
    ) {
        let [rows, columns] = [out.rows, out.columns];
        assert!((1..=ROWS).contains(&rows) && (1..=PANEL).contains(&columns) && out.column_stride == 1);
        assert!(pairs.is_multiple_of(PAIRS) && pairs <= stride);
        assert!(a.iter().all(|a| a.len() >= (ROWS - 1) * stride + pairs));
        assert!(b.iter().all(|b| b.len() >= pairs * PANEL));
        assert!(!matches!(start, Start::Bias(bias) if bias.len() < columns));
        if rows == ROWS && columns == PANEL {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            // SAFETY: a `Tiles` exists only where the unit is there and set up on this thread; the slices are as long as what is
            // read, as asserted, and `out` is borrowed exclusively and has whole rows.
            unsafe {
                let start = match start {
                    Start::Zero => None,
                    Start::Output => Some((out.data.cast_const(), out.row_stride)),
                    Start::Bias(bias) => Some((bias.as_ptr(), 0)),
                };
                whole(
                    a.map(<[u32]>::as_ptr),
                    stride,
                    b.map(<[u32]>::as_ptr),
                    pairs,
                    out,
                    start,
                );
            }
            return;
        }
        // At an edge the whole tiles are computed beside it.
        let mut edge = [0.0; ROWS * PANEL];
        for (row, edge) in edge.chunks_exact_mut(PANEL).enumerate().take(rows) {
            match start {
                Start::Zero => {}
                Start::Output => edge[..columns].copy_from_slice(out.row(row)),
                Start::Bias(bias) => edge[..columns].copy_from_slice(&bias[..columns]),
            }
        }
        self.panel(
            a,
            stride,
            b,
            pairs,
            &mut MatMut::dense(&mut edge, ROWS, PANEL),
            Start::Output,
        );
        for (row, edge) in edge.chunks_exact(PANEL).enumerate().take(rows) {
            out.row(row).copy_from_slice(&edge[..columns]);
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        // SAFETY: the unit is there, and nothing else on this thread uses it.
        unsafe {
            std::arch::asm!("tilerelease", options(nostack, nomem));
        }
    }
}

/// The products of planes that are summed: each differs from the one before in one plane, which saves loading the other.
const fn terms<const A: usize, const B: usize>() -> &'static [(usize, usize)] {
    const { assert!(matches!((A, B), (1, 1) | (3, 1) | (3, 3))) };
    match (A, B) {
        (1, _) => &[(0, 0)],
        (_, 1) => &[(2, 0), (1, 0), (0, 0)],
        _ => &[(1, 1), (0, 1), (0, 2), (0, 0), (1, 0), (2, 0)],
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod instructions {
    use std::arch::asm;

    /// Tile `T` from sixteen rows of 64 bytes, `stride` bytes apart.
    ///
    /// # Safety
    ///
    /// Tiles are set up, and the rows may be read.
    #[inline(always)]
    pub(super) unsafe fn load<const T: usize, N>(rows: *const N, stride: isize) {
        // SAFETY: as the caller promises.
        unsafe {
            asm!("tileloadd tmm{t}, [{rows} + {stride}*1]", t = const T, rows = in(reg) rows, stride = in(reg) stride,
                options(nostack, readonly));
        }
    }

    /// Tile `T` to sixteen rows of 64 bytes, `stride` bytes apart.
    ///
    /// # Safety
    ///
    /// Tiles are set up, and the rows may be written.
    #[inline(always)]
    pub(super) unsafe fn store<const T: usize>(rows: *mut f32, stride: isize) {
        // SAFETY: as the caller promises.
        unsafe {
            asm!("tilestored [{rows} + {stride}*1], tmm{t}", t = const T, rows = in(reg) rows, stride = in(reg) stride,
                options(nostack));
        }
    }

    /// Zeros in the tiles 0 to 3.
    ///
    /// # Safety
    ///
    /// Tiles are set up.
    #[inline(always)]
    pub(super) unsafe fn zero() {
        // SAFETY: as the caller promises.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem)
            );
        }
    }

    /// Adds the products of tiles 4 and 5 with tiles 6 and 7 to tiles 0 to 3.
    ///
    /// # Safety
    ///
    /// Tiles are set up.
    #[inline(always)]
    pub(super) unsafe fn multiply() {
        // SAFETY: as the caller promises.
        unsafe {
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                options(nostack, nomem),
            );
        }
    }
}

/// # Safety
///
/// Tiles are set up; each plane is as [`Tiles::panel`] says, `out` has [`ROWS`] dense rows of [`PANEL`] numbers, and `start`, with the
/// distance of its rows, as many.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn whole<const A: usize, const B: usize>(
    a: [*const u32; A],
    stride: usize,
    b: [*const u32; B],
    pairs: usize,
    out: &mut MatMut<'_>,
    start: Option<(*const f32, isize)>,
) {
    use instructions::{load, multiply, store, zero};
    // SAFETY: every pointer stays inside of what the caller promises: rows 0 to 15 and 16 to 31, columns 0 to 15 and 16 to 31.
    unsafe {
        match start {
            Some((rows, row_stride)) => {
                let below = rows.offset(16 * row_stride);
                load::<0, _>(rows, 4 * row_stride);
                load::<1, _>(rows.add(16), 4 * row_stride);
                load::<2, _>(below, 4 * row_stride);
                load::<3, _>(below.add(16), 4 * row_stride);
            }
            None => zero(),
        }
        let (a_stride, b_stride) = (4 * stride as isize, 4 * PANEL as isize);
        for pair in (0..pairs).step_by(PAIRS) {
            let mut loaded = (usize::MAX, usize::MAX);
            for &(i, j) in terms::<A, B>() {
                if loaded.0 != i {
                    load::<4, _>(a[i].add(pair), a_stride);
                    load::<5, _>(a[i].add(16 * stride + pair), a_stride);
                }
                if loaded.1 != j {
                    load::<6, _>(b[j].add(pair * PANEL), b_stride);
                    load::<7, _>(b[j].add(pair * PANEL + 16), b_stride);
                }
                loaded = (i, j);
                multiply();
            }
        }
        let below = out.data.offset(16 * out.row_stride);
        store::<0>(out.data, 4 * out.row_stride);
        store::<1>(out.data.add(16), 4 * out.row_stride);
        store::<2>(below, 4 * out.row_stride);
        store::<3>(below.add(16), 4 * out.row_stride);
    }
}

/// The first number of bf16 of each number of `x`, what is left of it, and what is left then: three numbers whose sum is the
/// number, to its last bit unless it is close to the least normal one. Each plane of `out` gets pairs of numbers that follow each
/// other in `x`, the first in the lower half; the last of an odd number is paired with a zero.
///
/// # Panics
///
/// Panics if the unit is not [`available`], or on another length of `out`.
pub(crate) fn split(x: &[f32], out: [&mut [u32]; 3]) {
    assert!(available(), "AMX");
    assert!(out.iter().all(|plane| plane.len() == x.len().div_ceil(2)));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor has the instructions, as every one with the unit has, and the planes are as long as the pairs.
    unsafe {
        split_pairs(x, out);
    };
}

/// As [`split`], of pairs that take one number from `even` and one from `odd`.
///
/// # Panics
///
/// Panics if the unit is not [`available`], or on other lengths than [`PANEL`].
pub(crate) fn split_rows(even: &[f32], odd: &[f32], out: [&mut [u32]; 3]) {
    assert!(available(), "AMX");
    assert!(even.len() == PANEL && odd.len() == PANEL && out.iter().all(|plane| plane.len() == PANEL));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `split`.
    unsafe {
        split_two(even, odd, out);
    };
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use std::arch::x86_64::*;

    /// Sixteen numbers as three vectors of bf16.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 F and BF16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn three(x: __m512) -> [__m256i; 3] {
        let mut left = x;
        let mut parts = [_mm256_setzero_si256(); 3];
        for part in &mut parts {
            // SAFETY: both are 256 bits that may hold anything.
            *part = unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(left)) };
            let rounded = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(*part)));
            left = _mm512_sub_ps(left, rounded);
        }
        parts
    }
}

/// # Safety
///
/// The processor has AVX-512 F and BF16, and each plane of `out` has a number for each pair of `x`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn split_pairs(x: &[f32], mut out: [&mut [u32]; 3]) {
    use std::arch::x86_64::*;
    let (whole, rest) = x.as_chunks::<16>();
    for (index, x) in whole.iter().enumerate() {
        // SAFETY: sixteen numbers are read, and eight pairs of each plane written, which it has.
        unsafe {
            let parts = vectors::three(_mm512_loadu_ps(x.as_ptr()));
            for (plane, part) in out.iter_mut().zip(parts) {
                _mm256_storeu_si256(plane.as_mut_ptr().add(8 * index).cast(), part);
            }
        }
    }
    if !rest.is_empty() {
        let mut last = [0.0; 16];
        last[..rest.len()].copy_from_slice(rest);
        // SAFETY: as above, with eight pairs beside the planes.
        unsafe {
            let parts = vectors::three(_mm512_loadu_ps(last.as_ptr()));
            for (plane, part) in out.iter_mut().zip(parts) {
                let mut pairs = [0_u32; 8];
                _mm256_storeu_si256(pairs.as_mut_ptr().cast(), part);
                plane[8 * whole.len()..].copy_from_slice(&pairs[..rest.len().div_ceil(2)]);
            }
        }
    }
}

/// # Safety
///
/// The processor has AVX-512 F and BF16, and every slice has [`PANEL`] numbers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn split_two(even: &[f32], odd: &[f32], out: [&mut [u32]; 3]) {
    use std::arch::x86_64::*;
    let mut out = out;
    for first in (0..PANEL).step_by(16) {
        // SAFETY: sixteen numbers from `first` on are read and written, which every slice has.
        unsafe {
            let even = vectors::three(_mm512_loadu_ps(even.as_ptr().add(first)));
            let odd = vectors::three(_mm512_loadu_ps(odd.as_ptr().add(first)));
            for ((plane, even), odd) in out.iter_mut().zip(even).zip(odd) {
                let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
                let pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(even), odd);
                _mm512_storeu_si512(plane.as_mut_ptr().add(first).cast(), pairs);
            }
        }
    }
}
