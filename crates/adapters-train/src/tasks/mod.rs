//! Tasks: what a data file holds, what a batch of it asks of a model, and how well the outputs fit.
//!
//! A task is a type that implements [`Task`], in a file of its own, and one line in [`TASKS`]. Nothing else names it: recipes,
//! checkpoints and the command line find it by its name in that list.

mod causal_lm;
mod classification;
mod erased;
mod masked_lm;
mod masking;
mod multi_label;
mod multiple_choice;
mod prompts;
mod question_answering;
mod regression;
mod seq2seq_lm;
mod tagging;
mod text;
mod tokens;

use std::fmt;

use adapters_core::Ctx;
use adapters_models::heads::{HeadConfig, HeadKind, Pooling, Targets};
use adapters_models::{Model, ModelKind, Pretrained, TextTokenizer};
use burn::tensor::{Device, Tensor};

pub use self::erased::{OpenTask, TaskData, TaskKind, TaskName};
pub(crate) use self::prompts::chat_template;
use crate::batches::eval_batches;
use crate::data::{Fields, Labels, Record};
use crate::error::TrainError;
use crate::evaluate::{Evaluation, Outputs};
use crate::inputs::{ModelInput, hidden_states};
use crate::recipe::{DataSection, HeadSection, Recipe};
use crate::task_model::TaskModel;

/// Every task. The first is the default.
pub const TASKS: &[TaskKind] = &[
    TaskKind::of::<classification::Classification>(),
    TaskKind::of::<multi_label::MultiLabel>(),
    TaskKind::of::<regression::Regression>(),
    TaskKind::of::<tagging::Tagging>(),
    TaskKind::of::<question_answering::QuestionAnswering>(),
    TaskKind::of::<multiple_choice::MultipleChoice>(),
    TaskKind::of::<masked_lm::MaskedLm>(),
    TaskKind::of::<causal_lm::CausalLmTask>(),
    TaskKind::of::<seq2seq_lm::Seq2SeqLm>(),
];

/// Every kind of model, for tasks over the hidden states of a text.
pub(crate) const ANY_MODEL: &[ModelKind] = &[ModelKind::Encoder, ModelKind::CausalLm, ModelKind::EncoderDecoder];

/// Options of a task, from a recipe or from an adapter that was trained.
#[derive(Clone, Debug)]
pub struct TaskOptions {
    /// The classes.
    pub labels: Labels,
    /// Names of the fields.
    pub fields: Fields,
    /// `[head]`
    pub head: HeadSection,
    /// Longest input in tokens.
    pub max_length: usize,
    /// How a prompt becomes the text that a completion follows.
    pub template: Option<crate::recipe::Template>,
    /// Whether rows are filled up with several prompts and completions.
    pub pack: bool,
}

impl TaskOptions {
    /// The options of a recipe.
    pub(crate) fn of(recipe: &Recipe) -> Self {
        let DataSection {
            labels,
            fields,
            template,
            pack,
            ..
        } = recipe.data.clone();
        Self {
            labels,
            fields,
            head: recipe.head.clone(),
            max_length: recipe.model.max_length,
            template,
            pack,
        }
    }
}

/// What a task reads its data with.
#[derive(Clone, Copy, Debug)]
pub struct TaskContext<'a> {
    /// Options.
    pub options: &'a TaskOptions,
    /// The checkpoint.
    pub pretrained: &'a Pretrained,
    /// The model.
    pub model: &'a Model,
    /// Its tokenizer.
    pub tokenizer: &'a TextTokenizer,
}

/// A batch and its targets.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids.
    pub input: ModelInput,
    /// Row and position of the hidden state that predicts each target token; none where a head reads rows.
    pub target_positions: Vec<(usize, usize)>,
    /// Targets; `None` where an example has none.
    pub targets: Option<Targets>,
    /// How many predictions the loss is the mean of.
    pub predictions: usize,
}

