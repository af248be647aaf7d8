//! `summary.json`: how a run ended.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::RunFileError;
use adapters_store::atomic;

/// How a run ended, for tables that compare runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// Name of the figure that the task is known by: `accuracy`, `f1`, ...
    pub metric: String,
    /// All figures on the test data, by name; in the file `test_accuracy`, `test_f1`, ... None without test data.
    #[serde(skip)]
    pub test_figures: BTreeMap<String, f64>,
    /// The metric on the validation data; in the file `validation_accuracy`, `validation_f1`, ...
    #[serde(skip)]
    pub validation_score: Option<f64>,
    /// Mean loss on the test data.
    pub test_loss: Option<f64>,
    /// Name of the adapter.
    pub adapter: String,
    /// Seed of the run.
    pub seed: u64,
    /// Rows of a batch, which may have been searched for.
    pub batch_size: usize,
    /// Parameters that were trained: the adapter's and the head's.
    pub trainable_params: usize,
    /// All parameters, the backbone's included.
    pub total_params: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Seconds from the first step to the last evaluation.
    pub seconds: f64,
    /// The most memory the process held, see [`peak_rss_bytes`](crate::peak_rss_bytes).
    pub peak_rss_bytes: Option<u64>,
    /// Texts that were cut off.
    pub truncated: Truncated,
    /// Whatever else is worth keeping, in addition to the fields above. A key that repeats one of their names is not written.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How many texts of each file of a run are longer than `model.max_length`, so that what is beyond it is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncated {
    /// Of the training data.
    pub train: usize,
    /// Of the validation data.
    pub validation: usize,
    /// Of the test data, if there is any.
    pub test: Option<usize>,
}

impl fmt::Display for Truncated {
    /// The counts that are not zero, `3 of the training data, 1 of the test data`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.train, "training"),
            (self.validation, "validation"),
            (self.test.unwrap_or_default(), "test"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(count, of)| format!("{count} of the {of} data")).collect();
        f.write_str(&counts.join(", "))
    }
}

impl Summary {
    /// Name of the file in the folder of a run.
    pub const FILE: &'static str = "summary.json";

    /// The metric on the test data.
    pub fn test_score(&self) -> Option<f64> {
        self.test_figures.get(&self.metric).copied()
    }

    /// Replaces `path` by this summary as indented JSON, atomically.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), RunFileError> {
        let path = path.as_ref();
        let encode = |source| RunFileError::Encode {
            path: path.to_path_buf(),
            source,
        };
        let fields = Self {
            extra: Map::new(),
            ..self.clone()
        };
        let figures = self.test_figures.iter();
        let mut object: Map<String, Value> = figures
            .map(|(name, value)| (format!("test_{name}"), json!(value)))
            .collect();
        if let Some(score) = self.validation_score {
            object.insert(format!("validation_{}", self.metric), json!(score));
        }
        if let Value::Object(fields) = serde_json::to_value(fields).map_err(encode)? {
            object.extend(fields);
        }
        for (key, value) in &self.extra {
            object.entry(key.as_str()).or_insert_with(|| value.clone());
        }
        let mut bytes = serde_json::to_vec_pretty(&object).map_err(encode)?;
        bytes.push(b'\n');
        Ok(atomic::write(path, &bytes)?)
    }

    /// Reads what [`Summary::write`] wrote; keys unknown here go to `extra`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not a summary.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, RunFileError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| RunFileError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let mut summary: Self = serde_json::from_slice(&bytes).map_err(|source| RunFileError::BadSummary {
            path: path.to_path_buf(),
            source,
        })?;
        let validation = format!("validation_{}", summary.metric);
        for (key, value) in std::mem::take(&mut summary.extra) {
            match (key.strip_prefix("test_"), value.as_f64()) {
                (Some(name), Some(value)) => {
                    summary.test_figures.insert(name.to_owned(), value);
                }
                (None, Some(value)) if key == validation => summary.validation_score = Some(value),
                _ => {
                    summary.extra.insert(key, value);
                }
            }
        }
        Ok(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_files::peak_rss_bytes;

    #[test]
    fn a_summary_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Summary::FILE);
        let mut summary = Summary {
            metric: "f1".to_owned(),
            test_figures: [("f1".to_owned(), 0.875), ("accuracy".to_owned(), 0.75)].into(),
            validation_score: Some(0.5),
            test_loss: Some(0.25),
            trainable_params: 10,
            total_params: 1000,
            steps: 7,
            seconds: 1.5,
            truncated: Truncated {
                train: 3,
                validation: 0,
                test: Some(1),
            },
            peak_rss_bytes: peak_rss_bytes(),
            ..Summary::default()
        };
        summary.extra.insert("method".into(), "lora".into());
        summary.write(&path).unwrap();
        assert_eq!(Summary::read(&path).unwrap(), summary);
        assert_eq!(summary.test_score(), Some(0.875));
        assert_eq!(
            summary.truncated.to_string(),
            "3 of the training data, 1 of the test data"
        );
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(
                "{\n  \"test_accuracy\": 0.75,\n  \"test_f1\": 0.875,\n  \"validation_f1\": 0.5,\n  \"metric\": \"f1\","
            ),
            "{text}"
        );
        assert!(text.ends_with("\"method\": \"lora\"\n}\n"), "{text}");

        summary.extra.insert("steps".into(), 99.into());
        summary.write(&path).unwrap();
        assert_eq!(Summary::read(&path).unwrap().steps, 7);
    }

    #[test]
    fn a_file_that_is_no_summary_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Summary::FILE);
        fs::write(&path, "{\"steps\": \"many\"}").unwrap();
        let error = Summary::read(&path).unwrap_err();
        assert!(error.to_string().ends_with("is not a run's summary"), "{error}");
    }
}
