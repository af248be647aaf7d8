//! What the tasks of language models have in common: targets are tokens at positions.

use adapters_core::Ctx;
use adapters_models::heads::Targets;
use adapters_models::{Input, LinearScores};
use adapters_nn::ops::cross_entropy;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::task::{EVALUATION, Example, Task, of_examples};
use super::text::ints;
use crate::batches::eval_batches;
use crate::device_read;
use crate::error::TrainError;
use crate::evaluate::Evaluation;
use crate::inputs::{Batch, hidden_states};
use crate::metrics::Figures;
use crate::task_model::TaskModel;

/// A batch with a target token for the hidden state at each position.
pub(super) fn batch(input: Input, positions: Vec<(usize, usize)>, tokens: Vec<i64>, device: &Device) -> Batch {
    Batch {
        input,
        predictions: tokens.len(),
        target_positions: positions,
        targets: Some(Targets::Classes(ints(tokens, device))),
        tasks: Vec::new(),
    }
}

/// Targets whose scores of the whole vocabulary are held at a time in an evaluation.
const HELD_TARGETS: usize = 256;

/// Scores and target tokens, `[1, targets, vocab]` and `[targets]`.
fn predicted(
    model: &TaskModel,
    hidden: Tensor<3>,
    batch: &Batch,
    cx: &mut Ctx<'_>,
) -> Result<(LinearScores, Tensor<1, Int>), TrainError> {
    match &batch.targets {
        Some(Targets::Classes(tokens)) => Ok((model.token_scores(hidden, batch, cx)?, tokens.clone())),
        _ => Err(TrainError::Value {
            field: "data",
            expected: "a target token at every position".to_owned(),
            found: "none".to_owned(),
        }),
    }
}

/// Mean cross entropy of the target tokens, and of those that an adapter inserts for them to be learned.
pub(super) fn loss(
    model: &TaskModel,
    hidden: Tensor<3>,
    batch: &Batch,
    cx: &mut Ctx<'_>,
) -> Result<Tensor<1>, TrainError> {
    let (scores, tokens) = predicted(model, hidden.clone(), batch, cx)?;
    let losses = scores.cross_entropy(tokens);
    let Some(of_context) = context_losses(model, hidden, cx)? else {
        return Ok(losses.mean());
    };
    let count = losses.dims()[0] + of_context.dims()[0];
    Ok((losses.sum() + of_context.sum()) / count as f64)
}

