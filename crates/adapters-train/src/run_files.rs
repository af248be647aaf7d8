//! What a run writes about itself: `metrics.jsonl`, line by line, and `summary.json` at the end.

mod memory;
mod summary;
mod tensorboard;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

pub use self::memory::{machine_memory_bytes, peak_rss_bytes};
pub use self::summary::{Summary, Truncated};
use self::tensorboard::EventFile;
use adapters_store::atomic::{self, AtomicWriteError};

/// One of a run's own files could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunFileError {
    /// The file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A line could not be added.
    #[error("cannot append to {}", path.display())]
    Append {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A whole file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
    /// A record before the last is not a JSON object.
    #[error("the record at {}:{line} is not a json object; remove that line to continue", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The file's JSON is not what it should be.
    #[error("{} is not a run's summary", path.display())]
    BadSummary {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// A value cannot be written as JSON.
    #[error("a value for {} cannot be written as json", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// The records of a run, one JSON object a line, each on the disk's side as soon as it is pushed.
#[derive(Debug)]
pub struct MetricsLog {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    length: u64,
}

impl MetricsLog {
    /// Opens the log to append to it, creating it where there is none.
    ///
    /// With `keep_through_step`, the records of later steps are removed first: those a run wrote after the checkpoint
    /// it is resumed from. A record without a `"step"` belongs with the one before it. With `None` every record stays.
    /// A half-written last line, left by a run that was killed, is removed in either case.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, rewritten or opened, or a line other than the last is not a JSON object.
    pub fn open(path: impl AsRef<Path>, keep_through_step: Option<u64>) -> Result<Self, RunFileError> {
        let path = path.as_ref().to_path_buf();
        let old = read_or_empty(&path)?;
        let mut kept = Vec::with_capacity(old.len());
        let mut keeping = true;
        for (line, record) in whole_lines(&old, &path)? {
            if let (Some(last), Some(step)) = (keep_through_step, record.get("step").and_then(Value::as_f64)) {
                keeping = step <= last as f64;
            }
            if keeping {
                kept.extend_from_slice(line);
                kept.push(b'\n');
            }
        }
        if kept != old {
            atomic::write(&path, &kept)?;
        }
        let file = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|source| RunFileError::Append {
                path: path.clone(),
                source,
            })?;
        Ok(Self {
            file,
            path,
            length: kept.len() as u64,
        })
    }

    /// Appends one record, which should be a struct or a map. Numbers that are not finite become `null`.
    ///
    /// # Errors
    ///
    /// When the record cannot be encoded or the line cannot be written; the log then ends with the record before.
    pub fn push(&mut self, record: &impl Serialize) -> Result<(), RunFileError> {
        let mut line = serde_json::to_vec(record).map_err(|source| RunFileError::Encode {
            path: self.path.clone(),
            source,
        })?;
        line.push(b'\n');
        // One write, so that a reader who follows the file sees whole lines.
        if let Err(source) = self.file.write_all(&line).and_then(|()| self.file.flush()) {
            let _ = self.file.set_len(self.length);
            return Err(RunFileError::Append {
                path: self.path.clone(),
                source,
            });
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All records of a log, without a half-written last line. No file, no records.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or a line other than the last is not a JSON object.
    pub fn records(path: impl AsRef<Path>) -> Result<Vec<Map<String, Value>>, RunFileError> {
        let path = path.as_ref();
        let bytes = read_or_empty(path)?;
        Ok(whole_lines(&bytes, path)?
            .into_iter()
            .map(|(_, record)| record)
            .collect())
    }
}

/// The figures of a run by step: `metrics.jsonl`, and TensorBoard's event files where they are asked for.
#[derive(Debug)]
pub(crate) struct RunLog {
    metrics: MetricsLog,
    tensorboard: Option<EventFile>,
}

impl RunLog {
    /// Opens `metrics` to append to it after `step`, and begins an event file in the folder `tensorboard`, if there is one.
    pub(crate) fn open(metrics: &Path, tensorboard: Option<&Path>, step: u64) -> Result<Self, RunFileError> {
        Ok(Self {
            metrics: MetricsLog::open(metrics, Some(step))?,
            tensorboard: tensorboard.map(|dir| EventFile::create(dir, step)).transpose()?,
        })
    }

    /// Appends values of a step, by name.
    pub(crate) fn push(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), RunFileError> {
        let mut record = Map::from_iter([("step".to_owned(), step.into())]);
        record.extend(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        self.metrics.push(&record)?;
        match &mut self.tensorboard {
            Some(events) => events.push(step, values),
            None => Ok(()),
        }
    }
}

fn read_or_empty(path: &Path) -> Result<Vec<u8>, RunFileError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|source| RunFileError::Read {
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// A line as it is in the file, and what it says.
type Line<'a> = (&'a [u8], Map<String, Value>);

fn whole_lines<'a>(bytes: &'a [u8], path: &Path) -> Result<Vec<Line<'a>>, RunFileError> {
    let lines: Vec<(usize, &[u8])> = bytes
        .split(|&byte| byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(index, line)| (index + 1, line.trim_ascii_end()))
        .collect();
    let mut whole = Vec::with_capacity(lines.len());
    for (index, &(number, line)) in lines.iter().enumerate() {
        match serde_json::from_slice(line) {
            Ok(record) => whole.push((line, record)),
            Err(_) if index + 1 == lines.len() => {}
            Err(_) => {
                return Err(RunFileError::BadRecord {
                    path: path.to_path_buf(),
                    line: number,
                });
            }
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn log_of(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn opened(text: &str, keep: Option<u64>) -> String {
        let (_folder, path) = log_of(text);
        MetricsLog::open(&path, keep).unwrap();
        fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn appends_across_openings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        for step in 0..2 {
            let mut log = MetricsLog::open(&path, None).unwrap();
            log.push(&json!({"step": step, "loss": 0.5})).unwrap();
            log.push(&json!({"step": step, "note": "two\nlines", "loss": f64::NAN}))
                .unwrap();
            assert_eq!(log.path(), path);
        }
        let records = MetricsLog::records(&path).unwrap();
        assert_eq!(records.len(), 4);
        assert_eq!(records[3]["step"], 1);
        assert_eq!(records[3]["loss"], Value::Null);
        assert_eq!(MetricsLog::records(folder.path().join("absent")).unwrap(), []);
    }

    #[test]
    fn resuming_removes_later_records_and_keeps_the_others_as_written() {
        let text = "{\"step\":1, \"loss\":0.10}\n{\"step\":2}\n{\"saved\":\"a\"}\n{\"step\":3}\n{\"saved\":\"b\"}\n";
        let kept = "{\"step\":1, \"loss\":0.10}\n{\"step\":2}\n{\"saved\":\"a\"}\n";
        assert_eq!(opened(text, Some(2)), kept);
        assert_eq!(opened(text, Some(9)), text);
        assert_eq!(opened(text, Some(0)), "");
        assert_eq!(opened(text, None), text);
    }

    #[test]
    fn a_half_written_last_line_is_removed() {
        assert_eq!(opened("{\"step\":1}\n{\"step\":2,\"lo", None), "{\"step\":1}\n");
        assert_eq!(
            opened("{\"step\":1}\n{\"step\":2}", None),
            "{\"step\":1}\n{\"step\":2}\n"
        );
        assert_eq!(opened("{\"step\":1}\r\n\n\u{0}\u{0}\n", None), "{\"step\":1}\n");
        assert_eq!(opened("{\"st", Some(1)), "");
    }

    #[test]
    fn the_log_goes_on_after_a_repair() {
        let (_folder, path) = log_of("{\"step\":1}\n{\"step\":2,\"lo");
        MetricsLog::open(&path, Some(1))
            .unwrap()
            .push(&json!({"step": 2}))
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
    }

    #[test]
    fn a_broken_record_in_the_middle_is_named() {
        let (_folder, path) = log_of("{\"step\":1}\n\n[2]\n{\"step\":3}\n");
        let error = MetricsLog::open(&path, Some(1)).unwrap_err();
        assert!(
            error.to_string().contains("metrics.jsonl:3 is not a json object"),
            "{error}"
        );
        assert!(
            fs::read_to_string(&path).unwrap().contains("[2]"),
            "the file is as it was"
        );
    }

    #[test]
    fn a_record_that_json_cannot_hold_is_an_error() {
        let (_folder, path) = log_of("");
        let mut log = MetricsLog::open(&path, None).unwrap();
        let error = log.push(&std::collections::HashMap::from([((1, 2), 3)])).unwrap_err();
        assert!(matches!(error, RunFileError::Encode { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let file = File::options().append(true).open("/dev/full").unwrap();
        let mut log = MetricsLog {
            file,
            path: "/dev/full".into(),
            length: 0,
        };
        let error = log.push(&json!({"step": 1})).unwrap_err();
        assert_eq!(error.to_string(), "cannot append to /dev/full");
    }
}
