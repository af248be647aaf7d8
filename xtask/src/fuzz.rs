//! `cargo xtask fuzz`: inputs that are nearly right for every reader of files and texts.

use std::path::Path;

use miette::Result;

use crate::ci;

/// Seconds for each reader in a smoke test.
const SMOKE: u64 = 60;
/// Seconds for each reader in a night.
const NIGHT: u64 = 1800;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A minute for each reader; without it half an hour, which is a night for all of them.
    #[arg(long)]
    smoke: bool,
    /// Seconds for each reader.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Only readers whose name has this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reader: String,
    /// Number of the first input; the inputs are the same for the same number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the program that feeds the readers.
///
/// # Errors
///
/// When a reader panics or ends the process; what it was given is kept below `target/fuzz`.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    ci::cargo(root, &command(args), &[], None)
}

fn command(args: &Args) -> Vec<String> {
    let seconds = args.seconds.unwrap_or(if args.smoke { SMOKE } else { NIGHT });
    let words = "run --locked -p adapters-testkit --bin fuzz -- --seconds"
        .split(' ')
        .map(str::to_owned);
    let numbers = [seconds.to_string(), "--seed".to_owned(), args.seed.to_string()];
    words
        .chain(numbers)
        .chain(["--reader".to_owned(), args.reader.clone()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smoke_test_has_a_minute_for_each_reader() {
        let line = |smoke, seconds| {
            let reader = "data".to_owned();
            command(&Args {
                smoke,
                seconds,
                reader,
                seed: 3,
            })
            .join(" ")
        };
        assert!(line(true, None).ends_with("--bin fuzz -- --seconds 60 --seed 3 --reader data"));
        assert!(line(false, None).contains("--seconds 1800 "));
        assert!(line(true, Some(5)).contains("--seconds 5 "));
    }
}
