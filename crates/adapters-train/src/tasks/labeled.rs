//! Examples with one target each.

use std::fmt;

use adapters_models::Input;
use adapters_models::heads::Targets;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::task::Example;
use crate::data::Record;
use crate::error::TrainError;
use crate::inputs::Batch;

/// What a model reads, and what it should predict.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Labeled<S, T> {
    /// What the model reads.
    pub(crate) source: S,
    /// What it should predict; `None` where that is not known.
    pub(crate) target: Option<T>,
}

impl<S: Example, T> Example for Labeled<S, T>
where
    T: Clone + fmt::Debug + DeserializeOwned + Send + Serialize + Sync,
{
    fn length(&self) -> usize {
        self.source.length()
    }

    fn truncated(&self) -> usize {
        self.source.truncated()
    }
}

/// What the model reads of each record, with the target that `target` reads of the record.
pub(crate) fn with_targets<S, T>(
    sources: Vec<S>,
    records: &[Record],
    target: impl Fn(&Record) -> Result<Option<T>, TrainError>,
) -> Result<Vec<Labeled<S, T>>, TrainError> {
    let example = |(source, record)| {
        let target = target(record)?;
        Ok(Labeled { source, target })
    };
    sources.into_iter().zip(records).map(example).collect()
}

/// A batch with the targets that `make` makes of those of the examples, if each of them has one.
pub(crate) fn labeled_batch<S, T>(
    input: Input,
    examples: &[(usize, &Labeled<S, T>)],
    make: impl FnOnce(Vec<&T>) -> Targets,
) -> Batch {
    let targets: Option<Vec<&T>> = examples.iter().map(|(_, example)| example.target.as_ref()).collect();
    Batch {
        targets: targets.map(make),
        ..Batch::unlabeled(input, examples.len())
    }
}
