//! `adapters completions`

use std::io::{Write, stdout};

use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs};
use crate::failure::Failure;

/// Prints the script.
pub fn run(args: CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "adapters", &mut script);
    // A closed pipe is no mistake of the user's.
    let _ = stdout().write_all(&script);
    Ok(())
}
