//! Labelled text: one example a line of a `.jsonl` file, or one a row of a `.csv` or `.tsv` file.
//!
//! A file is read whole and checked whole before the run starts; every error names the file and the line.

mod error;
mod images;
mod jsonl;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::error::DataError;
use self::error::nearest;
pub use self::images::{ImageDataset, ImageExample};
use crate::recipe::{Part, PartBy};

/// One text, or pair of texts, and its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text.
    pub text: String,
    /// The second text of a pair, where the task has one.
    pub text_pair: Option<String>,
    /// The label; `None` where it is to be predicted.
    pub label: Option<Label>,
}

/// What is known of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// Its class, from 0.
    Class(usize),
    /// Its number.
    Number(f32),
    /// Its labels, from 0: none, one or several.
    Several(Vec<usize>),
}

impl Label {
    /// The class, where it is one.
    pub fn class(&self) -> Option<usize> {
        match self {
            Self::Class(class) => Some(*class),
            Self::Number(_) | Self::Several(_) => None,
        }
    }
}

/// How a label is written in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LabelKind {
    /// A class, by its name or number.
    #[default]
    Class,
    /// A finite number.
    Number,
    /// Several labels by their names or numbers: a list in JSON, `a|b` in a table; an empty one is none.
    Several,
}

/// Which fields of a record (or columns of a table) hold what.
///
/// | Name | Default | Purpose |
/// |---|---|---|
/// | `text` | `"text"` | the text |
/// | `text_pair` | none | the second text, for tasks on pairs |
/// | `label` | `"label"` | the class, the number or the labels |
/// | `prompt` | `"prompt"` | what a completion follows, for language models that write |
/// | `completion` | `"completion"` | what is to be written |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fields {
    /// The field with the text.
    pub text: String,
    /// The field with the second text; `None` for tasks on single texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// The field with the label.
    pub label: String,
    /// The field with the prompt.
    pub prompt: String,
    /// The field with what follows it.
    pub completion: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            text: "text".into(),
            text_pair: None,
            label: "label".into(),
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

/// The examples of one file, in file order. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The examples.
    pub examples: Vec<Example>,
    /// The file they come from.
    pub path: PathBuf,
}

impl Dataset {
    /// Reads a file of labeled examples; its extension says which format it has.
    ///
    /// - `.jsonl`, `.json-lines`: one JSON object a line; blank lines are skipped.
    /// - `.csv`: comma-separated, the first row names the fields, `"` quotes.
    /// - `.tsv`: tab-separated, the first row names the fields; `"` is an ordinary character, as in the GLUE files.
    ///
    /// # Errors
    ///
    /// A [`DataError`] for the first thing that is wrong.
    pub fn read(path: impl AsRef<Path>, fields: &Fields, labels: &Labels) -> Result<Self, DataError> {
        Self::read_as(LabelKind::Class, path, fields, labels)
    }

    /// As [`Dataset::read`], for labels that are no single class.
    ///
    /// # Errors
    ///
    /// A [`DataError`] for the first thing that is wrong.
    pub fn read_as(
        kind: LabelKind,
        path: impl AsRef<Path>,
        fields: &Fields,
        labels: &Labels,
    ) -> Result<Self, DataError> {
        Reader {
            path: path.as_ref(),
            fields,
            labels,
            kind,
            label_needed: true,
        }
        .read()
    }

    /// Reads a file to predict on: as [`Dataset::read`], but an example may have no label. A missing, empty or null
    /// label is none, and so is `-1`, which public test sets hold in its place; any other must be right.
    ///
    /// # Errors
    ///
    /// A [`DataError`] for the first thing that is wrong.
    pub fn read_texts(path: impl AsRef<Path>, fields: &Fields, labels: &Labels) -> Result<Self, DataError> {
        Reader {
            path: path.as_ref(),
            fields,
            labels,
            kind: LabelKind::Class,
            label_needed: false,
        }
        .read()
    }

