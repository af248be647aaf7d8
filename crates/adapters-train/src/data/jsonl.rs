//! One JSON object a line.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::error::{DataError, Location};
use super::record::{Cell, Record, Source};

pub(super) fn read(path: &Path, text: &str) -> Result<Vec<Record>, DataError> {
    let shared: Arc<Path> = path.into();
    let mut records = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = index + 1;
        let not_an_object = |found: String| DataError::NotAnObject {
            path: path.to_owned(),
            line: number,
            found,
        };
        let object = match serde_json::from_str(line) {
            Ok(Value::Object(object)) => object,
            Ok(value) => return Err(not_an_object(Cell::Json(&value).describe())),
            // A file that is one list over many lines breaks here too.
            Err(_) if line.trim() == "[" => return Err(not_an_object("the start of a list".to_owned())),
            Err(error) => return Err(invalid(path, number, &error)),
        };
        records.push(Record {
            at: Location::line(&shared, number),
            source: Source::Json(object),
        });
    }
    Ok(records)
}

/// The parser's complaint, with the file's line in place of its own, which is always 1.
fn invalid(path: &Path, line: usize, error: &serde_json::Error) -> DataError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text).to_lowercase();
    DataError::InvalidJson {
        path: path.to_owned(),
        line,
        column: error.column(),
        reason,
    }
}
