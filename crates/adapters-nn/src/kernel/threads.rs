//! How work is divided among the threads of the pool.

use std::hint;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;
use rayon::prelude::*;

/// Numbers that one thread handles sooner than two threads meet: some microseconds of work.
const ALONE: usize = 1 << 14;

/// Keeps the other threads of the pool looking for work for a moment after the last there was.
///
/// Waking a thread takes tens of microseconds, as long as a small product, and a pass is hundreds of operations that follow each
/// other. A thread that looks for work takes up what others are waiting for, and no operation depends on one that does.
pub(crate) fn keep_awake() {
    /// How long a thread looks for work after the last it had.
    const IDLE: Duration = Duration::from_micros(300);
    /// How long it does at most before it goes back to the pool, whose other work may be waiting below it.
    const ALTOGETHER: Duration = Duration::from_millis(20);
    /// Threads that look for work.
    static AWAKE: AtomicUsize = AtomicUsize::new(0);

    let own = rayon::current_thread_index();
    let others = rayon::current_num_threads() - usize::from(own.is_some());
    if others == 0
        || AWAKE
            .compare_exchange(0, others, Ordering::Relaxed, Ordering::Relaxed)
            .is_err()
    {
        return;
    }
    rayon::spawn_broadcast(move |thread| {
        if own == Some(thread.index()) {
            return;
        }
        let begin = Instant::now();
        let mut last = begin;
        loop {
            let found = rayon::yield_now() == Some(Yield::Executed);
            let now = Instant::now();
            if found {
                last = now;
            }
            if now - last > IDLE || now - begin > ALTOGETHER {
                break;
            }
            hint::spin_loop();
        }
        AWAKE.fetch_sub(1, Ordering::Relaxed);
    });
}

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
    keep_awake();
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
    keep_awake();
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
        keep_awake();
        tasks.into_par_iter().for_each_init(scratch, run);
    }
}
