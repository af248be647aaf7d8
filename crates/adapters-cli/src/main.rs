//! The `adapters` command: train, evaluate, run, merge and share adapters.
//!
//! Results go to standard output, everything else to standard error. Exit code 1 is a mistake in what was asked for,
//! 2 a mistake in how.

/// A line of results on standard output. A closed pipe ends the output, not the program.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

mod allocator;
mod args;
mod commands;
mod failure;
mod folders;
mod invocation;
mod loading;
mod progress;
mod run_folder;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let args = Args::parse();
    if computes(&args.command) {
        allocator::keep_buffers();
    }
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{:?}", miette::Report::new(failure));
            ExitCode::FAILURE
        }
    }
}

/// Whether a command runs the model often enough to gain from kept buffers.
fn computes(command: &Command) -> bool {
    matches!(
        command,
        Command::Train(_) | Command::Eval(_) | Command::Predict(_) | Command::Generate(_) | Command::Bench(_)
    )
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Train(args) => commands::train::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Merge(args) => commands::merge::run(args),
        Command::Combine(args) => commands::combine::run(args),
        Command::Eject(args) => commands::eject::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::New(args) => commands::new::run(args),
        Command::Methods(args) => commands::methods::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Completions(args) => commands::completions::run(args),
    }
}
