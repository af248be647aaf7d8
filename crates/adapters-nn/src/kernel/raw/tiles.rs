//! The inner loop of products in bf16 on the tile unit of Intel's processors, AMX.

use std::marker::PhantomData;

use super::MatMut;
use super::half::PANEL;

/// Rows of the left factor that [`Tiles::panel`] multiplies at once.
pub const ROWS: usize = 32;

/// The pairs of numbers of a panel are a multiple of this.
pub const PAIRS: usize = 16;

/// Whether the processor has the unit and the system lets this process use it.
pub fn available() -> bool {
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
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// What is in the output.
    Output,
    /// A row that is added to each row of the product.
    Bias(&'a [f32]),
}

/// The tile unit, set up for the thread that holds this.
#[derive(Debug)]
pub struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// `None` where the unit is not [`available`].
    pub fn new() -> Option<Self> {
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

    /// `out = start + a b`: `a` in [`ROWS`] rows of pairs of numbers, `stride` pairs apart, of which the first `pairs` count, `b` a
    /// panel of `pairs` rows of [`PANEL`] pairs.
    ///
    /// # Panics
    ///
    /// Panics on slices that are too short, on `pairs` that are no multiple of [`PAIRS`], and on an `out` of more than [`ROWS`] by
    /// [`PANEL`] numbers or without dense rows.
    pub fn panel(&self, a: &[u32], stride: usize, b: &[u32], pairs: usize, out: &mut MatMut<'_>, start: Start<'_>) {
        let [rows, columns] = [out.rows, out.columns];
        assert!((1..=ROWS).contains(&rows) && (1..=PANEL).contains(&columns) && out.column_stride == 1);
        assert!(pairs.is_multiple_of(PAIRS) && pairs <= stride);
        assert!(a.len() >= (ROWS - 1) * stride + pairs && b.len() >= pairs * PANEL);
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
                whole(a.as_ptr(), stride, b.as_ptr(), pairs, out, start);
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
        self.panel(a, stride, b, pairs, &mut MatMut::dense(&mut edge, ROWS, PANEL), Start::Output);
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

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod instructions {
    use std::arch::asm;

    /// Tile `T` from sixteen rows of 64 bytes, `stride` bytes apart.
    ///
    /// # Safety
    ///
    /// Tiles are set up, and the rows may be read.
    #[inline(always)]
    pub unsafe fn load<const T: usize, N>(rows: *const N, stride: isize) {
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
    pub unsafe fn store<const T: usize>(rows: *mut f32, stride: isize) {
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
    pub unsafe fn zero() {
        // SAFETY: as the caller promises.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
    }

    /// Adds the products of tiles 4 and 5 with tiles 6 and 7 to tiles 0 to 3.
    ///
    /// # Safety
    ///
    /// Tiles are set up.
    #[inline(always)]
    pub unsafe fn multiply() {
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
/// Tiles are set up; `a` and `b` are as [`Tiles::panel`] says, `out` has [`ROWS`] dense rows of [`PANEL`] numbers, and `start`, with
/// the distance of its rows, as many.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn whole(
    a: *const u32,
    stride: usize,
    b: *const u32,
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
            load::<4, _>(a.add(pair), a_stride);
            load::<5, _>(a.add(16 * stride + pair), a_stride);
            load::<6, _>(b.add(pair * PANEL), b_stride);
            load::<7, _>(b.add(pair * PANEL + 16), b_stride);
            multiply();
        }
        let below = out.data.offset(16 * out.row_stride);
        store::<0>(out.data, 4 * out.row_stride);
        store::<1>(out.data.add(16), 4 * out.row_stride);
        store::<2>(below, 4 * out.row_stride);
        store::<3>(below.add(16), 4 * out.row_stride);
    }
}
