//! How the user started this program, for commands that are printed to be typed again.

/// `adapters`, or the `cargo run` that started it.
pub(crate) fn program() -> &'static str {
    // Cargo sets this for what it runs.
    match std::env::var_os("CARGO_PKG_NAME") {
        Some(_) => "cargo run --release --bin adapters --",
        None => "adapters",
    }
}
