//! The allocator of the command, and the one setting that matters to training.
//!
//! Every step allocates and frees the same large buffers. By default they go back to the system within milliseconds,
//! and the next step pays for their pages again: a seventh of the time of a step. Keeping them costs a tenth more peak
//! memory. The allocator reads the setting before `main`, so the command starts itself again with it, once.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Milliseconds after which unused memory goes back to the system; negative for never.
#[cfg(unix)]
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Replaces this process by itself with the setting, unless the user has chosen one.
#[cfg(unix)]
pub fn keep_buffers() {
    use std::os::unix::process::CommandExt;

    if std::env::var_os(PURGE_DELAY).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Comes back only if it fails; then the command runs as it is, a little slower.
        let _ = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(PURGE_DELAY, "-1")
            .exec();
    }
}

/// Processes cannot replace themselves here.
#[cfg(not(unix))]
pub fn keep_buffers() {}
