//! The batches of the steps to come, made on a thread of their own while the device computes.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use adapters_models::Model;

use crate::batches::epoch_batches;
use crate::error::TrainError;
use crate::inputs::Batch;
use crate::run::Run;
use crate::seeds::pass_seed;
use crate::task_model::PassSeed;
use crate::tasks::TaskData;

/// How many steps are made ahead.
const AHEAD: usize = 1;

/// A batch and the choices of its pass.
pub(crate) struct StepBatch {
    /// Which examples are in it.
    pub(crate) examples: Vec<usize>,
    /// What the model reads, and the targets.
    pub(crate) batch: Batch,
    /// Random choices of the pass.
    pub(crate) seed: PassSeed,
    /// Passes before this one.
    pub(crate) pass: u64,
}

/// What decides which batches a step has.
pub(crate) struct StepBatches<'a> {
    /// The run.
    pub(crate) run: &'a Run,
    /// The training examples.
    pub(crate) data: &'a dyn TaskData,
    /// The model that reads them.
    pub(crate) base: Model,
    /// Rows of a batch.
    pub(crate) batch_size: usize,
    /// Steps of an epoch.
    pub(crate) steps_per_epoch: u64,
}

impl<'a> StepBatches<'a> {
    /// Those of the steps from `first` on, in order. The thread ends after `steps`, after an error, and when nobody receives.
    pub(crate) fn ahead<'scope>(
        self,
        first: u64,
        steps: u64,
        scope: &'scope Scope<'scope, '_>,
    ) -> Receiver<Result<Vec<StepBatch>, TrainError>>
    where
        'a: 'scope,
    {
        let (send, receive) = sync_channel(AHEAD);
        scope.spawn(move || {
            let mut epoch = (u64::MAX, Vec::new());
            for step in first..steps {
                let of_step = self.of(step, &mut epoch);
                let is_last = of_step.is_err();
                if send.send(of_step).is_err() || is_last {
                    break;
                }
            }
        });
        receive
    }

    /// The batches of a step; `epoch` holds those of the epoch that was asked for last.
    fn of(&self, step: u64, epoch: &mut (u64, Vec<Vec<usize>>)) -> Result<Vec<StepBatch>, TrainError> {
        let train = &self.run.recipe.train;
        let (index, in_epoch) = (step / self.steps_per_epoch, (step % self.steps_per_epoch) as usize);
        if epoch.0 != index {
            let order = self.run.recipe.order();
            let batches = epoch_batches(self.data.lengths(), self.batch_size, train.seed, index as usize, order);
            *epoch = (index, batches);
        }
        let mine = epoch.1.iter().skip(in_epoch * train.accumulate).take(train.accumulate);
        mine.zip(step * train.accumulate as u64..)
            .map(|(examples, pass)| {
                let seed = pass_seed(train.seed, pass);
                let dropped_layers = train.drop_layers.map_or(0, |drop| drop.draw(seed));
                Ok(StepBatch {
                    batch: self.data.batch(examples, seed, &self.base, &self.run.device)?,
                    examples: examples.clone(),
                    seed: PassSeed { seed, dropped_layers },
                    pass,
                })
            })
            .collect()
    }
}
