//! The rows of a batch: given, or the most that the device has memory for.

use std::fmt;

use adapters_core::Ctx;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::batches::eval_batches;
use crate::device_read;
use crate::error::TrainError;
use crate::optimizer::squared_norm;
use crate::run::Run;
use crate::task_model::{PassSeed, TaskModel};
use crate::tasks::TaskData;

/// Rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// So many.
    Rows(usize),
    /// The largest of 64, 32, .., 1 for which the device has the memory that the gradients of the longest examples need. It is
    /// found before the first step, and a resumed run keeps it.
    ///
    /// The memory of a processor is not refused but taken from other programs, or the process ends: there it is 64.
    Auto,
}

impl BatchSize {
    /// The word for [`BatchSize::Auto`].
    const AUTO: &str = "auto";
    /// What the search begins with.
    const START: usize = 64;

    /// The rows for a run that has not begun.
    ///
    /// # Errors
    ///
    /// [`TrainError::OutOfMemory`] if there is none for a single row, and those of batch and gradients.
    pub(crate) fn rows(self, run: &Run, data: &dyn TaskData, model: &TaskModel) -> Result<usize, TrainError> {
        match self {
            Self::Rows(rows) => Ok(rows),
            Self::Auto => first_that_fits(|rows| gradients(run, data, model, rows)),
        }
    }
}

/// The first of 64, 32, .. rows for which `computed` does not run out of memory.
fn first_that_fits(mut computed: impl FnMut(usize) -> Result<(), TrainError>) -> Result<usize, TrainError> {
    let mut rows = BatchSize::START;
    loop {
        match computed(rows) {
            Err(TrainError::OutOfMemory { .. }) if rows > 1 => rows /= 2,
            result => return result.map(|()| rows),
        }
    }
}

/// Computes the gradients of a batch of the `rows` longest examples, and forgets them.
fn gradients(run: &Run, data: &dyn TaskData, model: &TaskModel, rows: usize) -> Result<(), TrainError> {
    let train = &run.recipe.train;
    let Some(longest) = eval_batches(data.lengths(), rows).into_iter().next() else {
        return Ok(());
    };
    let batch = data.batch(&longest, train.seed, model.adapted.base(), &run.device)?;
    let loss = |hidden, cx: &mut Ctx<'_>| data.loss(model, hidden, &batch, cx);
    let pass = PassSeed {
        seed: train.seed,
        dropped_layers: 0,
    };
    let found = model.gradients(&batch.input, &loss, 1.0, pass, train.gradient_checkpointing)?;
    let squares = [
        squared_norm(&model.adapted.set, &found.adapter_grads),
        squared_norm(&model.head, &found.head_grads),
    ];
    for value in squares.into_iter().flatten().chain([found.loss]) {
        device_read::number(value)?;
    }
    Ok(())
}

impl From<usize> for BatchSize {
    fn from(rows: usize) -> Self {
        Self::Rows(rows)
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => rows.fmt(f),
            Self::Auto => f.write_str(Self::AUTO),
        }
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rows(rows) => rows.serialize(serializer),
            Self::Auto => Self::AUTO.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl de::Visitor<'_> for Read {
            type Value = BatchSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number of rows or \"{}\"", BatchSize::AUTO)
            }

            fn visit_u64<E: de::Error>(self, rows: u64) -> Result<BatchSize, E> {
                let rows = usize::try_from(rows);
                rows.map(BatchSize::Rows).map_err(|_| E::custom("too many rows"))
            }

            fn visit_i64<E: de::Error>(self, rows: i64) -> Result<BatchSize, E> {
                let refused = |_| E::invalid_value(de::Unexpected::Signed(rows), &self);
                u64::try_from(rows)
                    .map_err(refused)
                    .and_then(|rows| self.visit_u64(rows))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<BatchSize, E> {
                match word == BatchSize::AUTO {
                    true => Ok(BatchSize::Auto),
                    false => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }

        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_is_found() {
        let search = |most: usize| {
            let mut tried = Vec::new();
            let found = first_that_fits(|rows| {
                tried.push(rows);
                match rows > most {
                    true => Err(TrainError::OutOfMemory { bytes: 1 << 30 }),
                    false => Ok(()),
                }
            });
            (found, tried)
        };
        let (found, tried) = search(20);
        assert_eq!((found.unwrap(), tried), (16, vec![64, 32, 16]));
        assert_eq!(search(100).0.unwrap(), 64);
        let (found, tried) = search(0);
        assert!(matches!(found, Err(TrainError::OutOfMemory { .. })));
        assert_eq!(tried, [64, 32, 16, 8, 4, 2, 1]);
        let reason = "lost".to_owned();
        let other = first_that_fits(|_| Err(TrainError::Device { reason: reason.clone() }));
        assert!(matches!(other, Err(TrainError::Device { .. })));
    }

    #[test]
    fn recipes_have_a_number_or_the_word() {
        for size in [BatchSize::Rows(8), BatchSize::Auto] {
            let text = serde_json::to_string(&size).unwrap();
            assert_eq!(serde_json::from_str::<BatchSize>(&text).unwrap(), size, "{text}");
        }
        for wrong in ["-1", "\"most\"", "1.5", "true"] {
            let error = serde_json::from_str::<BatchSize>(wrong).unwrap_err().to_string();
            assert!(error.contains("a number of rows or \"auto\""), "{error}");
        }
    }
}
