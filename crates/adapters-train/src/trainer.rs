//! The training loop, from recipe to run folder, in reading order.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::thread;
use std::time::Instant;

use adapters_adapted::Adapted;
use adapters_core::{Ctx, TrainingSchedule};
use adapters_store::StoreError;
use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::Tensor;

use crate::attach::{self, attach};
use crate::checkpoint::{self, Best, Checkpoint, Optimizers, Position, Values};
use crate::digest::digests;
use crate::error::TrainError;
use crate::evaluate::Evaluation;
use crate::export::save_all;
use crate::fitting_batch;
use crate::frozen_layers::FrozenLayers;
use crate::fusion_run::train_stages;
use crate::losses::{Losses, StepLoss};
use crate::metrics::falls;
use crate::optimizer::{clip, gradient_values, split};
use crate::recipe::Keep;
use crate::report::{Event, Outcome};
use crate::run::Run;
use crate::run_data::RunData;
use crate::run_files::{RunLog, Summary, Truncated, peak_rss_bytes};
use crate::run_folder;
#[cfg(feature = "plots")]
use crate::run_pictures;
use crate::step_batches::{StepBatch, StepBatches};
use crate::task_model::{Pass, TaskModel};
use crate::tasks::{TaskContext, TaskData, tokenizer_of};

/// Files of a run folder.
const CHECKPOINT: &str = "checkpoint.safetensors";
const SUMMARY: &str = "summary.json";
pub(crate) const METRICS: &str = "metrics.jsonl";

/// Data and names a run needs throughout.
struct Inputs {
    train: Box<dyn TaskData>,
    validation: Box<dyn TaskData>,
    test: Option<Box<dyn TaskData>>,
    steps: u64,
    steps_per_epoch: u64,
    total_params: usize,
    /// Training examples of each class.
    classes: Vec<(String, usize)>,
    truncated: Truncated,
}

/// Everything that changes while a run goes.
struct State {
    model: TaskModel,
    optimizers: Optimizers,
    position: Position,
    best: Option<Values>,
    /// Schedules of the adapters that have one, by name.
    schedules: Vec<(String, Box<dyn TrainingSchedule>)>,
    /// What is kept of the layers below the adapters, if anything is.
    frozen: Option<FrozenLayers>,
}

