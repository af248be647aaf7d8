//! Classification of texts, images and sounds: one class of each.

use std::fmt;

use adapters_core::Ctx;
use adapters_models::heads::{HeadConfig, HeadKind, Scores, Targets};
use adapters_models::{Input, Model, ModelKind};
use adapters_nn::ops::cross_entropy;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::context::TaskContext;
use super::labeled::{Labeled, labeled_batch, with_targets};
use super::task::{Example, LabelField, Task};
use super::text::ints;
use super::usage::Usage;
use crate::data::{Labels, Record};
use crate::error::TrainError;
use crate::evaluate::{Outputs, Prediction, largest, probability};
use crate::inputs::Batch;
use crate::metrics::{Confusion, Figures};
use crate::task_model::TaskModel;

/// What is classified: text, images or audio. The constants are those of the [`Task`].
pub(super) trait Modality: fmt::Debug + Send + Sync + Sized + 'static {
    const NAME: &'static str;
    const PIPELINE: &'static str;
    const DATA: &'static str;
    const MODELS: &'static [ModelKind];
    const USAGE: Usage;

    /// What is kept of a record until a batch is made.
    type Source: Example;

    /// Reads how the model's inputs are prepared, from its files.
    ///
    /// # Errors
    ///
    /// [`TrainError`] for files of the model that are missing or do not fit it.
    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError>;

    /// What the model reads of each record.
    ///
    /// # Errors
    ///
    /// Those of the data and the tokenizer.
    fn sources(records: &[Record], cx: &TaskContext<'_>) -> Result<Vec<Self::Source>, TrainError>;

    /// A batch as the model reads it.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] for an image or a sound that cannot be read.
    fn input(&self, sources: &[&Self::Source], model: &Model, device: &Device) -> Result<Input, TrainError>;
}

/// Classification by cross entropy; the metric is the accuracy.
#[derive(Debug)]
pub(super) struct Classification<M> {
    modality: M,
    labels: Labels,
    head: HeadConfig,
    /// How much each class weighs.
    weights: Option<Vec<f32>>,
}

impl<M: Modality> Task for Classification<M> {
    const NAME: &'static str = M::NAME;
    const PIPELINE: Option<&'static str> = Some(M::PIPELINE);
    const DATA: &'static str = M::DATA;
    const MODELS: &'static [ModelKind] = M::MODELS;
    const USAGE: Usage = M::USAGE;
    const METRICS: &'static [&'static str] = &["accuracy", "f1", "matthews"];
    const LABELS: usize = 1;
    const LABEL_FIELD: Option<LabelField> = Some(|fields| (&fields.label, None));
    const WEIGHS_CLASSES: bool = true;

    type Example = Labeled<M::Source, usize>;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        let labels = cx.options.labels.clone();
        let kind = HeadKind::Classification { pooling: cx.pooling() };
        Ok(Self {
            modality: M::new(cx)?,
            head: cx.head(kind, labels.names()),
            labels,
            weights: cx.options.class_weights.clone(),
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(self.head.clone())
    }

    fn serves(head: &HeadConfig) -> bool {
        matches!(head.kind, HeadKind::Classification { .. }) && !head.is_regression()
    }

    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let field = &cx.options.fields.label;
        with_targets(M::sources(records, cx)?, records, |record| {
            Ok(record.class(field, &self.labels, labeled)?)
        })
    }

    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        _seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        let sources: Vec<&M::Source> = examples.iter().map(|(_, example)| &example.source).collect();
        let input = self.modality.input(&sources, model, device)?;
        Ok(labeled_batch(input, examples, |classes| {
            Targets::Classes(ints(classes.into_iter().map(|class| *class as i64).collect(), device))
        }))
    }

    /// The loss of the head. With weights, the mean over the weights of the batch, as PyTorch's `CrossEntropyLoss` has it.
    fn loss(
        &self,
        model: &TaskModel,
        hidden: Tensor<3>,
        batch: &Batch,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<1>, TrainError> {
        let (scores, targets) = (model.head_scores(hidden, cx)?, batch.needed_targets()?);
        match (&self.weights, scores, targets) {
            (Some(weights), Scores::Rows(scores), Targets::Classes(classes)) => {
                Ok(weighted_loss(scores, classes, weights))
            }
            (_, scores, targets) => Ok(model.head()?.loss(scores, targets, batch.padding(), batch.seq())?),
        }
    }

    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures> {
        let targets = examples.iter().map(|example| example.target);
        class_figures(outputs, targets, self.labels.names())
    }

    /// The likeliest class and its probability.
    fn describe(&self, outputs: &Outputs, _example: &Self::Example) -> Prediction {
        let class = largest(&outputs.values);
        let probability = probability(&outputs.values, class);
        Prediction::likely(self.labels.name(class), probability)
    }
}

/// Cross entropy `sum_i w_{y_i} l_i / sum_i w_{y_i}`, `[rows, classes]` and `[rows]`.
fn weighted_loss(scores: Tensor<2>, classes: Tensor<1, Int>, weights: &[f32]) -> Tensor<1> {
    let weights = Tensor::<1>::from_data(TensorData::new(weights.to_vec(), [weights.len()]), &classes.device());
    let weights = weights.select(0, classes.clone());
    let losses = cross_entropy(scores, classes);
    (losses * weights.clone()).sum() / weights.sum().clamp_min(f32::MIN_POSITIVE)
}

/// The figures of the largest outputs; `None` where an example has no target.
fn class_figures(
    outputs: &[Outputs],
    targets: impl Iterator<Item = Option<usize>>,
    labels: Vec<String>,
) -> Option<Figures> {
    let targets: Vec<usize> = targets.collect::<Option<_>>()?;
    let predicted = outputs.iter().map(|outputs| largest(&outputs.values));
    Some(Confusion::new(labels, targets.into_iter().zip(predicted)).figures())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.nn.functional.cross_entropy([[1, 0], [0.5, 2]], [0, 0], weight=[2, 5])` and with classes `[0, 1]`.
    #[test]
    fn weighted_losses_are_pytorchs() {
        let device = Device::flex();
        for (classes, expected) in [([0, 0], 1.007_337_6), ([0, 1], 0.233_37)] {
            let scores = Tensor::<2>::from_data([[1.0, 0.0], [0.5, 2.0]], &device);
            let loss = weighted_loss(scores, Tensor::from_data(classes, &device), &[2.0, 5.0]).into_scalar::<f32>();
            assert!((loss - expected).abs() < 1e-5, "{loss}");
        }
    }

    #[test]
    fn accuracy_counts_the_largest_outputs() {
        let outputs = [[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 1.0, 1.0]].map(|values| Outputs {
            values: values.to_vec(),
            width: 3,
        });
        // Of equal outputs the first counts.
        let labels = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let of = |targets: [Option<usize>; 3]| class_figures(&outputs, targets.into_iter(), labels())?.get("accuracy");
        assert_eq!(of([Some(1), Some(0), Some(1)]), Some(1.0));
        assert_eq!(of([Some(1), Some(2), Some(2)]), Some(1.0 / 3.0));
        assert_eq!(of([Some(1), None, Some(2)]), None);
    }
}
