//! Lines on standard output and standard error.
//!
//! A reader that goes away (`| head`, a closed terminal) ends the output and not the program. Any other failure to write results,
//! a full disk for one, is reported when the command ends, so that it never looks done.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::Mutex;

use crate::failure::Failure;

/// The first failure to write results.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// A line of results.
pub(crate) fn result_line(line: Arguments<'_>) {
    keep(writeln!(io::stdout(), "{line}"));
}

/// A piece of a line of results, shown at once.
pub(crate) fn result_piece(piece: &str) {
    let mut stdout = io::stdout();
    keep(stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()));
}

/// A line about the work. Nothing is lost with it, so a failure does not matter.
pub(crate) fn note_line(line: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn keep(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
        && let Ok(mut failed) = FAILED.lock()
    {
        failed.get_or_insert(error);
    }
}

/// Whether all results were written.
///
/// # Errors
///
/// The first failure.
pub(crate) fn finish() -> Result<(), Failure> {
    keep(io::stdout().flush());
    let failed = FAILED.lock().ok().and_then(|mut failed| failed.take());
    match failed {
        None => Ok(()),
        Some(error) => Err(Failure::new(
            format!("cannot write to standard output: {error}"),
            "the results above are incomplete; check the disk or the program that reads them",
        )),
    }
}
