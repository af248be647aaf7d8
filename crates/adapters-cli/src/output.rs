//! Lines on standard output and standard error.
//!
//! A reader that goes away (`| head`, a closed terminal) ends the output and not the program. Any other failure to write results,
//! a full disk for one, is reported when the command ends, so that it never looks done.
//!
//! Names and texts come from files of others, and a terminal obeys control characters: they are written as escapes (`\u{1b}`). Results
//! are whole; in everything else long names are shortened.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Mutex;

use crate::failure::Failure;

/// Control characters that end lines and cells.
const LAYOUT: &str = "\n\r\t";

/// The first failure to write results.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// A line of results.
pub(crate) fn result_line(line: Arguments<'_>) {
    keep(writeln!(io::stdout(), "{}", escaped(&line.to_string(), LAYOUT)));
}

/// A piece of a line of results, shown at once.
pub(crate) fn result_piece(piece: &str) {
    let mut stdout = io::stdout();
    let piece = escaped(piece, LAYOUT);
    keep(stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()));
}

/// A line about the work, with long names shortened. Nothing is lost with it, so a failure does not matter.
pub(crate) fn note_line(line: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{}", printable(&line.to_string(), LAYOUT));
}

/// An error with its causes and help, in the layout and the colors of [`miette`]; each message of a [`Failure`] is escaped.
pub(crate) fn failure(failure: Failure) {
    let _ = writeln!(io::stderr(), "{:?}", miette::Report::new(failure));
}

/// A text with escapes in place of control characters other than those that are kept.
pub(crate) fn escaped<'a>(text: &'a str, kept: &str) -> Cow<'a, str> {
    let obeyed = |c: char| c.is_control() && !kept.contains(c);
    match text.contains(obeyed) {
        false => text.into(),
        true => text
            .chars()
            .flat_map(|c| match obeyed(c) {
                true => c.escape_default().collect::<Vec<_>>(),
                false => vec![c],
            })
            .collect(),
    }
}

/// A message that a terminal can show: names from files may hold control characters, of which those in `kept` stay, or be megabytes
/// long. A long name is cut in its middle, so that what is said of it is still there.
pub(crate) fn printable(message: &str, kept: &str) -> String {
    const LONGEST: usize = 2000;
    let lines = message.split('\n').map(|line| {
        let words: Vec<Cow<'_, str>> = line.split(' ').map(shortened).collect();
        let line = words.join(" ");
        let end = line.char_indices().nth(LONGEST).map_or(line.len(), |(at, _)| at);
        let shown = escaped(&line[..end], kept);
        match line[end..].chars().count() {
            0 => shown.into_owned(),
            cut => format!("{shown}.. ({cut} characters more)"),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A word without the middle, if it is longer than any that is read.
fn shortened(word: &str) -> Cow<'_, str> {
    const LONGEST: usize = 400;
    const KEPT: usize = 100;
    // A letter has one byte at least.
    if word.len() <= LONGEST || word.chars().count() <= LONGEST {
        return word.into();
    }
    let (mut starts, mut ends) = (word.char_indices().skip(KEPT), word.char_indices().rev());
    let (Some((start, _)), Some((end, _))) = (starts.next(), ends.nth(KEPT - 1)) else {
        return word.into();
    };
    let cut = word[start..end].chars().count();
    format!("{}..({cut} characters more)..{}", &word[..start], &word[end..]).into()
}

fn keep(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
        && let Ok(mut failed) = FAILED.lock()
    {
        failed.get_or_insert(error);
    }
}

/// Prints a help text, or what is wrong with the command line.
pub(crate) fn answer(answer: &clap::Error) -> ExitCode {
    let written = answer.print();
    if !answer.use_stderr() {
        keep(written);
        if let Err(incomplete) = finish() {
            failure(incomplete);
            return ExitCode::FAILURE;
        }
    }
    u8::try_from(answer.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_by_a_file() {
        assert_eq!(escaped("a\tb\nc \u{e9}", LAYOUT), "a\tb\nc \u{e9}");
        assert_eq!(
            escaped("\u{1b}[31mred\u{7}\u{9b}", LAYOUT),
            "\\u{1b}[31mred\\u{7}\\u{9b}"
        );
    }

    #[test]
    fn a_long_name_leaves_the_rest_of_a_message() {
        let name = "é".repeat(100_000);
        let shown = printable(&format!("unknown label `{name}` in a.csv, expected a name"), "");
        assert!(
            shown.starts_with("unknown label `é") && shown.ends_with("é` in a.csv, expected a name"),
            "{shown}"
        );
        assert!(shown.contains("..(99802 characters more).."), "{shown}");
        assert_eq!(printable("a\u{1b}[31m b\t\n  c\n", "\t"), "a\\u{1b}[31m b\t\n  c\n");
        let path = format!("cannot read {}", "folder/".repeat(40));
        assert_eq!(printable(&path, ""), path);
        assert!(printable(&"word ".repeat(10_000), "").ends_with(".. (48000 characters more)"));
    }
}
