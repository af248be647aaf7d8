//! The `adapters` command: train, evaluate, run, merge and share adapters.
//!
//! Results go to standard output, everything else to standard error. Exit code 1: the command failed. Exit code 2:
//! the command line could not be parsed.

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

mod args;
mod chats;
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

/// Every step allocates and frees the same large buffers. This allocator gives them back to the system a second after their last
/// use, and not at once, so that the next step does not pay for their pages again: a fifth of the time of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(answer) => return output::answer(&answer),
    };
    // Paths and commands in messages stay whole, to be copied; without a hook, miette's own layout shows the message.
    let _ = miette::set_hook(Box::new(|_| {
        Box::new(MietteHandlerOpts::new().wrap_lines(false).build())
    }));
    match run(args.command).and_then(|()| output::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(failure);
            ExitCode::FAILURE
        }
    }
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