/// Runs a recipe to its end, or until `on_event` breaks: then the run stops where it is, as if it were killed, and
/// the next call continues from the last checkpoint with the same result as a run that was never stopped.
///
/// # Errors
///
/// [`TrainError`]; the last checkpoint then stays.
pub fn train(run: &Run, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Outcome, TrainError> {
    let recipe = &run.recipe;
    run_folder::make(&run.dir)?;
    if let Some(fusion) = &recipe.fusion {
        return train_stages(run, fusion, on_event);
    }
    let _lock = run_folder::lock(&run.dir)?;
    let unfinished = Checkpoint::read(&run.dir.join(CHECKPOINT))?;
    if let Some(field) = unfinished.as_ref().and_then(|c| c.position.recipe.difference(recipe)) {
        return Err(TrainError::OtherRun {
            path: run.dir.clone(),
            field,
        });
    }
    let digests = digests(run)?;
    if let Some(checkpoint) = &unfinished {
        let before = &checkpoint.position.digests;
        if let Some((field, _)) = digests
            .iter()
            .find(|(field, digest)| before.get(*field) != Some(*digest))
        {
            return Err(TrainError::Changed {
                path: run.dir.clone(),
                field: field.clone(),
            });
        }
    }
    let path = run.dir.join("recipe.toml");
    let recipe_text = toml::to_string(recipe).map_err(|e| TrainError::Checkpoint {
        path: path.clone(),
        reason: e.to_string(),
    })?;
    adapters_store::atomic::write(&path, recipe_text.as_bytes())?;

    let begun = unfinished.as_ref().map(|checkpoint| &checkpoint.position);
    let (mut state, inputs, attached) = prepare(run, digests, begun)?;
    let mut stopped = on_event(Event::Ready {
        steps: inputs.steps,
        batch_size: state.position.batch_size,
        trainable_params: trainable_params(&state.model),
        total_params: inputs.total_params,
        classes: inputs.classes.clone(),
        truncated: inputs.truncated,
        attached,
    })
    .is_break();
    if let Some(mut checkpoint) = unfinished {
        (state.model, state.optimizers) = checkpoint.apply(state.model, state.optimizers)?;
        state.position = checkpoint.position;
        state.best = checkpoint.best;
        for (name, schedule) in &mut state.schedules {
            schedule.restore(checkpoint.schedules.remove(name).unwrap_or_default());
        }
        stopped |= on_event(Event::Resumed {
            step: state.position.step,
        })
        .is_break();
    }
    let events = recipe.train.tensorboard.then(|| run.dir.join("tensorboard"));
    let mut log = RunLog::open(&run.dir.join(METRICS), events.as_deref(), state.position.step)?;

    let started = Instant::now();
    let seconds_before = state.position.seconds;
    let batches = StepBatches {
        run,
        data: &*inputs.train,
        base: state.model.adapted.base().clone(),
        batch_size: state.position.batch_size,
        steps_per_epoch: inputs.steps_per_epoch,
    };
    let first = state.position.step;
    let mut losses = Losses::new(recipe.train.log_every, &run.device);
    thread::scope(|scope| {
        let batches = batches.ahead(first, inputs.steps, scope);
        while !stopped && !state.position.stopped && state.position.step < inputs.steps {
            let Ok(of_step) = batches.recv() else {
                // The thread has panicked; the scope hands the panic on.
                break;
            };
            losses.push(step(run, &inputs, &mut state, of_step?)?);
            let now = state.position.step;
            let every = recipe.train.evaluate_every.unwrap_or(inputs.steps_per_epoch);
            let [evaluates, saves] =
                [every, recipe.train.checkpoint_every].map(|every| now.is_multiple_of(every) || now == inputs.steps);
            // Nothing is saved that a loss has not been seen of.
            if losses.are_due() || evaluates || saves {
                for of_step in losses.read()? {
                    log.push(of_step.step, &of_step.figures())?;
                    stopped |= on_event(of_step.event()).is_break();
                }
            }
            if evaluates {
                let (evaluation, best) = validate(run, &inputs, &mut state)?;
                let figures = evaluation.figures.values.iter().skip(1);
                let figures: Vec<(String, f64)> =
                    figures.map(|(name, value)| (format!("eval_{name}"), *value)).collect();
                let mut values = vec![("eval_loss", evaluation.loss), ("eval_accuracy", evaluation.score())];
                values.extend(figures.iter().map(|(name, value)| (name.as_str(), *value)));
                log.push(now, &values)?;
                stopped |= on_event(Event::Evaluated {
                    step: now,
                    evaluation,
                    best,
                })
                .is_break();
                let patience = recipe.train.early_stopping.unwrap_or(usize::MAX);
                if state.position.stale >= patience && now < inputs.steps {
                    state.position.stopped = true;
                    stopped |= on_event(Event::StoppedEarly { step: now }).is_break();
                }
            }
            if saves || state.position.stopped {
                state.position.seconds = seconds_before + started.elapsed().as_secs_f64();
                let path = run.dir.join(CHECKPOINT);
                checkpoint::write(
                    &path,
                    &state.position,
                    &state.model,
                    state.best.as_ref(),
                    &state.optimizers,
                    &state.schedules,
                )?;
            }
        }
        Ok::<_, TrainError>(())
    })?;
    if stopped {
        return Ok(Outcome::stopped(&run.dir));
    }
    let seconds = seconds_before + started.elapsed().as_secs_f64();
    finish(run, &inputs, state, seconds, on_event)
}

/// Loads the model and the data and attaches the adapter. A resumed run has the batch size and the time it began with.
fn prepare(
    run: &Run,
    digests: BTreeMap<String, String>,
    begun: Option<&Position>,
) -> Result<(State, Inputs, String), TrainError> {
    let recipe = &run.recipe;
    let device = &run.device;
    let mut pretrained = run.pretrained()?.with_precision(recipe.model.precision);
    if let Some(dropout) = recipe.train.base_dropout {
        pretrained = pretrained.with_dropout(dropout);
    }
    recipe.check_model(&pretrained)?;
    let model = pretrained.model(device)?;
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
    if let Some(drop) = recipe
        .train
        .drop_layers
        .filter(|drop| drop.most >= adapted.base().num_layers())
    {
        return Err(TrainError::Value {
            field: "train.drop_layers",
            expected: format!("fewer than the {} layers of the model", adapted.base().num_layers()),
            found: drop.to_string(),
        });
    }
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
    let training = model.adapted.set.iter().filter(|adapter| adapter.is_trainable());
    let schedules = training
        .filter_map(|adapter| {
            Some((
                adapter.name().to_owned(),
                adapter.method().capabilities().schedule?.schedule(adapter, steps),
            ))
        })
        .collect();
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
    let new_optimizer = || {
        recipe
            .train
            .optimizer
            .init(recipe.train.weight_decay, recipe.train.momentum)
    };
    let state = State {
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
        schedules,
        frozen,
    };
    Ok((state, inputs, trained.report))
}

/// One optimizer step over `accumulate` batches; returns its mean loss and the adapter's learning rate. It reads nothing from the
/// device but for methods that change their parameters with a schedule.
fn step(
    run: &Run,
    inputs: &Inputs,
    state: &mut State,
    batches: Vec<StepBatch>,
) -> Result<StepLoss<Tensor<1>>, TrainError> {
    let train = &run.recipe.train;
    let done = state.position.step;
    let predictions: usize = batches.iter().map(|of_pass| of_pass.batch.predictions).sum();

    let mut of_set = GradientsAccumulator::new();
    let mut of_head = GradientsAccumulator::new();
    let mut losses = Vec::new();
    for StepBatch {
        examples,
        batch,
        seed,
        pass,
    } in batches
    {
        if let Some(frozen) = &mut state.frozen {
            frozen.fill(&examples, &*inputs.train, &state.model.adapted, &run.device)?;
        }
        // What cools with training is told how long it has been trained.
        state.model.adapted.set.set_passes(pass);
        let model = &state.model;
        // Weighted by predictions, so that a step over many batches is the step over one large batch.
        let weight = batch.predictions as f64 / predictions.max(1) as f64;
        let loss = |hidden, cx: &mut Ctx<'_>| inputs.train.loss(model, hidden, &batch, cx);
        let above = state
            .frozen
            .as_ref()
            .map(|frozen| |input, cx: &mut Ctx<'_>| frozen.hidden_states(model.adapted.base(), input, &examples, cx));
        let pass = match &above {
            Some(above) => Pass::Above(above),
            None => Pass::of(train.gradient_checkpointing),
        };
        let pass = model.gradients(&batch, &loss, weight, seed, pass)?;
        losses.push(pass.loss);
        of_set.accumulate(&model.adapted.set, pass.adapter_grads);
        of_head.accumulate(&model.head, pass.head_grads);
    }
    let (mut of_set, mut of_head) = (of_set.grads(), of_head.grads());
    if let Some(max_norm) = train.clip_norm {
        clip(
            &state.model.adapted.set,
            &state.model.head,
            &mut of_set,
            &mut of_head,
            max_norm,
        );
    }
    let factor = train.rate_factor(done, inputs.steps);
    let learning_rate = train.learning_rate * factor;
    let head_rate = train.head_learning_rate.unwrap_or(train.learning_rate) * factor;
    let mut set = std::mem::take(&mut state.model.adapted.set);
    let gradients = match state.schedules.is_empty() {
        true => HashMap::new(),
        false => gradient_values(&set, &of_set)?,
    };
    if let Some(ratio) = train.learning_rate_ratio {
        let faster = set.iter().flat_map(|adapter| {
            let faster = adapter.method().capabilities().faster;
            let of_adapter = adapter.params();
            of_adapter
                .filter(move |p| faster.is_some_and(|faster| faster.learns_faster(&p.param)))
                .map(|p| p.id)
        });
        let group = faster.collect();
        let of_group = split(&set, &mut of_set, &group);
        set = state.optimizers.adapters.step(learning_rate * ratio, set, of_group);
    }
    set = state.optimizers.adapters.step(learning_rate, set, of_set);
    for (name, schedule) in &mut state.schedules {
        let adapter = set.attached(name)?;
        let of_adapter = adapter
            .params()
            .filter_map(|p| {
                Some((
                    (p.info.map(|i| i.site), p.param.into_owned()),
                    gradients.get(&p.id)?.clone(),
                ))
            })
            .collect();
        let changed = schedule.after_step(done + 1, &adapter.values(), &of_adapter);
        if !changed.is_empty() {
            set.put_values(name, changed)?;
        }
    }
    state.model.adapted.set = set;
    state.model.head = state.optimizers.head.step(head_rate, state.model.head.clone(), of_head);

    state.position.step += 1;
    let sum = losses.into_iter().reduce(|sum, loss| sum + loss);
    Ok(StepLoss {
        step: state.position.step,
        loss: sum.unwrap_or_else(|| Tensor::zeros([1], &run.device)),
        learning_rate,
    })
}

/// Parameters that train: the adapter's and the head's, not those of an adapter below.
fn trainable_params(model: &TaskModel) -> usize {
    model.adapted.set.num_trainable_params() + model.head.num_params()
}

/// Evaluates on the validation data and keeps the weights if they are the best so far.
fn validate(run: &Run, inputs: &Inputs, state: &mut State) -> Result<(Evaluation, bool), TrainError> {
    let batch_size = run.recipe.train.eval_batch_size;
    let evaluation = inputs
        .validation
        .evaluate(&state.model.valid(), batch_size, &run.device)?;
    if !evaluation.loss.is_finite() {
        return Err(TrainError::Unusable {
            step: state.position.step,
            loss: evaluation.loss,
        });
    }
    let position = &mut state.position;
    let metric = run.recipe.metric().or(evaluation.main().map(|(name, _)| name));
    let figure = metric.and_then(|name| evaluation.figure(name)).unwrap_or_default();
    let best = position.best.is_none_or(|best| match metric.is_some_and(falls) {
        true => figure < best.figure,
        false => figure > best.figure,
    });
    if best {
        position.best = Some(Best {
            score: evaluation.score(),
            loss: evaluation.loss,
            figure,
        });
        position.stale = 0;
        state.best = Some(checkpoint::values(&state.model)?);
    } else {
        position.stale += 1;
    }
    Ok((evaluation, best))
}

/// Tests and writes what a finished run leaves; the checkpoint goes last.
fn finish(
    run: &Run,
    inputs: &Inputs,
    state: State,
    seconds: f64,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome, TrainError> {
    let recipe = &run.recipe;
    let trainable_params = trainable_params(&state.model);
    let model = match (&state.best, recipe.train.keep) {
        (Some(best), Keep::Best) => {
            checkpoint::with_values(state.model, best, None).map_err(|reason| TrainError::Checkpoint {
                path: run.dir.join(CHECKPOINT),
                reason,
            })?
        }
        _ => state.model,
    }
    .valid();
    let test = match &inputs.test {
        Some(test) => Some(test.evaluate(&model, recipe.train.eval_batch_size, &run.device)?),
        None => None,
    };
    if let Some(evaluation) = &test {
        // Nothing is left to stop.
        let _ = on_event(Event::Tested {
            evaluation: evaluation.clone(),
        });
    }
    let adapter = run.dir.join("adapter");
    #[cfg(feature = "plots")]
    run_pictures::draw(run, test.as_ref())?;
    let mut summary = Summary {
        test_accuracy: test.as_ref().map(Evaluation::score),
        validation_accuracy: state.position.best.map(|best| best.score),
        trainable_params,
        total_params: inputs.total_params,
        steps: state.position.step,
        seconds,
        peak_rss_bytes: peak_rss_bytes(),
        truncated: inputs.truncated,
        ..Summary::default()
    };
    summary
        .extra
        .insert("adapter".to_owned(), recipe.adapter.name.clone().into());
    summary.extra.insert("seed".to_owned(), recipe.train.seed.into());
    let rows = state.position.batch_size;
    summary.extra.insert("batch_size".to_owned(), rows.into());
    let known_by = test.as_ref().and_then(Evaluation::main).map(|(name, _)| name);
    let extra = [
        ("metric", known_by.unwrap_or(recipe.head.kind.metrics[0]).into()),
        ("test_loss", test.as_ref().map(|test| test.loss).into()),
        (
            "test_figures",
            test.iter()
                .flat_map(|test| &test.figures.values)
                .map(|(name, value)| (*name, *value))
                .collect(),
        ),
    ];
    summary.extra.extend(extra.map(|(key, value)| (key.to_owned(), value)));
    let saved = save_all(run, &model, &summary)?;
    summary.write(run.dir.join(SUMMARY))?;
    let path = run.dir.join(CHECKPOINT);
    fs::remove_file(&path)
        .or_else(|e| if path.exists() { Err(e) } else { Ok(()) })
        .map_err(|source| StoreError::Folder {
            path: run.dir.clone(),
            source,
        })?;
    Ok(Outcome {
        dir: run.dir.clone(),
        adapter,
        format: saved.format,
        peft: saved.peft,
        head_note: saved.head_note,
        summary,
        finished: true,
    })
}
