//! Runs golden cases: one line a case, a closing line, and exit status zero if nothing failed.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use adapters::parse_device;
use adapters_testkit::golden::{Options, Selection, Tolerance, walk};
use clap::Parser;
use miette::IntoDiagnostic;

/// Compare this library with the numbers in a folder of golden cases.
#[derive(Parser)]
struct Args {
    /// Folder of models, each with `base/`, `inputs.safetensors` and `cases/`.
    #[arg(long, value_name = "SET")]
    dir: PathBuf,
    /// Only this model.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only cases whose name matches; `*` is any text, `?` one character.
    #[arg(long, value_name = "GLOB")]
    case: Option<String>,
    /// Device to compute on, with the tolerance of its backend.
    #[arg(long, value_name = "D", default_value = "flex")]
    device: String,
    /// Write output and gradients to OUT/MODEL/CASE.safetensors.
    #[arg(long, value_name = "OUT")]
    dump: Option<PathBuf>,
    /// Write the loaded adapters back to OUT2/MODEL/CASE/adapters/NAME/.
    #[arg(long, value_name = "OUT2")]
    resave: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(failed) => ExitCode::from(u8::from(failed > 0)),
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::from(2)
        }
    }
}

/// Number of failed cases.
fn run(args: Args) -> miette::Result<usize> {
    let options = Options {
        device: parse_device(&args.device).into_diagnostic()?,
        added: Tolerance::of_backend(&args.device),
        dump: args.dump,
        resave: args.resave,
    };
    let selection = Selection {
        model: args.model,
        case: args.case,
    };
    // A reader that goes away early (`| head`) is no reason to stop: the exit status still counts.
    let say = |line: &dyn std::fmt::Display| drop(writeln!(stdout(), "{line}"));
    if options.added != Tolerance::ZERO {
        let Tolerance { relative, absolute } = options.added;
        let device = &args.device;
        say(&format!(
            "{device}: {absolute:e} + {relative:e} of the value beyond the tolerances of a case"
        ));
    }
    let summary = walk(&args.dir, &selection, &options, |outcome| say(outcome)).into_diagnostic()?;
    say(&summary);
    Ok(summary.failed)
}
