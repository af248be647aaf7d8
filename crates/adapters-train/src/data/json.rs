//! JSON: one object a line, or a list of objects.

use std::path::Path;
use std::sync::Arc;

use adapters_store::check_unique;
use serde_json::{Map, Value};

use super::error::{DataError, Location};
use super::record::{Cell, Record, Source};
use super::table::newlines;

/// One object a line.
pub(super) fn lines(path: &Path, text: &str) -> Result<Vec<Record>, DataError> {
    let shared: Arc<Path> = path.into();
    let mut records = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = index + 1;
        let value = match serde_json::from_str(line) {
            Ok(value) => value,
            // A file that is one list over many lines breaks here too.
            Err(_) if line.trim() == "[" => {
                return Err(DataError::NotAnObject {
                    path: path.to_owned(),
                    line: number,
                    found: "the start of a list".to_owned(),
                });
            }
            Err(error) => return Err(invalid(path, number, error.column(), &error)),
        };
        records.push(record(&shared, number, value, line)?);
    }
    Ok(records)
}

/// A list of objects, or one object a line in a file that does not begin with `[`.
pub(super) fn list(path: &Path, text: &str) -> Result<Vec<Record>, DataError> {
    let Some(open) = text
        .find(|c: char| !c.is_whitespace())
        .filter(|at| text[*at..].starts_with('['))
    else {
        return lines(path, text);
    };
    let shared: Arc<Path> = path.into();
    let position = |at: usize| {
        let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        (1 + newlines(&text.as_bytes()[..at]), at - line_start + 1)
    };
    let broken = |at: usize, reason: &str| {
        let (line, column) = position(at);
        DataError::InvalidJson {
            path: path.to_owned(),
            line,
            column,
            reason: reason.to_owned(),
        }
    };
    let skip = |at: usize| at + text[at..].len() - text[at..].trim_start().len();
    let (mut at, mut records) = (skip(open + 1), Vec::new());
    // The line of `at`, counted on from the item before.
    let (mut counted, mut line) = (0, 1);
    while !text[at..].starts_with(']') {
        line += newlines(&text.as_bytes()[counted..at]);
        counted = at;
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        let value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                let column = match error.line() {
                    1 => position(at).1 + error.column().saturating_sub(1),
                    _ => error.column(),
                };
                return Err(invalid(path, line + error.line().saturating_sub(1), column, &error));
            }
            None => return Err(broken(at, "the list has no end")),
        };
        let end = at + values.byte_offset();
        records.push(record(&shared, line, value, &text[at..end])?);
        at = skip(end);
        if text[at..].starts_with(',') {
            at = skip(at + 1);
        } else if !text[at..].starts_with(']') {
            return Err(broken(at, "expected `,` or `]` after an item of the list"));
        }
    }
    match skip(at + 1) {
        end if end < text.len() => Err(broken(end, "there is more behind the list")),
        _ => Ok(records),
    }
}

/// The record of a value, whose text is `source`.
fn record(path: &Arc<Path>, line: usize, value: Value, source: &str) -> Result<Record, DataError> {
    let object: Map<String, Value> = match value {
        Value::Object(object) => object,
        value => {
            return Err(DataError::NotAnObject {
                path: path.to_path_buf(),
                line,
                found: Cell::Json(&value).describe(),
            });
        }
    };
    if let Err(error) = check_unique(source.as_bytes()) {
        let line = line + error.line().saturating_sub(1);
        return Err(invalid(path, line, error.column(), &error));
    }
    Ok(Record {
        at: Location::line(path, line),
        source: Source::Json(object),
    })
}

/// The parser's complaint, with the file's line in position of its own.
fn invalid(path: &Path, line: usize, column: usize, error: &serde_json::Error) -> DataError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let mut reason = reason.to_owned();
    // "EOF" stays as it is.
    if !reason.starts_with("EOF")
        && let Some(first) = reason.get_mut(..1)
    {
        first.make_ascii_lowercase();
    }
    DataError::InvalidJson {
        path: path.to_owned(),
        line,
        column,
        reason,
    }
}