/// Losses of the inserted tokens that the active adapter predicts in training, times their weights; `None` without any.
fn context_losses(model: &TaskModel, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Result<Option<Tensor<1>>, TrainError> {
    let set = &model.adapted.set;
    let active = set.active().into_iter().flat_map(|active| active.adapters());
    let mut targets = Vec::new();
    for name in active {
        let context = set.attached(name)?.method().capabilities().context;
        targets.extend(context.map(|context| context.predicted()).unwrap_or_default());
    }
    let [rows, _, width] = hidden.dims();
    if targets.is_empty() {
        return Ok(None);
    }
    let [inserted] = cx.pass().inserted.as_slice() else {
        return Err(TrainError::Value {
            field: "adapter.config",
            expected: "one adapter that inserts tokens, as its context is learned".to_owned(),
            found: format!("{} that do", cx.pass().inserted.len()),
        });
    };
    let (first, device) = (inserted.at, hidden.device());
    let before = targets.iter().map(|target| (first + target.index - 1) as i64);
    let chosen = hidden.select(1, ints(before.collect(), &device.clone().inner()));
    let each = targets.len();
    let scores = model.vocabulary_scores(chosen.reshape([1, rows * each, width]), cx)?;
    let tokens = targets.iter().map(|target| i64::from(target.token)).collect::<Vec<_>>();
    let weights: Vec<f32> = targets.iter().map(|target| target.weight as f32).collect();
    let weights = Tensor::<1>::from_data(
        TensorData::new(weights.repeat(rows), [rows * each]),
        &device.clone().inner(),
    );
    let losses = scores.cross_entropy(ints(tokens.repeat(rows), &device.inner()));
    Ok(Some(losses * weights))
}

/// Mean loss over all target tokens, its exponential, and the fraction of the tokens that is predicted right.
pub(super) fn evaluate<T: Task>(
    task: &T,
    model: &TaskModel,
    examples: &[T::Example],
    tasks: &[Option<usize>],
    batch_size: usize,
    device: &Device,
) -> Result<Evaluation, TrainError> {
    let lengths: Vec<usize> = examples.iter().map(Example::length).collect();
    let (mut loss, mut right, mut count) = (0.0, 0.0, 0usize);
    for indices in eval_batches(&lengths, batch_size) {
        let rows: Vec<_> = indices.iter().map(|index| (*index, &examples[*index])).collect();
        let batch = task.batch(&rows, EVALUATION, model.adapted.base(), device)?;
        let batch = batch.with_tasks(&of_examples(tasks, &indices));
        let mut cx = Ctx::new(&model.adapted.set).with_tasks(batch.tasks.iter().copied())?;
        let hidden = hidden_states(model.adapted.base(), batch.input.clone(), &mut cx)?;
        let (scores, tokens) = predicted(model, hidden, &batch, &mut cx)?;
        let [targets] = tokens.dims();
        for first in (0..targets).step_by(HELD_TARGETS) {
            let end = targets.min(first + HELD_TARGETS);
            let (scores, tokens) = (scores.at_positions(first, end), tokens.clone().slice(first..end));
            let scores = scores.whole().squeeze_dim::<2>(0);
            let best = scores.clone().argmax(1).squeeze_dim::<1>(1);
            right += device_read::number(best.equal(tokens.clone()).float().sum())?;
            loss += device_read::number(cross_entropy(scores, tokens).sum())?;
        }
        count += targets;
    }
    let count = count.max(1) as f64;
    let loss = loss / count;
    Ok(Evaluation {
        loss,
        figures: Figures::new([("accuracy", right / count), ("perplexity", loss.exp())]),
        outputs: Vec::new(),
    })
}

/// The methods of [`Task`] that all language-model tasks have alike: they have no outputs of a head. A task that writes has `answers`,
/// and says what is `asked` in an example.
macro_rules! of_tokens {
    (answers) => {
        fn evaluate(
            &self,
            model: &TaskModel,
            examples: &[Self::Example],
            tasks: &[Option<usize>],
            batch_size: usize,
            device: &Device,
        ) -> Result<Evaluation, TrainError> {
            let mut evaluation = super::tokens::evaluate(self, model, examples, tasks, batch_size, device)?;
            if let Some(answers) = &self.answers {
                let asked: Vec<_> = examples.iter().flat_map(Self::asked).collect();
                answers.add_figures(&mut evaluation, model, &asked, batch_size)?;
            }
            Ok(evaluation)
        }

        super::tokens::of_tokens!(shared);
    };
    () => {
        fn evaluate(
            &self,
            model: &TaskModel,
            examples: &[Self::Example],
            tasks: &[Option<usize>],
            batch_size: usize,
            device: &Device,
        ) -> Result<Evaluation, TrainError> {
            super::tokens::evaluate(self, model, examples, tasks, batch_size, device)
        }

        super::tokens::of_tokens!(shared);
    };
    (shared) => {
        fn loss(
            &self,
            model: &TaskModel,
            hidden: Tensor<3>,
            batch: &Batch,
            cx: &mut Ctx<'_>,
        ) -> Result<Tensor<1>, TrainError> {
            super::tokens::loss(model, hidden, batch, cx)
        }

        fn figures(&self, _outputs: &[Outputs], _examples: &[Self::Example]) -> Option<Figures> {
            None
        }

        fn describe(&self, _outputs: &Outputs, _example: &Self::Example) -> Prediction {
            Prediction::default()
        }
    };
}

pub(super) use of_tokens;