/// A task.
pub trait Task: fmt::Debug + Send + Sync + Sized + 'static {
    /// Its name in recipes.
    const NAME: &'static str;
    /// Fields of a data file, for the help of the command line.
    const DATA: &'static str;
    /// Models it works on.
    const MODELS: &'static [ModelKind] = ANY_MODEL;
    /// Name of its metric.
    const METRIC: &'static str = "accuracy";
    /// Whether the model learns to write text: the best weights are those with the lowest loss, since every token of a
    /// small file can be right long before the probabilities are good.
    const IS_GENERATIVE: bool = false;
    /// Arguments of the command that uses a trained adapter, with `{adapter}` for its folder.
    const NEXT: &'static str = "predict --adapter {adapter} --text TEXT";
    /// Whether a prediction repeats its input, as tagged words do.
    const REPEATS_INPUT: bool = false;
    /// Whether several examples may share a row (`data.pack`).
    const PACKS: bool = false;
    /// Fewest labels a recipe names; zero for tasks without labels.
    const LABELS: usize = 0;

    /// An example, encoded.
    type Example: fmt::Debug + Send + Sync;

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

    /// Tokens of an example.
    fn length(example: &Self::Example) -> usize;

    /// A batch of examples, each with its index in the file; `seed` hides tokens, where tokens are hidden.
    fn batch(&self, examples: &[(usize, &Self::Example)], seed: u64, model: &Model, device: &Device) -> Batch;

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
        let targets = batch.targets.clone().ok_or_else(|| TrainError::Value {
            field: "data",
            expected: "a target in every example".to_owned(),
            found: "one without".to_owned(),
        })?;
        let padding = batch.input.padding.clone();
        Ok(model.head()?.loss(scores, targets, padding, batch.input.seq())?)
    }

    /// The metric of outputs, 0 to 1; `None` where an example has no target.
    fn metric(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<f64>;

    /// The prediction for an example in words, as `adapters predict` prints it.
    fn describe(&self, outputs: &Outputs, example: &Self::Example) -> String;

    /// Scores examples with a model whose set is on a plain device.
    ///
    /// # Errors
    ///
    /// As [`loss`](Self::loss).
    fn evaluate(
        &self,
        model: &TaskModel,
        examples: &[Self::Example],
        batch_size: usize,
        device: &Device,
    ) -> Result<Evaluation, TrainError> {
        let lengths: Vec<usize> = examples.iter().map(Self::length).collect();
        let mut outputs = vec![Outputs::default(); examples.len()];
        let (mut loss, mut predictions) = (0.0, 0usize);
        for indices in eval_batches(&lengths, batch_size) {
            let rows: Vec<_> = indices.iter().map(|index| (*index, &examples[*index])).collect();
            let batch = self.batch(&rows, EVALUATION, &model.adapted.base, device);
            let mut cx = Ctx::new(&model.adapted.set);
            let hidden = hidden_states(&model.adapted.base, batch.input.clone(), &mut cx)?;
            let scores = model.head_scores(hidden, &mut cx)?;
            if let Some(targets) = batch.targets {
                let padding = batch.input.padding.clone();
                let of_batch = model
                    .head()?
                    .loss(scores.clone(), targets, padding, batch.input.seq())?;
                loss += f64::from(of_batch.into_scalar::<f32>()) * batch.predictions as f64;
                predictions += batch.predictions;
            }
            for (index, of_row) in indices.iter().zip(Outputs::of(scores, indices.len())) {
                outputs[*index] = of_row;
            }
        }
        Ok(Evaluation {
            loss: loss / predictions.max(1) as f64,
            score: self.metric(&outputs, examples).unwrap_or(0.0),
            metric: Self::METRIC,
            outputs,
        })
    }
}

/// The seed of the masks of every evaluation, so that its figures can be compared.
pub(crate) const EVALUATION: u64 = 0x0e7a_1a7e;

/// What a head of a whole text reads: what `[head]` names, or the mean for an encoder and the last token for others.
pub(crate) fn pooling(cx: &TaskContext<'_>) -> Pooling {
    cx.options.head.pooling.unwrap_or(match cx.model.kind() {
        ModelKind::Encoder | ModelKind::ImageEncoder | ModelKind::TextAndImage | ModelKind::SoundEncoder => {
            Pooling::Mean
        }
        ModelKind::CausalLm | ModelKind::EncoderDecoder | ModelKind::SpeechToText => Pooling::Last,
    })
}

/// The configuration of a new head of one layer, as the classes of transformers have it.
pub(crate) fn head_of(kind: HeadKind, labels: Vec<String>, cx: &TaskContext<'_>) -> HeadConfig {
    HeadConfig::new(kind, labels)
        .with_layers(1)
        .with_dropout(cx.options.head.dropout)
}

/// The names of all labels.
pub(crate) fn names(labels: &Labels) -> Vec<String> {
    (0..labels.count()).map(|label| labels.name(label)).collect()
}
