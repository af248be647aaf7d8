//! The trait of tasks, and how its examples are scored.

use std::fmt;

use adapters_core::Ctx;
use adapters_models::heads::HeadConfig;
use adapters_models::{Encoded, Model, ModelKind};
use burn::tensor::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::TaskContext;
use super::usage::Usage;
use crate::batches::eval_batches;
use crate::data::{Fields, Record};
use crate::device_read;
use crate::error::TrainError;
use crate::evaluate::{Evaluation, Outputs, Prediction};
use crate::inputs::{Batch, hidden_states};
use crate::metrics::Figures;
use crate::task_model::TaskModel;

/// Every kind of model, for tasks over the hidden states of a text.
pub(crate) const ANY_TEXT_MODEL: &[ModelKind] = &[ModelKind::Encoder, ModelKind::CausalLm, ModelKind::EncoderDecoder];

/// The seed of the masks of every evaluation, so that its figures can be compared.
pub(crate) const EVALUATION: u64 = 0x0e7a_1a7e;

/// The field that has the labels of an example, and what stands between several in a table; `None` for one label an example.
pub(super) type LabelField = fn(&Fields) -> (&str, Option<char>);

/// Makes one example of several.
pub type Join<E> = fn(Vec<E>) -> E;

/// An example of a data file: its token ids, or the path of an image or a sound that is read when a batch is made. Many of them are kept in
/// a temporary file.
pub trait Example: Clone + fmt::Debug + DeserializeOwned + Send + Serialize + Sync {
    /// Its length in tokens; one for an image or a sound.
    fn length(&self) -> usize {
        1
    }

    /// The number of its texts that were truncated to the longest input; zero for an image or a sound.
    fn truncated(&self) -> usize {
        0
    }
}

impl Example for Encoded {
    fn length(&self) -> usize {
        self.ids.len()
    }

    fn truncated(&self) -> usize {
        usize::from(self.truncated)
    }
}

/// A task.
pub trait Task: fmt::Debug + Send + Sync + Sized + 'static {
    /// Its name in recipes.
    const NAME: &'static str;
    /// The Hub's name of the task, for the model card; `None` where it has none.
    const PIPELINE: Option<&'static str> = None;
    /// Fields of a data file, for the help of the command line.
    const DATA: &'static str;
    /// Models it works on.
    const MODELS: &'static [ModelKind] = ANY_TEXT_MODEL;
    /// Names of its figures in addition to the loss; the first is the one it is known by.
    const METRICS: &'static [&'static str] = &["accuracy"];
    /// Whether the model learns to write text: the best weights are those with the lowest loss, since every token of a
    /// small file can be right long before the probabilities are good.
    const IS_GENERATIVE: bool = false;
    /// What a trained adapter is used for.
    const USAGE: Usage = Usage::Text;
    /// Whether a prediction repeats its input, as tagged words do.
    const REPEATS_INPUT: bool = false;
    /// Whether what a model reads of an example changes from pass to pass, as hidden tokens do.
    const CHANGES: bool = false;
    /// Makes one row of several examples (`data.pack`); `None` where each has its own.
    const JOIN: Option<Join<Self::Example>> = None;
    /// Whether its loss takes `train.class_weights`.
    const WEIGHS_CLASSES: bool = false;
    /// The field of the labels that a recipe need not name, and what stands between several in a table.
    const LABEL_FIELD: Option<LabelField> = None;
    /// Fewest labels a recipe names; zero for tasks without labels.
    const LABELS: usize = 0;

    /// An example.
    type Example: Example;

    /// The task with these options.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] for a tokenizer or option that does not fit.
    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError>;

    /// The head that is trained; `None` where the model's own serves.
    fn head(&self) -> Option<HeadConfig>;

    /// Whether a head that was trained is one of this task.
    fn serves(_head: &HeadConfig) -> bool {
        false
    }

    /// Examples of the records of a file. Where `labeled` is false, targets may be absent.
    ///
    /// # Errors
    ///
    /// Those of the data and the tokenizer.
    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError>;

    /// A batch of examples, each with its index in the file; `seed` hides tokens, where tokens are hidden.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] for an image or a sound that cannot be read.
    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError>;

    /// Mean loss of a batch from its last hidden state.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] if the head predicts something else.
    fn loss(
        &self,
        model: &TaskModel,
        hidden: Tensor<3>,
        batch: &Batch,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<1>, TrainError> {
        let scores = model.head_scores(hidden, cx)?;
        let targets = batch.needed_targets()?;
        Ok(model.head()?.loss(scores, targets, batch.padding(), batch.seq())?)
    }

    /// The figures of outputs; `None` where an example has no target.
    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures>;

    /// The prediction for an example in words.
    fn describe(&self, outputs: &Outputs, example: &Self::Example) -> Prediction;

    /// Scores examples with a model whose set is on a plain device; `tasks` are those that adapters are told, one for each example or
    /// none.
    ///
    /// # Errors
    ///
    /// As [`loss`](Self::loss).
    fn evaluate(
        &self,
        model: &TaskModel,
        examples: &[Self::Example],
        tasks: &[Option<usize>],
        batch_size: usize,
        device: &Device,
    ) -> Result<Evaluation, TrainError> {
        let lengths: Vec<usize> = examples.iter().map(Example::length).collect();
        let mut outputs = vec![Outputs::default(); examples.len()];
        let (mut loss, mut predictions) = (0.0, 0usize);
        for indices in eval_batches(&lengths, batch_size) {
            let rows: Vec<_> = indices.iter().map(|index| (*index, &examples[*index])).collect();
            let batch = self.batch(&rows, EVALUATION, model.adapted.base(), device)?;
            let batch = batch.with_tasks(&of_examples(tasks, &indices));
            let mut cx = Ctx::new(&model.adapted.set).with_tasks(batch.tasks.iter().copied())?;
            let hidden = hidden_states(model.adapted.base(), batch.input.clone(), &mut cx)?;
            let scores = model.head_scores(hidden, &mut cx)?;
            if let Some(targets) = batch.targets.clone() {
                let of_batch = model
                    .head()?
                    .loss(scores.clone(), targets, batch.padding(), batch.seq())?;
                loss += device_read::number(of_batch)? * batch.predictions as f64;
                predictions += batch.predictions;
            }
            for (index, of_row) in indices.iter().zip(Outputs::of(scores, indices.len())?) {
                outputs[*index] = of_row;
            }
        }
        Ok(Evaluation {
            loss: loss / predictions.max(1) as f64,
            figures: self.figures(&outputs, examples).unwrap_or_default(),
            outputs,
        })
    }
}

/// The tasks of these examples; none where there are none.
pub(super) fn of_examples(tasks: &[Option<usize>], indices: &[usize]) -> Vec<Option<usize>> {
    indices.iter().filter_map(|index| tasks.get(*index).copied()).collect()
}
