//! One JSON object a line.

use serde_json::Value;

use super::{Cell, DataError, Example, Reader, Row};

pub(super) fn read(reader: &Reader<'_>, text: &str) -> Result<Vec<Example>, DataError> {
    let mut examples = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = index + 1;
        let row = match serde_json::from_str(line) {
            Ok(Value::Object(object)) => Row::Json(object),
            Ok(value) => {
                let (path, found) = (reader.path.to_path_buf(), Cell::Json(&value).describe());
                return Err(DataError::NotAnObject {
                    path,
                    line: number,
                    found,
                });
            }
            // A file that is one list over many lines breaks here too.
            Err(_) if line.trim() == "[" => {
                let (path, found) = (reader.path.to_path_buf(), "the start of a list".to_owned());
                return Err(DataError::NotAnObject {
                    path,
                    line: number,
                    found,
                });
            }
            Err(error) => return Err(invalid(reader, number, &error)),
        };
        examples.push(reader.example(&row, number)?);
    }
    Ok(examples)
}

/// The parser's complaint, with the file's line in place of its own, which is always 1.
fn invalid(reader: &Reader<'_>, line: usize, error: &serde_json::Error) -> DataError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text).to_lowercase();
    DataError::InvalidJson {
        path: reader.path.to_path_buf(),
        line,
        column: error.column(),
        reason,
    }
}
