//! What a run needs before its first step: the model with its adapter, and the data.

use std::collections::BTreeMap;

use adapters_adapted::Adapted;
use adapters_core::TrainingSchedule;
use adapters_models::Pretrained;
use burn::module::Module;

use crate::attach::{self, attach};
use crate::checkpoint::{Checkpoint, Optimizers, Position, Values};
use crate::error::TrainError;
use crate::fitting_batch;
use crate::frozen_layers::FrozenLayers;
use crate::run::Run;
use crate::run_data::RunData;
use crate::run_files::Truncated;
use crate::task_model::TaskModel;
use crate::tasks::{TaskContext, TaskData, tokenizer_of};

/// Data and names a run needs throughout.
pub(crate) struct Inputs {
    pub(crate) train: Box<dyn TaskData>,
    pub(crate) validation: Box<dyn TaskData>,
    pub(crate) test: Option<Box<dyn TaskData>>,
    pub(crate) steps: u64,
    pub(crate) steps_per_epoch: u64,
    pub(crate) total_params: usize,
    /// Training examples of each class.
    pub(crate) classes: Vec<(String, usize)>,
    pub(crate) truncated: Truncated,
}

/// Everything that changes while a run goes.
pub(crate) struct State {
    pub(crate) model: TaskModel,
    pub(crate) optimizers: Optimizers,
    pub(crate) position: Position,
    pub(crate) best: Option<Values>,
    /// Schedules of the adapters that have one, by name.
    pub(crate) schedules: Vec<(String, Box<dyn TrainingSchedule>)>,
    /// What is kept of the layers below the adapters, if anything is.
    pub(crate) frozen: Option<FrozenLayers>,
}

impl State {
    /// The state of an unfinished run.
    pub(crate) fn resumed(mut self, mut checkpoint: Checkpoint) -> Result<Self, TrainError> {
        (self.model, self.optimizers) = checkpoint.apply(self.model, self.optimizers)?;
        self.position = checkpoint.position;
        self.best = checkpoint.best;
        for (name, schedule) in &mut self.schedules {
            schedule.restore(checkpoint.schedules.remove(name).unwrap_or_default());
        }
        Ok(self)
    }
}

/// Loads the model and the data and attaches the adapter. A resumed run has the batch size and the time it began with.
pub(crate) fn prepare(
    run: &Run,
    digests: BTreeMap<String, String>,
    begun: Option<&Position>,
) -> Result<(State, Inputs, String), TrainError> {
    let recipe = &run.recipe;
    let pretrained = pretrained(run)?;
    let model = pretrained.model(&run.device)?;
    attach::check_length(recipe, &model, 0)?;
    let tokenizer = tokenizer_of(&pretrained, recipe.model.max_length)?;
    let RunData {
        mut options,
        train: for_training,
        validation: for_validation,
        classes,
    } = RunData::read(recipe)?;
    if let Some(begun) = begun {
        options.time = begun.time;
    }
    let cx = TaskContext {
        options: &options,
        pretrained: &pretrained,
        model: &model,
        tokenizer: tokenizer.as_ref(),
    };
    let task = recipe.head.kind.open(&cx)?;
    // The texts are not needed any more once they are tokens.
    let train = task.examples(&for_training, true, &cx)?;
    drop(for_training);
    let validation = task.examples(&for_validation, true, &cx)?;
    drop(for_validation);
    let test = recipe
        .data
        .test
        .as_deref()
        .map(|path| task.read(path, &cx))
        .transpose()?;
    let base_params = model.num_params();

    let mut adapted = Adapted::new(model);
    let head = match task.head() {
        Some(config) => Some(attach::head(run, config, adapted.base())?),
        None => None,
    };
    let trained = attach(run, &mut adapted, head.as_ref(), tokenizer.as_ref(), &*train)?;
    attach::check_length(recipe, adapted.base(), adapted.set.positions())?;
    attach::check_packing(recipe, &adapted)?;
    attach::check_drop_layers(recipe, adapted.base())?;
    // The base stays on the plain device; only adapters and head enter autodiff.
    let mut model = TaskModel { adapted, head }.train();
    for name in &trained.frozen {
        model.adapted.set.set_trainable(name, false)?;
    }
    let batch_size = match begun {
        Some(begun) => begun.batch_size,
        None => fitting_batch::rows(run, &*train, &model)?,
    };
    let frozen = match recipe.train.cache_frozen {
        true => Some(FrozenLayers::new(&recipe.train, &*train, &model.adapted)?),
        false => None,
    };
    let batches = train.lengths().len().div_ceil(batch_size);
    let steps_per_epoch = batches.div_ceil(recipe.train.accumulate) as u64;
    let steps = steps_per_epoch * recipe.train.epochs as u64;
    let inputs = Inputs {
        truncated: Truncated {
            train: train.truncated(),
            validation: validation.truncated(),
            test: test.as_ref().map(|test| test.truncated()),
        },
        validation,
        test,
        steps,
        steps_per_epoch,
        total_params: base_params + model.num_params(),
        classes,
        train,
    };
    let train = &recipe.train;
    let new_optimizer = || train.optimizer.init(train.weight_decay, train.momentum);
    let state = State {
        schedules: schedules(&model, steps),
        model,
        optimizers: Optimizers {
            adapters: new_optimizer(),
            head: new_optimizer(),
        },
        position: Position {
            recipe: recipe.clone(),
            digests,
            batch_size,
            time: options.time,
            step: 0,
            best: None,
            stale: 0,
            seconds: 0.0,
            stopped: false,
            ids: Default::default(),
        },
        best: None,
        frozen,
    };
    Ok((state, inputs, trained.report))
}

/// The base as this run trains on it.
fn pretrained(run: &Run) -> Result<Pretrained, TrainError> {
    let recipe = &run.recipe;
    let mut pretrained = run.pretrained()?.with_precision(recipe.model.precision);
    if let Some(dropout) = recipe.train.base_dropout {
        pretrained = pretrained.with_dropout(dropout);
    }
    recipe.check_model(&pretrained)?;
    Ok(pretrained)
}

/// Schedules of the adapters that train and have one, by name.
fn schedules(model: &TaskModel, steps: u64) -> Vec<(String, Box<dyn TrainingSchedule>)> {
    let training = model.adapted.set.iter().filter(|adapter| adapter.is_trainable());
    let scheduled = training.filter_map(|adapter| {
        let schedule = adapter.method().capabilities().schedule?;
        Some((adapter.name().to_owned(), schedule.schedule(adapter, steps)))
    });
    scheduled.collect()
}
