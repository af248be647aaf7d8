//! How the user started this program, for commands that are printed to be typed again.

use std::path::Path;

/// `adapters`, or the `cargo run` that started it.
pub(crate) fn program() -> &'static str {
    // Cargo sets this for what it runs.
    match std::env::var_os("CARGO_PKG_NAME") {
        Some(_) => "cargo run --release --bin adapters --",
        None => "adapters",
    }
}

/// A path as a word of such a command, in quotes where a shell would read more than one.
pub(crate) fn word(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "_./-+:@%=,".contains(c) || (cfg!(windows) && c == '\\');
    match (!text.is_empty() && text.chars().all(is_plain), cfg!(windows)) {
        (true, _) => text,
        (false, true) => format!("\"{text}\""),
        (false, false) => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_path_as_one_word() {
        for path in ["runs/reviews/adapter", "my runs/a", "it's $HOME/`a`", "a\"b;c"] {
            let command = format!("printf %s {}", word(path));
            let output = std::process::Command::new("sh")
                .args(["-c", &command])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), path);
        }
        assert_eq!(word("runs/reviews/adapter"), "runs/reviews/adapter");
    }
}
