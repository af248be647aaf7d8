//! One record of a data file, and its fields by kind.

use std::sync::Arc;

use adapters_nn::nearest;
use serde_json::{Map, Value};

use super::error::{self, DataError, Location};
use super::fields::Labels;

/// One record of a data file: a JSON object, or a row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub(super) at: Location,
    pub(super) source: Source,
}

/// A record of either format.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    Json(Map<String, Value>),
    Table {
        header: Arc<csv::StringRecord>,
        /// Where the header is.
        header_at: Location,
        cells: csv::StringRecord,
    },
}

/// A field's value: typed in JSON, bare text in a table.
#[derive(Clone, Copy)]
pub(super) enum Cell<'a> {
    Json(&'a Value),
    Text(&'a str),
}

impl Cell<'_> {
    fn is_empty(self) -> bool {
        match self {
            Self::Json(value) => value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty()),
            Self::Text(text) => text.trim().is_empty(),
        }
    }

    /// The value, for an error about its type.
    pub(super) fn describe(self) -> String {
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

impl Record {
    /// A text.
    ///
    /// # Errors
    ///
    /// [`DataError::MissingField`], [`DataError::WrongType`].
    pub fn text(&self, field: &str) -> Result<&str, DataError> {
        match self.needed(field)? {
            Cell::Text(text) => Ok(text),
            Cell::Json(Value::String(text)) => Ok(text),
            cell => Err(self.wrong_type(field, "a string", cell)),
        }
    }

    /// A text that may be absent; an empty or null one counts as absent.
    ///
    /// # Errors
    ///
    /// [`DataError::WrongType`].
    pub(crate) fn optional_text(&self, field: &str) -> Result<Option<&str>, DataError> {
        match self.has(field) {
            true => self.text(field).map(Some),
            false => Ok(None),
        }
    }

    /// Whether a field is there and not empty or null.
    pub fn has(&self, field: &str) -> bool {
        self.get(field).is_some_and(|cell| !cell.is_empty())
    }

    /// A class by its name or number; `None` where the field is absent, empty, null or `-1`, which public test sets have in
    /// its place, and `needed` is false.
    ///
    /// # Errors
    ///
    /// [`DataError`] for a class that is none of `labels`, or absent and needed.
    pub fn class(&self, field: &str, labels: &Labels, needed: bool) -> Result<Option<usize>, DataError> {
        match self.labeled(field, needed)? {
            Some(cell) => self.class_of(field, cell, labels, needed),
            None => Ok(None),
        }
    }

    /// A finite number; `None` where it is absent, empty or null and `needed` is false.
    ///
    /// # Errors
    ///
    /// [`DataError`] for anything else, or where it is absent and needed.
    pub fn number(&self, field: &str, needed: bool) -> Result<Option<f32>, DataError> {
        let Some(cell) = self.labeled(field, needed)? else {
            return Ok(None);
        };
        let number = match cell {
            Cell::Text(text) => text.trim().parse::<f32>().ok(),
            Cell::Json(Value::String(text)) => text.trim().parse::<f32>().ok(),
            Cell::Json(value) => value.as_f64().map(|number| number as f32),
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong_type(field, "a finite number", cell)),
        }
    }

    /// Several classes by their names or numbers: a list in JSON, `a|b` in a table; an empty list means no label.
    ///
    /// # Errors
    ///
    /// [`DataError`] for a class that is none of `labels`, or where the field is absent and `needed`.
    pub fn classes(&self, field: &str, labels: &Labels, needed: bool) -> Result<Option<Vec<usize>>, DataError> {
        let cells = match self.labeled(field, needed)? {
            None => return Ok(None),
            Some(Cell::Text(text)) if text.trim().is_empty() => Vec::new(),
            Some(cell) => self.list(field, cell, '|', "a list of labels")?,
        };
        let classes = cells
            .into_iter()
            .filter_map(|cell| self.class_of(field, cell, labels, needed).transpose());
        classes.collect::<Result<_, _>>().map(Some)
    }

    /// The labels in a field as they are written, none where it is empty: one, or a list in JSON and between `separator` in a table.
    pub(super) fn label_names(&self, field: &str, separator: Option<char>) -> Result<Vec<String>, DataError> {
        let cell = self.needed(field)?;
        let cells = match (cell, separator) {
            (Cell::Json(Value::Array(values)), Some(_)) => values.iter().map(Cell::Json).collect(),
            (Cell::Text(text), Some(separator)) => text.split(separator).map(Cell::Text).collect(),
            _ => vec![cell],
        };
        let name = |cell: Cell<'_>| match cell {
            Cell::Text(text) => Ok(text.trim().to_owned()),
            Cell::Json(Value::String(text)) => Ok(text.trim().to_owned()),
            Cell::Json(Value::Bool(value)) => Ok(value.to_string()),
            Cell::Json(Value::Number(number)) => match integer(&number.to_string()) {
                Some(number) => Ok(number.to_string()),
                None => Err(self.wrong_type(field, "a label", cell)),
            },
            cell => Err(self.wrong_type(field, "a label", cell)),
        };
        cells.into_iter().filter(|cell| !cell.is_empty()).map(name).collect()
    }

    /// Several texts: a list of strings in JSON, texts between `separator` in a table.
    ///
    /// # Errors
    ///
    /// [`DataError::MissingField`], [`DataError::WrongType`].
    pub fn texts(&self, field: &str, separator: char) -> Result<Vec<String>, DataError> {
        let cells = self.list(field, self.needed(field)?, separator, "a list of strings")?;
        let text = |cell| match cell {
            Cell::Text(text) => Ok(text.to_owned()),
            Cell::Json(Value::String(text)) => Ok(text.clone()),
            cell => Err(self.wrong_type(field, "a list of strings", cell)),
        };
        cells
            .into_iter()
            .filter(|cell| !matches!(cell, Cell::Text("")))
            .map(text)
            .collect()
    }

    /// The class of each of `count` items, by name or number: a list in JSON, separated by spaces in a table.
    ///
    /// # Errors
    ///
    /// [`DataError`] for a class that is none of `labels`, for another number of them, or where the field is absent and
    /// `needed`.
    pub(crate) fn class_of_each(
        &self,
        field: &str,
        labels: &Labels,
        count: usize,
        needed: bool,
    ) -> Result<Option<Vec<usize>>, DataError> {
        let Some(cell) = self.labeled(field, needed)? else {
            return Ok(None);
        };
        let cells = self.list(field, cell, ' ', "a list of labels")?;
        let cells: Vec<_> = cells
            .into_iter()
            .filter(|cell| !matches!(cell, Cell::Text("")))
            .collect();
        if cells.len() != count {
            return Err(self.wrong(
                field,
                format!("as long as its words, {count}"),
                format!("{} items", cells.len()),
            ));
        }
        let classes = cells.into_iter().map(|cell| self.class_of(field, cell, labels, true));
        Ok(Some(classes.filter_map(Result::transpose).collect::<Result<_, _>>()?))
    }

    /// A whole number that may be absent.
    ///
    /// # Errors
    ///
    /// [`DataError::WrongType`].
    pub(crate) fn optional_index(&self, field: &str) -> Result<Option<usize>, DataError> {
        let Some(cell) = self.labeled(field, false)? else {
            return Ok(None);
        };
        let number = match cell {
            Cell::Text(text) => integer(text.trim()),
            Cell::Json(value) => integer(&value.to_string()),
        };
        match number.and_then(|number| usize::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong_type(field, "a whole number", cell)),
        }
    }

    /// File and line.
    pub fn location(&self) -> String {
        self.at.to_string()
    }

    /// An error about the value of a field.
    pub fn wrong(&self, field: &str, expected: impl Into<String>, found: impl Into<String>) -> DataError {
        DataError::WrongType {
            at: self.at.clone(),
            field: field.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Characters of all fields but `label`.
    pub(super) fn length(&self, label: &str) -> usize {
        fn of(value: &Value) -> usize {
            match value {
                Value::String(text) => text.chars().count(),
                Value::Array(values) => values.iter().map(of).sum(),
                _ => 0,
            }
        }
        match &self.source {
            Source::Json(object) => object
                .iter()
                .filter(|(key, _)| *key != label)
                .map(|(_, value)| of(value))
                .sum(),
            Source::Table { header, cells, .. } => {
                let columns = header.iter().zip(cells);
                columns
                    .filter(|(key, _)| *key != label)
                    .map(|(_, cell)| cell.chars().count())
                    .sum()
            }
        }
    }

    pub(super) fn get(&self, field: &str) -> Option<Cell<'_>> {
        match &self.source {
            Source::Json(object) => object.get(field).map(Cell::Json),
            Source::Table { header, cells, .. } => {
                let column = header.iter().position(|name| name == field)?;
                cells.get(column).map(Cell::Text)
            }
        }
    }

    pub(super) fn needed(&self, field: &str) -> Result<Cell<'_>, DataError> {
        self.get(field).ok_or_else(|| self.missing(field))
    }

    /// A field that may be absent, empty or null unless it is `needed`.
    fn labeled(&self, field: &str, needed: bool) -> Result<Option<Cell<'_>>, DataError> {
        match self.get(field) {
            Some(cell) if needed || !cell.is_empty() => Ok(Some(cell)),
            None if needed => Err(self.missing(field)),
            _ => Ok(None),
        }
    }

    fn list<'a>(
        &self,
        field: &str,
        cell: Cell<'a>,
        separator: char,
        expected: &str,
    ) -> Result<Vec<Cell<'a>>, DataError> {
        match cell {
            Cell::Json(Value::Array(values)) => Ok(values.iter().map(Cell::Json).collect()),
            Cell::Text(text) => Ok(text.split(separator).map(Cell::Text).collect()),
            Cell::Json(_) => Err(self.wrong_type(field, expected, cell)),
        }
    }

    fn class_of(&self, field: &str, cell: Cell<'_>, labels: &Labels, needed: bool) -> Result<Option<usize>, DataError> {
        let names: &[String] = match labels {
            Labels::Names(names) => names,
            Labels::Count(_) => &[],
        };
        let (name, number) = match cell {
            Cell::Text(text) => (Some(text.trim()), integer(text.trim())),
            // Texts and truth values stand for numbers only where the classes have no names.
            Cell::Json(Value::String(text)) => (Some(text.trim()), integer(text.trim()).filter(|_| names.is_empty())),
            Cell::Json(Value::Bool(value)) => (
                Some(if *value { "true" } else { "false" }),
                names.is_empty().then_some(i128::from(*value)),
            ),
            Cell::Json(Value::Number(number)) => (None, integer(&number.to_string())),
            Cell::Json(_) => (None, None),
        };
        if let Some(class) = name.and_then(|name| names.iter().position(|known| known == name)) {
            return Ok(Some(class));
        }
        match (number, name) {
            (Some(-1), _) if !needed => Ok(None),
            (Some(number), _) => match usize::try_from(number) {
                Ok(class) if class < labels.count() => Ok(Some(class)),
                _ => Err(DataError::LabelOutOfRange {
                    at: self.at.clone(),
                    label: number,
                    classes: labels.count(),
                }),
            },
            (None, Some(name)) if !names.is_empty() && !name.is_empty() => Err(DataError::UnknownLabel {
                at: self.at.clone(),
                label: error::shortened(name),
                nearest: nearest(name, names.iter().map(String::as_str)),
                names: names.to_vec(),
            }),
            _ => {
                let expected = if names.is_empty() {
                    "an integer (or give the classes' names)"
                } else {
                    "a class's name"
                };
                Err(self.wrong_type(field, expected, cell))
            }
        }
    }

    pub(crate) fn missing(&self, field: &str) -> DataError {
        let (present, at): (Vec<String>, _) = match &self.source {
            Source::Json(object) => (object.keys().cloned().collect(), &self.at),
            Source::Table { header, header_at, .. } => (header.iter().map(str::to_owned).collect(), header_at),
        };
        let nearest = nearest(field, present.iter().map(String::as_str));
        DataError::MissingField {
            at: at.clone(),
            field: field.to_owned(),
            present,
            nearest,
        }
    }

    pub(super) fn wrong_type(&self, field: &str, expected: &str, cell: Cell<'_>) -> DataError {
        self.wrong(field, expected, cell.describe())
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
