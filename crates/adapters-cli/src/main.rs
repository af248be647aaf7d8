//! The `adapters` command: train, evaluate, run, merge and share adapters.
//!
//! Results go to standard output, everything else to standard error. Exit code 1 is a mistake in what was asked for,
//! 2 a mistake in how.

/// A line of results on standard output.
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::output::result_line(format_args!($($arg)*))
    };
}

/// A line about the work on standard error.
macro_rules! note {
    ($($arg:tt)*) => {
        $crate::output::note_line(format_args!($($arg)*))
    };
}

mod allocator;
mod args;
mod commands;
mod failure;
mod folders;
mod invocation;
mod loading;
mod options;
mod output;
mod progress;
mod run_folder;

use std::process::ExitCode;

use clap::Parser;
use miette::MietteHandlerOpts;

use crate::args::{Args, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let args = Args::parse();
    // Paths and commands in messages stay whole, to be copied; without a hook, miette's own layout shows the message.
    let _ = miette::set_hook(Box::new(|_| {
        Box::new(MietteHandlerOpts::new().wrap_lines(false).build())
    }));
    if computes(&args.command) {
        allocator::keep_buffers();
    }
    match run(args.command).and_then(|()| output::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note!("{:?}", miette::Report::new(failure));
            ExitCode::FAILURE
        }
    }
}

/// Whether a command runs the model often enough to gain from kept buffers.
fn computes(command: &Command) -> bool {
    matches!(
        command,
        Command::Train(_)
            | Command::Eval(_)
            | Command::Predict(_)
            | Command::Generate(_)
            | Command::Chat(_)
            | Command::Bench(_)
    )
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Train(args) => commands::train::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Merge(args) => commands::merge::run(args),
        Command::Combine(args) => commands::combine::run(args),
        Command::Eject(args) => commands::eject::run(args),
        Command::Convert(args) => commands::convert::run(args),
        #[cfg(feature = "hub")]
        Command::Pull(args) => commands::pull::run(args),
        #[cfg(feature = "hub")]
        Command::Push(args) => commands::push::run(args),
        #[cfg(not(feature = "hub"))]
        Command::Pull(_) | Command::Push(_) => Err(Failure::new(
            "this build has no access to the Hub",
            "build the program with `--features hub`",
        )),
        Command::Bench(args) => commands::bench::run(args),
        Command::New(args) => commands::new::run(args),
        Command::Methods(args) => commands::methods::run(args),
        Command::Recipe(args) => commands::recipe::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Completions(args) => commands::completions::run(args),
    }
}
