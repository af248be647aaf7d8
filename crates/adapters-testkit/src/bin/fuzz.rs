//! Gives every reader inputs that are nearly right, for a time each; a panic is kept as a file.

use std::io::{Write, stdout};
use std::panic::{set_hook, take_hook};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use adapters_testkit::fuzz::{READERS, Subject, Verdict};
use clap::Parser;
use miette::{IntoDiagnostic, Result, WrapErr};

/// Read mutated inputs and count what becomes of them.
#[derive(Parser)]
struct Args {
    /// Seconds for each reader.
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,
    /// Only readers whose name has this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reader: String,
    /// Number of the first input; the inputs are the same for the same number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where inputs that made a reader panic are kept.
    #[arg(long, value_name = "DIR", default_value = "target/fuzz")]
    out: PathBuf,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let (mut out, mut found) = (stdout(), 0);
    for reader in READERS.iter().filter(|reader| reader.name.contains(&args.reader)) {
        // Before it runs: one that ends the process is the last that is named.
        write!(out, "{:<44}", reader.name)
            .and_then(|()| out.flush())
            .into_diagnostic()?;
        let subject = Subject::new(reader);
        // A panic is reported below, with its input.
        let hook = take_hook();
        set_hook(Box::new(|_| ()));
        let (start, mut number, mut counts) = (Instant::now(), args.seed, [0u64; 3]);
        let mut panics = Vec::new();
        while start.elapsed() < Duration::from_secs(args.seconds) {
            match subject.read(number) {
                Verdict::Accepted => counts[0] += 1,
                Verdict::Refused => counts[1] += 1,
                Verdict::Panicked { message, file, input } => {
                    counts[2] += 1;
                    if !panics.iter().any(|(known, _)| *known == message) {
                        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        let kept = args.out.join(format!("{number}-{name}"));
                        std::fs::create_dir_all(&args.out)
                            .and_then(|()| std::fs::write(&kept, input))
                            .into_diagnostic()
                            .wrap_err_with(|| format!("cannot write {}", kept.display()))?;
                        panics.push((message, kept));
                    }
                }
            }
            number += 1;
        }
        set_hook(hook);
        let [accepted, refused, panicked] = counts;
        writeln!(
            out,
            "{:>8} inputs: {accepted} accepted, {refused} refused, {panicked} panics",
            number - args.seed
        )
        .into_diagnostic()?;
        for (message, kept) in &panics {
            writeln!(out, "  {}: {message}", kept.display()).into_diagnostic()?;
        }
        found += panics.len();
    }
    Ok(ExitCode::from(u8::from(found > 0)))
}