    /// One of several disjoint parts of one size, give or take an example, in the order of the file. A part of fewer
    /// examples than parts is all of them.
    #[must_use]
    pub fn part(mut self, part: Part) -> Self {
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        let length = |text: &str| text.chars().count();
        if part.by == PartBy::Length {
            order.sort_by_key(|index| {
                let example = &self.examples[*index];
                length(&example.text) + example.text_pair.as_deref().map_or(0, length)
            });
        }
        let bound = |index: usize| order.len() * index / part.of;
        let mut mine = order[bound(part.index)..bound(part.index + 1)].to_vec();
        if mine.is_empty() {
            return self;
        }
        mine.sort_unstable();
        self.examples = mine.into_iter().map(|index| self.examples[index].clone()).collect();
        self
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are none; a file without examples is an error, so only a set made by hand can be empty.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }
}

/// A record of either format.
enum Row<'a> {
    Json(serde_json::Map<String, Value>),
    Table {
        header: &'a csv::StringRecord,
        cells: &'a csv::StringRecord,
    },
}

/// A field's value: typed in JSON, bare text in a table.
#[derive(Clone, Copy)]
enum Cell<'a> {
    Json(&'a Value),
    Text(&'a str),
}

impl Row<'_> {
    fn get(&self, field: &str) -> Option<Cell<'_>> {
        match self {
            Self::Json(object) => object.get(field).map(Cell::Json),
            Self::Table { header, cells } => {
                let column = header.iter().position(|name| name == field)?;
                cells.get(column).map(Cell::Text)
            }
        }
    }

    fn fields(&self) -> Vec<String> {
        match self {
            Self::Json(object) => object.keys().cloned().collect(),
            Self::Table { header, .. } => header.iter().map(str::to_owned).collect(),
        }
    }
}

impl Cell<'_> {
    fn is_empty(self) -> bool {
        match self {
            Self::Json(value) => value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty()),
            Self::Text(text) => text.trim().is_empty(),
        }
    }

    /// What was found, for an error that says it is of the wrong kind.
    fn describe(self) -> String {
        match self {
            Self::Text("") => "an empty cell".into(),
            Self::Text(text) => format!("`{}`", error::shortened(text)),
            Self::Json(Value::String(text)) => format!("the string `{}`", error::shortened(text)),
            Self::Json(value @ (Value::Null | Value::Bool(_) | Value::Number(_))) => format!("`{value}`"),
            Self::Json(Value::Array(_)) => "a list".into(),
            Self::Json(Value::Object(_)) => "an object".into(),
        }
    }
}

/// What every line of one file is read with.
struct Reader<'a> {
    path: &'a Path,
    fields: &'a Fields,
    labels: &'a Labels,
    kind: LabelKind,
    label_needed: bool,
}

