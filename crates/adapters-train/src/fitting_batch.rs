//! The largest batch that the device has memory for.

use adapters_core::Ctx;

use crate::batch_size::BatchSize;
use crate::batches::eval_batches;
use crate::device_read;
use crate::error::TrainError;
use crate::optimizer::squared_norm;
use crate::run::Run;
use crate::task_model::{Pass, PassSeed, TaskModel};
use crate::tasks::TaskData;

/// What the search for [`BatchSize::Auto`] begins with.
const START: usize = 64;

/// The rows of a batch for a run that has not begun.
///
/// # Errors
///
/// [`TrainError::OutOfMemory`] if there is none for a single row, and those of batch and gradients.
pub(crate) fn rows(run: &Run, data: &dyn TaskData, model: &TaskModel) -> Result<usize, TrainError> {
    match run.recipe.train.batch_size {
        BatchSize::Rows(rows) => Ok(rows),
        BatchSize::Auto => first_that_fits(|rows| gradients(run, data, model, rows)),
    }
}

/// The first of 64, 32, .. rows for which `computed` does not run out of memory.
fn first_that_fits(mut computed: impl FnMut(usize) -> Result<(), TrainError>) -> Result<usize, TrainError> {
    let mut rows = START;
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
    let seed = PassSeed {
        seed: train.seed,
        dropped_layers: 0,
    };
    let found = model.gradients(&batch, &loss, 1.0, seed, Pass::of(train.gradient_checkpointing))?;
    let squares = [
        squared_norm(&model.adapted.set, &found.adapter_grads),
        squared_norm(&model.head, &found.head_grads),
    ];
    for value in squares.into_iter().flatten().chain([found.loss]) {
        device_read::number(value)?;
    }
    Ok(())
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
}
