//! One optimizer step: the gradients of its batches, then the update.

use std::collections::{HashMap, HashSet};

use adapters_core::{AdapterSet, Ctx};
use burn::module::ParamId;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;

use crate::error::TrainError;
use crate::losses::StepLoss;
use crate::optimizer::{clip, gradient_values, split};
use crate::prepare::{Inputs, State};
use crate::recipe::TrainSection;
use crate::run::Run;
use crate::step_batches::StepBatch;
use crate::task_model::Pass;

/// One optimizer step over `accumulate` batches; returns its mean loss and the adapter's learning rate. It reads nothing from the
/// device but for methods that change their parameters with a schedule.
pub(crate) fn step(
    run: &Run,
    inputs: &Inputs,
    state: &mut State,
    batches: Vec<StepBatch>,
) -> Result<StepLoss<Tensor<1>>, TrainError> {
    let train = &run.recipe.train;
    let (loss, mut of_set, mut of_head) = gradients(run, inputs, state, batches)?;
    if let Some(max_norm) = train.clip_norm {
        let model = &state.model;
        clip(&model.adapted.set, &model.head, &mut of_set, &mut of_head, max_norm);
    }
    let factor = train.rate_factor(state.position.step, inputs.steps);
    let learning_rate = train.learning_rate * factor;
    let head_rate = train.head_learning_rate.unwrap_or(train.learning_rate) * factor;
    state.position.step += 1;
    update_set(train, state, of_set, learning_rate)?;
    state.model.head = state.optimizers.head.step(head_rate, state.model.head.clone(), of_head);
    Ok(StepLoss {
        step: state.position.step,
        loss,
        learning_rate,
    })
}

/// The mean loss of the batches, and its gradients for the set and for the head.
fn gradients(
    run: &Run,
    inputs: &Inputs,
    state: &mut State,
    batches: Vec<StepBatch>,
) -> Result<(Tensor<1>, GradientsParams, GradientsParams), TrainError> {
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
            None => Pass::of(run.recipe.train.gradient_checkpointing),
        };
        let pass = model.gradients(&batch, &loss, weight, seed, pass)?;
        losses.push(pass.loss);
        of_set.accumulate(&model.adapted.set, pass.adapter_grads);
        of_head.accumulate(&model.head, pass.head_grads);
    }
    let sum = losses.into_iter().reduce(|sum, loss| sum + loss);
    let loss = sum.unwrap_or_else(|| Tensor::zeros([1], &run.device));
    Ok((loss, of_set.grads(), of_head.grads()))
}

/// Takes the optimizer step of the adapters, and what the schedules of their methods do after it.
fn update_set(
    train: &TrainSection,
    state: &mut State,
    mut of_set: GradientsParams,
    learning_rate: f64,
) -> Result<(), TrainError> {
    let step = state.position.step;
    let mut set = std::mem::take(&mut state.model.adapted.set);
    let gradients = match state.schedules.is_empty() {
        true => HashMap::new(),
        false => gradient_values(&set, &of_set)?,
    };
    if let Some(ratio) = train.learning_rate_ratio {
        let of_group = split(&set, &mut of_set, &faster_params(&set));
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
        let changed = schedule.after_step(step, &adapter.values(), &of_adapter);
        if !changed.is_empty() {
            set.put_values(name, changed)?;
        }
    }
    state.model.adapted.set = set;
    Ok(())
}

/// Parameters that learn by `train.learning_rate_ratio` faster.
fn faster_params(set: &AdapterSet) -> HashSet<ParamId> {
    let faster = set.iter().flat_map(|adapter| {
        let faster = adapter.method().capabilities().faster;
        let of_adapter = adapter.params();
        of_adapter
            .filter(move |p| faster.is_some_and(|faster| faster.learns_faster(&p.param)))
            .map(|p| p.id)
    });
    faster.collect()
}
