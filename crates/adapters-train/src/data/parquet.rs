//! Parquet: one record a row, read a group of rows at a time.

use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, Row};
use adapters_store::open_regular;
use serde_json::{Map, Value};

use super::error::{DataError, Location};
use super::record::{Record, Source};

/// The rows of a file; the line of each is its number.
pub(super) fn read(path: &Path) -> Result<Vec<Record>, DataError> {
    // The library panics at some damaged files.
    let read = catch_unwind(|| rows(path));
    read.unwrap_or_else(|_| {
        Err(DataError::InvalidParquet {
            path: path.to_owned(),
            reason: "it is damaged".to_owned(),
        })
    })
}

fn rows(path: &Path) -> Result<Vec<Record>, DataError> {
    let file = open_regular(path).map_err(|source| DataError::Read {
        path: path.to_owned(),
        source,
    })?;
    let invalid = |reason: String| DataError::InvalidParquet {
        path: path.to_owned(),
        reason,
    };
    let reader = SerializedFileReader::new(file).map_err(|error| invalid(error.to_string()))?;
    let shared: Arc<Path> = path.into();
    let mut records = Vec::new();
    for index in 0..reader.num_row_groups() {
        let group = reader
            .get_row_group(index)
            .map_err(|error| invalid(error.to_string()))?;
        let rows = group.get_row_iter(None).map_err(|error| invalid(error.to_string()))?;
        for row in rows {
            let number = records.len() + 1;
            let row = row.map_err(|error| invalid(format!("row {number}: {error}")))?;
            let object = object(&row).map_err(|column| {
                invalid(format!(
                    "`{column}` of row {number} is bytes that are no text; expected texts, numbers, truth values, times, lists or structs"
                ))
            })?;
            records.push(Record {
                at: Location::line(&shared, number),
                source: Source::Json(object),
            });
        }
    }
    Ok(records)
}

/// The fields of a row or a struct by their names; else the name of one that holds bytes.
fn object(row: &Row) -> Result<Map<String, Value>, String> {
    let fields = row.get_column_iter();
    fields
        .map(|(name, field)| Ok((name.clone(), value(field).ok_or_else(|| name.clone())?)))
        .collect()
}

/// What JSON has for a value; `None` for bytes that are no text.
fn value(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float16(value) => Value::from(value.to_f32()),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => Value::from(str::from_utf8(bytes.data()).ok()?),
        Field::Group(row) => Value::Object(object(row).ok()?),
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Option<Value>>()?,
        Field::MapInternal(map) => {
            let entry = |(key, of): &(Field, Field)| {
                let key = match value(key)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                Some((key, value(of)?))
            };
            Value::Object(map.entries().iter().map(entry).collect::<Option<_>>()?)
        }
        // Dates, times and decimal numbers, as they are written.
        other => Value::from(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Fields, Records};

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet")
    }

    fn records(name: &str) -> Records {
        Records::read(folder().join(name), &Fields::default()).unwrap()
    }

    fn fields(record: &Record) -> Map<String, Value> {
        match &record.source {
            Source::Json(fields) => fields.clone(),
            Source::Table { .. } => panic!("a row is an object"),
        }
    }

    /// Files of pyarrow, made by `make.py` next to them, with the same rows as JSON lines.
    #[test]
    fn rows_are_those_of_json_lines() {
        let expected: Vec<_> = records("examples.jsonl").records.iter().map(fields).collect();
        assert_eq!(expected.len(), 7);
        for (name, columns) in [("snappy", 12), ("zstd", 3), ("gzip", 3), ("none", 3), ("v2", 3)] {
            let found = records(&format!("{name}.parquet"));
            assert_eq!(found.records.len(), expected.len(), "{name}");
            for (row, expected) in found.records.iter().map(fields).zip(&expected) {
                assert_eq!(row.len(), columns, "{name}");
                for (column, value) in &row {
                    assert_eq!(*value, expected[column], "{name}: {column}");
                }
            }
            let location = found.records[4].location();
            assert!(location.ends_with(&format!("{name}.parquet:5")), "{location}");
            let chat = found.records[3].messages().unwrap().unwrap();
            assert_eq!(chat.len(), 2);
        }
    }

    #[test]
    fn damaged_files_and_bytes_are_refused() {
        let refused = |path: &Path| Records::read(path, &Fields::default()).unwrap_err().to_string();
        let message = refused(&folder().join("bytes.parquet"));
        assert!(
            message.contains("`picture` of row 1 is bytes that are no text"),
            "{message}"
        );
        let whole = std::fs::read(folder().join("snappy.parquet")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let message = refused(&path);
            assert!(
                message.starts_with("invalid parquet file") && message.contains("a.parquet"),
                "{message}"
            );
        }
        // Another byte somewhere is another value or an error.
        for at in (0..whole.len()).step_by(97) {
            let mut other = whole.clone();
            other[at] ^= 0x55;
            std::fs::write(&path, &other).unwrap();
            let _ = Records::read(&path, &Fields::default());
        }
    }
}
