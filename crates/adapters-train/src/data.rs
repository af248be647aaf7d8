//! Data files: one record a line of a `.jsonl` file, or one a row of a `.csv` or `.tsv` file.
//!
//! A task reads the fields of each [`Record`] that it needs. A file is read and checked as a whole before the run starts; every
//! error names the file and the line.

mod error;
mod images;
mod jsonl;
mod record;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::error::DataError;
pub use self::images::{ImageDataset, ImageExample};
pub use self::record::Record;
use self::record::Source;
use crate::recipe::{Part, PartBy};

/// Which fields of a record (or columns of a table) hold what.
///
/// | Name | Default | Purpose |
/// |---|---|---|
/// | `text` | `"text"` | the text |
/// | `image` | `"image"` | the image: a path from the folder of the file, or a data URI |
/// | `text_pair` | none | the second text, for tasks on pairs |
/// | `label` | `"label"` | the class, the number, the labels or the right choice |
/// | `words` | `"words"` | the words of a sentence, for tagging |
/// | `tags` | `"tags"` | the tag of each word |
/// | `question` | `"question"` | the question, for question answering and multiple choice |
/// | `context` | `"context"` | the text with the answer; for multiple choice a text before the question, if present |
/// | `answer` | `"answer"` | the answer, as it stands in the context; empty where there is none |
/// | `answer_start` | `"answer_start"` | character of the context at which the answer begins, if present |
/// | `choices` | `"choices"` | the texts to choose from |
/// | `prompt` | `"prompt"` | the text that a completion follows |
/// | `completion` | `"completion"` | the completion |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fields {
    /// The field with the text.
    pub text: String,
    /// The field with the path or data URI of an image.
    pub image: String,
    /// The field with the second text; `None` for tasks on single texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// The field with the label.
    pub label: String,
    /// The field with the words of a sentence.
    pub words: String,
    /// The field with their tags.
    pub tags: String,
    /// The field with the question.
    pub question: String,
    /// The field with the text that has the answer.
    pub context: String,
    /// The field with the answer.
    pub answer: String,
    /// The field with the character at which the answer begins.
    pub answer_start: String,
    /// The field with the texts to choose from.
    pub choices: String,
    /// The field with the prompt.
    pub prompt: String,
    /// The field with the completion.
    pub completion: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            text: "text".into(),
            image: "image".into(),
            text_pair: None,
            label: "label".into(),
            words: "words".into(),
            tags: "tags".into(),
            question: "question".into(),
            context: "context".into(),
            answer: "answer".into(),
            answer_start: "answer_start".into(),
            choices: "choices".into(),
            prompt: "prompt".into(),
            completion: "completion".into(),
        }
    }
}

/// The classes of a run: in a configuration file, a number or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Labels {
    /// So many classes; files give them as integers from 0.
    Count(usize),
    /// The classes by name; files give them by name, or as integers from 0 in this order.
    Names(Vec<String>),
}

impl Labels {
    /// How many classes there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Names(names) => names.len(),
        }
    }

    /// What a class is called: its name, or its number where it has none.
    pub fn name(&self, class: usize) -> String {
        match self {
            Self::Names(names) if class < names.len() => names[class].clone(),
            _ => class.to_string(),
        }
    }
}

/// The records of one file, in file order. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// The records.
    pub records: Vec<Record>,
    /// The file they come from.
    pub path: PathBuf,
}

impl Records {
    /// Reads a file; its extension decides the format.
    ///
    /// - `.jsonl`, `.json-lines`: one JSON object a line; blank lines are skipped.
    /// - `.csv`: comma-separated, the first row names the fields, `"` quotes.
    /// - `.tsv`: tab-separated, the first row names the fields; `"` is an ordinary character, as in the GLUE files.
    ///
    /// # Errors
    ///
    /// A [`DataError`] for the first thing that is wrong.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase());
        let read: fn(&Path, &str) -> Result<Vec<Record>, DataError> = match extension.as_deref() {
            Some("jsonl" | "json-lines") => jsonl::read,
            Some("csv") => |path, text| table::read(path, text, table::Kind::Csv),
            Some("tsv") => |path, text| table::read(path, text, table::Kind::Tsv),
            _ => return Err(DataError::UnknownExtension { path: path.to_owned() }),
        };
        let bytes = fs::read(path).map_err(|source| DataError::Read {
            path: path.to_owned(),
            source,
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            DataError::NotUtf8 {
                path: path.to_owned(),
                line: 1 + newlines(valid),
            }
        })?;
        let records = read(path, text.strip_prefix('\u{feff}').unwrap_or(&text))?;
        if records.is_empty() {
            return Err(DataError::Empty { path: path.to_owned() });
        }
        Ok(Self {
            records,
            path: path.to_owned(),
        })
    }

    /// Records that are in no file, as JSON objects; `origin` stands for the file in messages.
    pub fn of_objects(objects: impl IntoIterator<Item = Map<String, Value>>, origin: &str) -> Self {
        let path: Arc<Path> = Path::new(origin).into();
        let records = objects.into_iter().enumerate().map(|(index, object)| Record {
            path: path.clone(),
            line: index + 1,
            source: Source::Json(object),
        });
        Self {
            records: records.collect(),
            path: path.to_path_buf(),
        }
    }

    /// One of several disjoint parts of one size, give or take a record, in the order of the file. A part of fewer records than
    /// parts is all of them. The length of a record is that of its fields without `label`, in characters.
    #[must_use]
    pub fn part(mut self, part: Part, label: &str) -> Self {
        let mut order: Vec<usize> = (0..self.records.len()).collect();
        if part.by == PartBy::Length {
            order.sort_by_key(|index| self.records[*index].length(label));
        }
        let bound = |index: usize| order.len() * index / part.of;
        let mut mine = order[bound(part.index)..bound(part.index + 1)].to_vec();
        if mine.is_empty() {
            return self;
        }
        mine.sort_unstable();
        self.records = mine.into_iter().map(|index| self.records[index].clone()).collect();
        self
    }
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests;
