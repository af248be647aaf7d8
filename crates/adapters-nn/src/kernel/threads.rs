//! How work is divided among the threads of the pool.

use rayon::prelude::*;

/// Numbers that one thread handles sooner than two threads meet: some microseconds of work.
const ALONE: usize = 1 << 14;

/// Rows a chunk of `rows * width` numbers: a few chunks for each thread, and none shorter than is worth a thread.
fn chunk_rows(rows: usize, width: usize) -> usize {
    let threads = rayon::current_num_threads();
    let least = ALONE.div_ceil(width.max(1));
    if threads == 1 || rows <= least {
        return rows.max(1);
    }
    rows.div_ceil(threads * 4).max(least)
}

/// Calls `kernel(first_row, rows)` for chunks of whole rows of `data`, at once on several threads where it is long enough.
pub(crate) fn chunks(data: &mut [f32], width: usize, kernel: impl Fn(usize, &mut [f32]) + Sync) {
    let width = width.max(1);
    let chunk = chunk_rows(data.len() / width, width);
    if chunk * width >= data.len() {
        return kernel(0, data);
    }
    data.par_chunks_mut(chunk * width)
        .enumerate()
        .for_each(|(index, rows)| kernel(index * chunk, rows));
}

/// As [`chunks`], over the same rows of two buffers of one length.
pub(crate) fn chunks2(
    a: &mut [f32],
    b: &mut [f32],
    width: usize,
    kernel: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    debug_assert_eq!(a.len(), b.len());
    let width = width.max(1);
    let chunk = chunk_rows(a.len() / width, width);
    if chunk * width >= a.len() {
        return kernel(0, a, b);
    }
    a.par_chunks_mut(chunk * width)
        .zip(b.par_chunks_mut(chunk * width))
        .enumerate()
        .for_each(|(index, (a, b))| kernel(index * chunk, a, b));
}

/// Runs each task, at once on several threads unless all of them together take fewer than `operations`.
pub(crate) fn tasks<T: Send, I: Send>(
    tasks: Vec<T>,
    operations: usize,
    scratch: impl Fn() -> I + Sync + Send,
    run: impl Fn(&mut I, T) + Sync + Send,
) {
    if tasks.len() == 1 || operations < ALONE * 8 || rayon::current_num_threads() == 1 {
        let mut scratch = scratch();
        tasks.into_iter().for_each(|task| run(&mut scratch, task));
    } else {
        tasks.into_par_iter().for_each_init(scratch, run);
    }
}
