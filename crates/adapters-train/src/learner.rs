//! Burn's own training loop: an adapted classifier is a model of its `Learner`, with all its metrics and checkpoints.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use adapters_adapted::Adapted;
use adapters_core::Ctx;
use adapters_models::heads::{HeadConfig, HeadKind, Scores};
use adapters_models::{Encoded, Head, Input, Model, TextTokenizer};
use adapters_nn::ops::cross_entropy;
use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};

use crate::data::{Fields, Labels, Records};
use crate::error::TrainError;
use crate::inputs::{hidden_states, text_input};
use crate::seeds::pass_seed;
use crate::task_model::TaskModel;
use crate::tasks::default_pooling;

/// An adapted model with a classification head, as [`SupervisedTraining`](burn::train::SupervisedTraining) trains it. As a
/// module it is its adapters and its head.
///
/// Dropout of each pass is drawn from the seed and a counter that all clones share. Burn's checkpoints do not have the counter:
/// a run that is resumed from one begins to count again.
#[derive(Module, Debug)]
pub struct Classifier {
    /// The model with its head.
    pub model: TaskModel,
    #[module(skip)]
    seed: u64,
    #[module(skip)]
    passes: Arc<AtomicU64>,
}

/// A batch of a classifier.
#[derive(Clone, Debug)]
pub struct ClassBatch {
    /// What the model reads.
    pub input: Input,
    /// The class of each row, `[batch]`.
    pub classes: Tensor<1, Int>,
}

/// An encoded text and its class.
#[derive(Clone, Debug)]
pub struct LabeledText {
    /// The text.
    pub text: Encoded,
    /// The number of its class.
    pub class: usize,
}

/// Makes batches of labeled texts for one model.
#[derive(Clone, Debug)]
pub struct TextBatcher {
    model: Adapted<Model>,
}

impl Classifier {
    /// A classifier with a new linear head, which reads the mean over the tokens of an encoder, the first position of an encoder of
    /// images, and the last token of others. The adapters that are active train, with the head.
    ///
    /// # Errors
    ///
    /// As [`Head::new`].
    pub fn new(
        adapted: Adapted<Model>,
        labels: impl IntoIterator<Item = impl Display>,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let pooling = default_pooling(adapted.base().kind());
        let labels = labels.into_iter().map(|label| label.to_string());
        let config = HeadConfig::new(HeadKind::Classification { pooling }, labels).with_layers(1);
        let head = Head::new(config, adapted.base(), seed, &adapted.device())?;
        Ok(Self {
            model: TaskModel {
                adapted,
                head: Some(head),
            },
            seed,
            passes: Arc::default(),
        })
    }

    /// Scores of the classes and the loss. Each pass with `train` draws other masks of dropout.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`], and [`TrainError::Value`] for a head that scores no rows.
    fn output(&self, batch: ClassBatch, train: bool) -> Result<ClassificationOutput, TrainError> {
        let set = &self.model.adapted.set;
        let mut cx = Ctx::new(set);
        if train {
            let pass = self.passes.fetch_add(1, Ordering::Relaxed);
            cx = cx.training(pass_seed(self.seed, pass)).after_passes(pass);
        }
        let hidden = hidden_states(self.model.adapted.base(), batch.input, &mut cx)?;
        let Scores::Rows(scores) = self.model.head_scores(hidden, &mut cx)? else {
            return Err(TrainError::Value {
                field: "head.kind",
                expected: "a head that classifies rows".to_owned(),
                found: "a head that scores positions".to_owned(),
            });
        };
        let loss = cross_entropy(scores.clone(), batch.classes.clone()).mean();
        let loss = match set.penalty().filter(|_| train) {
            Some(penalty) => loss + penalty,
            None => loss,
        };
        Ok(ClassificationOutput::new(loss, scores, batch.classes))
    }
}

/// # Panics
///
/// A step panics where [`Ctx::begin`] refuses the batch, as Burn's trait has no error: an input that the model does not read.
impl TrainStep for Classifier {
    type Input = ClassBatch;
    type Output = ClassificationOutput;

    #[expect(clippy::panic, reason = "the trait has no error")]
    fn step(&self, batch: ClassBatch) -> TrainOutput<ClassificationOutput> {
        let output = self.output(batch, true).unwrap_or_else(|error| panic!("{error}"));
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

/// # Panics
///
/// As in training.
impl InferenceStep for Classifier {
    type Input = ClassBatch;
    type Output = ClassificationOutput;

    #[expect(clippy::panic, reason = "the trait has no error")]
    fn step(&self, batch: ClassBatch) -> ClassificationOutput {
        self.output(batch, false).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl LabeledText {
    /// The texts and classes of records.
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] for a record without its text or with a class that is none of `labels`, and those of the tokenizer.
    pub fn of_records(
        records: &Records,
        fields: &Fields,
        labels: &Labels,
        tokenizer: &TextTokenizer,
    ) -> Result<Vec<Self>, TrainError> {
        let texts = records
            .records
            .iter()
            .map(|record| Ok((record.text(&fields.text)?, None)));
        let encoded = tokenizer.encode(texts.collect::<Result<Vec<_>, TrainError>>()?)?;
        let of_record = |(record, text): (&crate::data::Record, Encoded)| {
            let class = record.class(&fields.label, labels, true)?;
            Ok(class.map(|class| Self { text, class }))
        };
        let labeled = records.records.iter().zip(encoded).map(of_record);
        labeled.filter_map(Result::transpose).collect()
    }
}

impl TextBatcher {
    /// Makes batches for this model.
    pub fn new(model: &Adapted<Model>) -> Self {
        Self {
            model: model.without_adapters(),
        }
    }
}

impl Batcher<LabeledText, ClassBatch> for TextBatcher {
    fn batch(&self, items: Vec<LabeledText>, device: &Device) -> ClassBatch {
        // The base is on the plain device, and so is what it reads.
        let device = device.clone().inner();
        let texts: Vec<&Encoded> = items.iter().map(|item| &item.text).collect();
        let classes: Vec<i64> = items.iter().map(|item| item.class as i64).collect();
        let count = classes.len();
        ClassBatch {
            input: text_input(&texts, self.model.base(), &device),
            classes: Tensor::from_data(TensorData::new(classes, [count]), &device),
        }
    }
}