impl Reader<'_> {
    fn read(&self) -> Result<Dataset, DataError> {
        let extension = self
            .path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase());
        let read: fn(&Self, &str) -> Result<Vec<Example>, DataError> = match extension.as_deref() {
            Some("jsonl" | "json-lines") => jsonl::read,
            Some("csv") => |reader, text| table::read(reader, text, table::Kind::Csv),
            Some("tsv") => |reader, text| table::read(reader, text, table::Kind::Tsv),
            _ => {
                return Err(DataError::UnknownExtension {
                    path: self.path.to_path_buf(),
                });
            }
        };
        let bytes = fs::read(self.path).map_err(|source| DataError::Read {
            path: self.path.to_path_buf(),
            source,
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            DataError::NotUtf8 {
                path: self.path.to_path_buf(),
                line: 1 + newlines(valid),
            }
        })?;
        let examples = read(self, text.strip_prefix('\u{feff}').unwrap_or(&text))?;
        if examples.is_empty() {
            return Err(DataError::Empty {
                path: self.path.to_path_buf(),
            });
        }
        Ok(Dataset {
            examples,
            path: self.path.to_path_buf(),
        })
    }

    fn example(&self, row: &Row<'_>, line: usize) -> Result<Example, DataError> {
        let pair = self.fields.text_pair.as_ref();
        Ok(Example {
            text: self.text(row, &self.fields.text, line)?,
            text_pair: pair.map(|field| self.text(row, field, line)).transpose()?,
            label: self.label(row, line)?,
        })
    }

    fn text(&self, row: &Row<'_>, field: &str, line: usize) -> Result<String, DataError> {
        match row.get(field) {
            Some(Cell::Text(text)) => Ok(text.to_owned()),
            Some(Cell::Json(Value::String(text))) => Ok(text.clone()),
            Some(cell) => Err(self.wrong_type(field, "a string", cell, line)),
            None => Err(self.missing(row, field, line)),
        }
    }

    fn label(&self, row: &Row<'_>, line: usize) -> Result<Option<Label>, DataError> {
        let field = &self.fields.label;
        let cell = match row.get(field) {
            Some(cell) if self.label_needed || !cell.is_empty() => cell,
            None if self.label_needed => return Err(self.missing(row, field, line)),
            _ => return Ok(None),
        };
        match self.kind {
            LabelKind::Class => Ok(self.class(cell, line)?.map(Label::Class)),
            LabelKind::Number => {
                let number = match cell {
                    Cell::Text(text) => text.trim().parse::<f32>().ok(),
                    Cell::Json(value) => value.as_f64().map(|number| number as f32),
                };
                match number.filter(|number| number.is_finite()) {
                    Some(number) => Ok(Some(Label::Number(number))),
                    None => Err(self.wrong_type(field, "a finite number", cell, line)),
                }
            }
            LabelKind::Several => {
                let cells: Vec<Cell<'_>> = match cell {
                    Cell::Json(Value::Array(values)) => values.iter().map(Cell::Json).collect(),
                    Cell::Text(text) if text.trim().is_empty() => Vec::new(),
                    Cell::Text(text) => text.split('|').map(Cell::Text).collect(),
                    Cell::Json(_) => return Err(self.wrong_type(field, "a list of labels", cell, line)),
                };
                let classes = cells.into_iter().filter_map(|cell| self.class(cell, line).transpose());
                Ok(Some(Label::Several(classes.collect::<Result<_, _>>()?)))
            }
        }
    }

    fn class(&self, cell: Cell<'_>, line: usize) -> Result<Option<usize>, DataError> {
        let field = &self.fields.label;
        let names: &[String] = match self.labels {
            Labels::Names(names) => names,
            Labels::Count(_) => &[],
        };
        let (name, number) = match cell {
            Cell::Text(text) => (Some(text.trim()), integer(text.trim())),
            Cell::Json(Value::String(text)) => (Some(text.trim()), None),
            Cell::Json(Value::Number(number)) => (None, integer(&number.to_string())),
            Cell::Json(_) => (None, None),
        };
        if let Some(class) = name.and_then(|name| names.iter().position(|known| known == name)) {
            return Ok(Some(class));
        }
        match (number, name) {
            (Some(-1), _) if !self.label_needed => Ok(None),
            (Some(number), _) => match usize::try_from(number) {
                Ok(class) if class < self.labels.count() => Ok(Some(class)),
                _ => Err(DataError::LabelOutOfRange {
                    path: self.path.to_path_buf(),
                    line,
                    label: number,
                    classes: self.labels.count(),
                }),
            },
            (None, Some(name)) if !names.is_empty() && !name.is_empty() => Err(DataError::UnknownLabel {
                path: self.path.to_path_buf(),
                line,
                label: error::shortened(name),
                nearest: nearest(name, names),
                names: names.to_vec(),
            }),
            _ => {
                let expected = if names.is_empty() {
                    "an integer (or give the classes' names)"
                } else {
                    "a class's name"
                };
                Err(self.wrong_type(field, expected, cell, line))
            }
        }
    }

    fn missing(&self, row: &Row<'_>, field: &str, line: usize) -> DataError {
        let present = row.fields();
        let nearest = nearest(field, &present);
        DataError::MissingField {
            path: self.path.to_path_buf(),
            line,
            field: field.to_owned(),
            present,
            nearest,
        }
    }

    fn wrong_type(&self, field: &str, expected: &'static str, cell: Cell<'_>, line: usize) -> DataError {
        let (path, field, found) = (self.path.to_path_buf(), field.to_owned(), cell.describe());
        DataError::WrongType {
            path,
            line,
            field,
            expected,
            found,
        }
    }
}

/// `7`, and the `7.0` that tables with gaps turn it into.
fn integer(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.bytes().all(|digit| digit == b'0') {
        whole.parse().ok()
    } else {
        None
    }
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests;
