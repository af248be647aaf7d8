//! `summary.json`: how a run ended.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::RunFileError;
use adapters_store::atomic;

/// How a run ended, for tables that compare runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// Accuracy on the test set, 0 to 1.
    pub test_accuracy: Option<f64>,
    /// Accuracy on the validation set, 0 to 1.
    pub validation_accuracy: Option<f64>,
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
        let mut json = serde_json::to_value(fields).map_err(encode)?;
        if let Value::Object(object) = &mut json {
            for (key, value) in &self.extra {
                object.entry(key.as_str()).or_insert_with(|| value.clone());
            }
        }
        let mut bytes = serde_json::to_vec_pretty(&json).map_err(encode)?;
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
        serde_json::from_slice(&bytes).map_err(|source| RunFileError::BadSummary {
            path: path.to_path_buf(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_files::peak_rss_bytes;

    #[test]
    fn a_summary_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        let mut summary = Summary {
            test_accuracy: Some(0.875),
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
        assert_eq!(
            summary.truncated.to_string(),
            "3 of the training data, 1 of the test data"
        );
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("{\n  \"test_accuracy\": 0.875,\n  \"validation_accuracy\": null,"),
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
        let path = folder.path().join("summary.json");
        fs::write(&path, "{\"steps\": \"many\"}").unwrap();
        let error = Summary::read(&path).unwrap_err();
        assert!(error.to_string().ends_with("is not a run's summary"), "{error}");
    }
}
