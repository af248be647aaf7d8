//! What can be wrong with a file of examples, in words that lead to the line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use adapters_nn::did_you_mean;

/// Where a record stands: a line of a file, or a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub path: Arc<Path>,
    /// The line, or the row of a Parquet file, from 1; `None` for an image of a folder.
    pub line: Option<usize>,
}

impl Location {
    /// A line of a file.
    pub(super) fn line(path: &Arc<Path>, line: usize) -> Self {
        Self {
            path: path.clone(),
            line: Some(line),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

/// A file of examples cannot be used. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file is not there or cannot be read.
    #[error("cannot read {}{}", path.display(), if source.kind() == io::ErrorKind::NotFound { ": there is no such file" } else { "" })]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The extension names no known format.
    #[error(
        "cannot tell the format of {} by its extension; supported: .jsonl, .json-lines, .json, .csv, .tsv, each also with .gz, and .parquet",
        path.display()
    )]
    UnknownExtension {
        /// The file.
        path: PathBuf,
    },
    /// The program was built without the reader of Parquet files.
    #[error(
        "{} is a Parquet file, which this program was built without a reader for: build it with the feature `parquet`, or write JSON lines \
         with `to_json` of the Python library `datasets`",
        path.display()
    )]
    WithoutParquet {
        /// The file.
        path: PathBuf,
    },
    /// A Parquet file is damaged, or holds what no record has.
    #[error("invalid parquet file {}: {reason}", path.display())]
    InvalidParquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file holds no example.
    #[error("{} is empty: it holds no example", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is in another encoding.
    #[error("{}:{line} is not {encoding}; convert the file to utf-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The line with the first wrong byte.
        line: usize,
        /// The encoding that it is not in, and the one it seems to be in.
        encoding: &'static str,
    },
    /// A line is not JSON.
    #[error("invalid json at {}:{line}:{column}: {reason}", path.display())]
    InvalidJson {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column, in bytes from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A line is JSON, but not an object.
    #[error(
        "expected an object at {}:{line}, found {found}; a .jsonl file holds one object a line",
        path.display()
    )]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is there.
        found: String,
    },
    /// A row has more or fewer cells than the header, or is otherwise broken.
    #[error("invalid row at {}:{line}: {reason}", path.display())]
    InvalidRow {
        /// The file.
        path: PathBuf,
        /// The line on which the row starts.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that the run needs is not there.
    #[error("no field `{field}` at {at}: it has {}{}", listed(present), did_you_mean(nearest))]
    MissingField {
        /// The record; for a table, the header.
        at: Location,
        /// The field that was looked for.
        field: String,
        /// The fields there are.
        present: Vec<String>,
        /// The one among them whose name is most like it.
        nearest: Option<String>,
    },
    /// A field holds something else than it should.
    #[error("field `{field}` at {at} must be {expected}, found {found}")]
    WrongType {
        /// The record.
        at: Location,
        /// The field.
        field: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A label is not one of the run's classes.
    #[error("label {label} at {at} is out of range: this run has {}", classes_text(*classes))]
    LabelOutOfRange {
        /// The record.
        at: Location,
        /// The label.
        label: i128,
        /// How many classes the run has.
        classes: usize,
    },
    /// A label is not the name of a class.
    #[error(
        "unknown label `{label}` at {at}: this run's classes are {}{}",
        listed(names),
        did_you_mean(nearest)
    )]
    UnknownLabel {
        /// The record.
        at: Location,
        /// The label.
        label: String,
        /// The classes' names.
        names: Vec<String>,
        /// The one among them that is most like it.
        nearest: Option<String>,
    },
    /// A file or folder among the images that is none.
    #[error("{} does not belong here: expected {expected}", path.display())]
    StrayFile {
        /// The file or folder.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// An image within a record cannot be decoded.
    #[error("{image} is not a valid data URI: {reason}")]
    DataUri {
        /// The image, by its number and its file.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Names in a list that stays readable.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return "none".into();
    }
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{}`", shortened(name)))
        .collect();
    let more = names.len().saturating_sub(SHOWN);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{rest}", shown.join(", "))
}

fn classes_text(classes: usize) -> String {
    match classes {
        0 => "no classes".into(),
        1 => "1 class (0)".into(),
        _ => format!("{classes} classes (0..={})", classes - 1),
    }
}

/// The start of a text from a file, for a message.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_and_texts_are_cut() {
        let many: Vec<String> = (0..15).map(|i| i.to_string()).collect();
        assert!(listed(&many).ends_with("`11` and 3 more"));
        assert_eq!(listed(&[]), "none");
        assert_eq!(shortened(&"é".repeat(60)), format!("{}…", "é".repeat(40)));
    }

    #[test]
    fn classes_are_counted_in_words() {
        assert_eq!(classes_text(0), "no classes");
        assert_eq!(classes_text(1), "1 class (0)");
        assert_eq!(classes_text(3), "3 classes (0..=2)");
    }
}
