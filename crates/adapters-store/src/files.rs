//! Files of a folder that may be somebody else's, and JSON in them.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use adapters_core::config;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error};
use serde_json::{Map, Value};

use crate::unique_keys::check_unique;
use crate::{StoreError, atomic};

/// The largest JSON file that is read, many times as large as any tokenizer: a larger one is something else, or damaged.
const LARGEST_JSON: u64 = 1 << 29;

/// Whether a folder has something of this name, which is read next. A link counts, wherever it leads, and so does what may not be
/// looked at: reading it says what is wrong with it, where a file that seems to be absent would be left out without a word.
pub fn is_there(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

/// Reads a JSON file.
///
/// # Errors
///
/// [`StoreError::Read`], [`StoreError::Json`] with line, column and field.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let refused = |source| StoreError::Json {
        path: path.to_owned(),
        source,
    };
    let length = fs::metadata(path).map_or(0, |file| file.len());
    if length > LARGEST_JSON {
        let reason = format!("it has {length} bytes, expected at most {LARGEST_JSON}");
        return Err(refused(serde_json::Error::custom(reason)));
    }
    let bytes = read_file(path)?;
    check_unique(&bytes).map_err(refused)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        // Of an object the field is known too.
        let fields = serde_json::from_slice::<Map<String, Value>>(&bytes).ok();
        refused(match fields.map(config::parse::<T>) {
            Some(Err(reason)) => serde_json::Error::custom(reason),
            _ => error,
        })
    })
}

/// Reads a JSON file that a folder may lack.
///
/// # Errors
///
/// As [`read_json`].
pub fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    is_there(path).then(|| read_json(path)).transpose()
}

/// What the fields of a JSON file hold; `path` is for messages.
///
/// # Errors
///
/// [`StoreError::Json`] with the field.
pub fn from_fields<T: DeserializeOwned>(path: &Path, fields: Map<String, Value>) -> Result<T, StoreError> {
    config::parse(fields).map_err(|reason| StoreError::Json {
        path: path.to_owned(),
        source: serde_json::Error::custom(reason),
    })
}

/// Writes a JSON file, indented, atomically.
///
/// # Errors
///
/// [`StoreError::Json`] for a value JSON cannot express, [`StoreError::Write`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|source| StoreError::Json {
        path: path.to_owned(),
        source,
    })?;
    text.push('\n');
    Ok(atomic::write(path, text.as_bytes())?)
}

/// Reads a file of a folder that may be somebody else's.
///
/// # Errors
///
/// [`StoreError::Read`], for what is not a regular file too.
pub fn read_file(path: &Path) -> Result<Vec<u8>, StoreError> {
    check_regular(path)?;
    fs::read(path).map_err(|source| StoreError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Opens a file to read it. What is not a regular file is an error: opening a pipe would wait for whoever writes into it, and a device
/// may have no end.
///
/// # Errors
///
/// Those of the operating system; for a link to nothing, with the path it leads to.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let found = fs::metadata(path).map_err(|error| match (error.kind(), fs::read_link(path)) {
        (ErrorKind::NotFound, Ok(target)) => {
            let reason = format!("it is a link to {}, which does not exist", target.display());
            io::Error::new(ErrorKind::NotFound, reason)
        }
        _ => error,
    })?;
    match found.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

pub(crate) fn check_regular(path: &Path) -> Result<(), StoreError> {
    open_regular(path).map(drop).map_err(|source| StoreError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        let error = read_json::<Map<String, Value>>(path).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        format!("{error}: {cause}")
    }

    #[test]
    fn a_mark_of_an_encoding_and_a_size_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        for (bytes, named) in [
            (&b"\xEF\xBB\xBF{}"[..], "a byte order mark"),
            (b"\xFF\xFE{\0}\0", "UTF-16"),
        ] {
            fs::write(&path, bytes).unwrap();
            let refusal = refusal(&path);
            assert!(refusal.contains("x.json") && refusal.contains(named), "{refusal}");
        }
        File::create(&path).unwrap().set_len(LARGEST_JSON + 1).unwrap();
        assert!(refusal(&path).contains("expected at most"), "{}", refusal(&path));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_not_taken_for_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (none, link, round) = (
            dir.path().join("none"),
            dir.path().join("link"),
            dir.path().join("round"),
        );
        std::os::unix::fs::symlink("elsewhere", &link).unwrap();
        std::os::unix::fs::symlink("round", &round).unwrap();
        assert!(!is_there(&none) && !is_there(&none.join("below")) && is_there(&link) && is_there(&round));
        assert!(read_json_if_there::<Value>(&none).unwrap().is_none());
        assert!(read_json_if_there::<Value>(&round).is_err());
        assert!(
            refusal(&link).contains("a link to elsewhere, which does not exist"),
            "{}",
            refusal(&link)
        );
        // What is below a file is not there, and no error of its own.
        fs::write(&none, "").unwrap();
        assert!(!is_there(&none.join("below")));
    }
}
