//! Comma-separated and tab-separated tables whose first row names the columns.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::error::{self, DataError, Location};
use super::record::{Record, Source};

/// The two kinds of table.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Csv,
    /// Without quoting: a cell may begin with `"` and mean it. Read as quoted, such a cell would swallow the lines up
    /// to the next `"` without a word.
    Tsv,
}

pub(super) fn read(path: &Path, text: &str, kind: Kind) -> Result<Vec<Record>, DataError> {
    let mut builder = csv::ReaderBuilder::new();
    let named = match kind {
        Kind::Csv => named_delimiter(text),
        Kind::Tsv => None,
    };
    let skipped = usize::from(named.is_some());
    let (delimiter, text) = named.unwrap_or_else(|| (delimiter(text), text));
    match kind {
        Kind::Csv => builder.delimiter(delimiter),
        Kind::Tsv => builder.delimiter(b'\t').quoting(false),
    };
    let mut table = builder.from_reader(text.as_bytes());
    let mut lines = Lines {
        text,
        byte: 0,
        line: 1 + skipped,
    };
    let header_line = lines.at(0);
    // A cell that is not closed holds all lines below it.
    let check_closed = |table: &csv::Reader<&[u8]>, start: usize, line: usize| {
        let is_open = matches!(kind, Kind::Csv)
            && table.position().byte() == text.len() as u64
            && has_open_quote(&text[start..], delimiter);
        match is_open {
            true => Err(DataError::InvalidRow {
                path: path.to_owned(),
                line,
                reason: "a cell of it begins with `\"`, and the file ends without the `\"` that closes it".to_owned(),
            }),
            false => Ok(()),
        }
    };
    let header: csv::StringRecord = match table.headers() {
        Ok(header) => header.iter().map(str::trim).collect(),
        Err(error) => return Err(invalid(path, header_line, &error)),
    };
    check_closed(&table, lines.byte, header_line)?;

    let mut names = HashSet::new();
    if let Some(name) = header.iter().find(|name| !name.is_empty() && !names.insert(*name)) {
        return Err(DataError::InvalidRow {
            path: path.to_owned(),
            line: header_line,
            reason: format!("the column `{}` is there twice", error::shortened(name)),
        });
    }

    let (header, shared): (_, Arc<Path>) = (Arc::new(header), path.into());
    let mut records = Vec::new();
    let mut cells = csv::StringRecord::new();
    loop {
        let line = lines.at(table.position().byte());
        let start = lines.byte;
        let read = table.read_record(&mut cells);
        check_closed(&table, start, line)?;
        match read {
            Ok(true) => records.push(Record {
                at: Location::line(&shared, line),
                source: Source::Table {
                    header: header.clone(),
                    header_at: Location::line(&shared, header_line),
                    cells: cells.clone(),
                },
            }),
            Ok(false) => return Ok(records),
            Err(error) => return Err(invalid(path, line, &error)),
        }
    }
}

/// What stands between the cells: a comma, unless the first row has none and has semicolons or tabs, as spreadsheets write where
/// the comma is the decimal point.
fn delimiter(text: &str) -> u8 {
    let header = text.trim_start().lines().next().unwrap_or_default();
    let quoted = header.split('"').step_by(2);
    let count = |delimiter: char| {
        quoted
            .clone()
            .map(|part| part.matches(delimiter).count())
            .sum::<usize>()
    };
    match (count(','), count(';'), count('\t')) {
        (0, 0, 0) | (1.., ..) => b',',
        (0, semicolons, tabs) if semicolons >= tabs => b';',
        _ => b'\t',
    }
}

/// What a first line such as `sep=;`, which spreadsheets read and write, says stands between the cells, and the table below it.
fn named_delimiter(text: &str) -> Option<(u8, &str)> {
    let (first, table) = text.split_once('\n')?;
    let first = first.strip_suffix('\r').unwrap_or(first);
    let first = first
        .strip_prefix('"')
        .and_then(|first| first.strip_suffix('"'))
        .unwrap_or(first);
    match first.strip_prefix("sep=")?.as_bytes() {
        [delimiter @ (b',' | b';' | b'\t' | b'|')] => Some((*delimiter, table)),
        _ => None,
    }
}

/// Whether a text ends inside a cell that begins with a quote.
fn has_open_quote(text: &str, delimiter: u8) -> bool {
    let (mut inside, mut opens) = (false, true);
    for byte in text.bytes() {
        match (inside, byte) {
            // The next one, if it follows at once, is the second of a doubled quote.
            (true, b'"') => (inside, opens) = (false, true),
            (true, _) => {}
            (false, _) => {
                (inside, opens) = (
                    opens && byte == b'"',
                    byte == delimiter || matches!(byte, b'\n' | b'\r'),
                )
            }
        }
    }
    inside
}

/// Turns increasing byte offsets into lines.
struct Lines<'a> {
    text: &'a str,
    byte: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of the row that is read next at `byte`: blank lines before it are skipped, as the parser does.
    fn at(&mut self, byte: u64) -> usize {
        let bytes = self.text.as_bytes();
        let mut end = usize::try_from(byte)
            .unwrap_or(usize::MAX)
            .clamp(self.byte, bytes.len());
        while bytes.get(end).is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            end += 1;
        }
        self.line += newlines(&bytes[self.byte..end]);
        self.byte = end;
        self.line
    }
}

/// Line breaks in some bytes.
pub(super) fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

fn invalid(path: &Path, line: usize, error: &csv::Error) -> DataError {
    let reason = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {}, the header has {expected_len}", cells_text(*len))
        }
        _ => error.to_string().to_lowercase(),
    };
    DataError::InvalidRow {
        path: path.to_owned(),
        line,
        reason,
    }
}

fn cells_text(count: u64) -> String {
    if count == 1 {
        "1 cell".into()
    } else {
        format!("{count} cells")
    }
}
