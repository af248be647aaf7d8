//! The training loop, from recipe to run folder, in reading order.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::thread;
use std::time::Instant;

use adapters_store::StoreError;
use burn::module::Module;
use serde_json::Map;

use crate::checkpoint::{self, Best, Checkpoint, Position};
use crate::digest::digests;
use crate::error::TrainError;
use crate::evaluate::Evaluation;
use crate::export::save_all;
use crate::fusion_run::train_stages;
use crate::losses::Losses;
use crate::metrics::falls;
use crate::prepare::{Inputs, State, prepare};
use crate::recipe::Keep;
use crate::report::{Event, Outcome};
use crate::run::Run;
use crate::run_files::{RunLog, Summary, peak_rss_bytes};
use crate::run_folder;
#[cfg(feature = "plots")]
use crate::run_pictures;
use crate::step::step;
use crate::step_batches::StepBatches;
use crate::task_model::TaskModel;

/// Files of a run folder.
const CHECKPOINT: &str = "checkpoint.safetensors";
pub(crate) const METRICS: &str = "metrics.jsonl";

/// What hears of a run, and may stop it.
type OnEvent<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// Runs a recipe to its end, or until `on_event` breaks: then the run stops where it is, as if it were killed, and
/// the next call continues from the last checkpoint with the same result as a run that was never stopped.
///
/// # Errors
///
/// [`TrainError`]; the last checkpoint then stays.
pub fn train(run: &Run, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Outcome, TrainError> {
    run_folder::make(&run.dir)?;
    if let Some(fusion) = &run.recipe.fusion {
        return train_stages(run, fusion, on_event);
    }
    let _lock = run_folder::lock(&run.dir)?;
    let unfinished = Checkpoint::read(&run.dir.join(CHECKPOINT))?;
    let begun = unfinished.as_ref().map(|checkpoint| &checkpoint.position);
    let digests = checked_digests(run, begun)?;
    write_recipe(run)?;

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
    if let Some(checkpoint) = unfinished {
        state = state.resumed(checkpoint)?;
        let step = state.position.step;
        stopped |= on_event(Event::Resumed { step }).is_break();
    }
    match run_steps(run, &inputs, &mut state, stopped, on_event)? {
        true => Ok(Outcome::stopped(&run.dir)),
        false => finish(run, &inputs, state, on_event),
    }
}

/// Fingerprints of what the run reads. Refuses to resume a run of another recipe, or after what it reads has changed.
fn checked_digests(run: &Run, begun: Option<&Position>) -> Result<BTreeMap<String, String>, TrainError> {
    if let Some(field) = begun.and_then(|begun| begun.recipe.difference(&run.recipe)) {
        return Err(TrainError::OtherRun {
            path: run.dir.clone(),
            field,
        });
    }
    let digests = digests(run)?;
    let is_other = |begun: &Position, (field, digest): (&String, &String)| begun.digests.get(field) != Some(digest);
    match begun.and_then(|begun| digests.iter().find(|found| is_other(begun, *found))) {
        Some((field, _)) => Err(TrainError::Changed {
            path: run.dir.clone(),
            field: field.clone(),
        }),
        None => Ok(digests),
    }
}

/// Writes the recipe as it runs into the run folder.
fn write_recipe(run: &Run) -> Result<(), TrainError> {
    let path = run.dir.join("recipe.toml");
    let text = toml::to_string(&run.recipe).map_err(|e| TrainError::Checkpoint {
        path: path.clone(),
        reason: e.to_string(),
    })?;
    Ok(adapters_store::atomic::write(&path, text.as_bytes())?)
}

/// Takes the steps that are left, with their evaluations and checkpoints; whether the caller stopped the run.
fn run_steps(
    run: &Run,
    inputs: &Inputs,
    state: &mut State,
    mut stopped: bool,
    on_event: &mut OnEvent<'_>,
) -> Result<bool, TrainError> {
    let train = &run.recipe.train;
    let events = train.tensorboard.then(|| run.dir.join("tensorboard"));
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
    let mut losses = Losses::new(train.log_every, &run.device);
    thread::scope(|scope| {
        let batches = batches.ahead(first, inputs.steps, scope);
        while !stopped && !state.position.stopped && state.position.step < inputs.steps {
            let Ok(of_step) = batches.recv() else {
                // The thread has panicked; the scope hands the panic on.
                break;
            };
            losses.push(step(run, inputs, state, of_step?)?);
            let now = state.position.step;
            let every = train.evaluate_every.unwrap_or(inputs.steps_per_epoch);
            let [evaluates, saves] =
                [every, train.checkpoint_every].map(|every| now.is_multiple_of(every) || now == inputs.steps);
            // Nothing is saved that a loss has not been seen of.
            if losses.are_due() || evaluates || saves {
                for of_step in losses.read()? {
                    log.push(of_step.step, &of_step.figures())?;
                    stopped |= on_event(of_step.event()).is_break();
                }
            }
            if evaluates {
                stopped |= evaluate(run, inputs, state, &mut log, on_event)?;
            }
            if saves || state.position.stopped {
                state.position.seconds = seconds_before + started.elapsed().as_secs_f64();
                checkpoint::write(
                    &run.dir.join(CHECKPOINT),
                    &state.position,
                    &state.model,
                    state.best.as_ref(),
                    &state.optimizers,
                    &state.schedules,
                )?;
            }
        }
        Ok(stopped)
    })
}

/// Parameters that train: the adapter's and the head's, not those of an adapter below.
fn trainable_params(model: &TaskModel) -> usize {
    model.adapted.set.num_trainable_params() + model.head.num_params()
}

/// Evaluates and logs the figures, and ends the run where they have not become better for too long; whether the caller stops it.
fn evaluate(
    run: &Run,
    inputs: &Inputs,
    state: &mut State,
    log: &mut RunLog,
    on_event: &mut OnEvent<'_>,
) -> Result<bool, TrainError> {
    let step = state.position.step;
    let (evaluation, best) = validate(run, inputs, state)?;
    let figures = evaluation.figures.values.iter();
    let figures: Vec<(String, f64)> = figures.map(|(name, value)| (format!("eval_{name}"), *value)).collect();
    let mut values = vec![("eval_loss", evaluation.loss)];
    values.extend(figures.iter().map(|(name, value)| (name.as_str(), *value)));
    log.push(step, &values)?;
    let mut stopped = on_event(Event::Evaluated { step, evaluation, best }).is_break();
    let patience = run.recipe.train.early_stopping.unwrap_or(usize::MAX);
    if state.position.stale >= patience && step < inputs.steps {
        state.position.stopped = true;
        stopped |= on_event(Event::StoppedEarly { step }).is_break();
    }
    Ok(stopped)
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
    let best = position
        .best
        .as_ref()
        .is_none_or(|best| match metric.is_some_and(falls) {
            true => figure < best.figure,
            false => figure > best.figure,
        });
    if best {
        position.best = Some(Best {
            metric: evaluation.main().map(|(name, _)| name.to_owned()),
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
fn finish(run: &Run, inputs: &Inputs, state: State, on_event: &mut OnEvent<'_>) -> Result<Outcome, TrainError> {
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
    let of_test = test.iter().flat_map(|test| &test.figures.values);
    let best = state.position.best;
    let summary = Summary {
        metric: best
            .as_ref()
            .and_then(|best| best.metric.clone())
            .unwrap_or_else(|| recipe.head.kind.metrics[0].to_owned()),
        test_figures: of_test.map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        validation_score: best.map(|best| best.score),
        test_loss: test.as_ref().map(|test| test.loss),
        adapter: recipe.adapter.name.clone(),
        seed: recipe.train.seed,
        batch_size: state.position.batch_size,
        trainable_params,
        total_params: inputs.total_params,
        steps: state.position.step,
        seconds: state.position.seconds,
        peak_rss_bytes: peak_rss_bytes(),
        truncated: inputs.truncated,
        extra: Map::new(),
    };
    #[cfg(feature = "plots")]
    run_pictures::draw(run, &summary.metric, test.as_ref())?;
    let saved = save_all(run, &model, &summary)?;
    summary.write(run.dir.join(Summary::FILE))?;
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
