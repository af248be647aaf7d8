//! Classification: one class of a text, or of a pair of texts.

use adapters_core::Ctx;
use adapters_models::Model;
use adapters_models::heads::{HeadConfig, HeadKind, Scores, Targets};
use adapters_nn::ops::cross_entropy;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::context::TaskContext;
use super::task::{LabelField, Task};
use super::text::{TextExample, examples, ints, text_batch};
use crate::data::{Labels, Record};
use crate::error::TrainError;
use crate::evaluate::{Outputs, Prediction, largest, probability};
use crate::inputs::Batch;
use crate::metrics::{Confusion, Figures};
use crate::task_model::TaskModel;

/// Classification by cross entropy; the metric is the accuracy.
#[derive(Debug)]
pub(super) struct Classification(Classes);

/// What classification has in common, whatever is classified.
#[derive(Debug)]
pub(super) struct Classes {
    pub(super) labels: Labels,
    pub(super) head: HeadConfig,
    /// How much each class weighs.
    weights: Option<Vec<f32>>,
}

impl Classes {
    pub(super) fn new(cx: &TaskContext<'_>) -> Self {
        let labels = cx.options.labels.clone();
        let kind = HeadKind::Classification { pooling: cx.pooling() };
        Self {
            head: cx.head(kind, labels.names()),
            labels,
            weights: cx.options.class_weights.clone(),
        }
    }

    pub(super) fn serves(head: &HeadConfig) -> bool {
        matches!(head.kind, HeadKind::Classification { .. }) && !head.is_regression()
    }

    /// The classes of a batch; `None` where an example has none.
    pub(super) fn targets(classes: impl Iterator<Item = Option<usize>>, device: &Device) -> Option<Targets> {
        let classes: Option<Vec<i64>> = classes.map(|class| Some(class? as i64)).collect();
        classes.map(|classes| Targets::Classes(ints(classes, device)))
    }

    /// The loss of the head. With weights, the mean over the weights of the batch, as PyTorch's `CrossEntropyLoss` has it.
    pub(super) fn loss(
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

    pub(super) fn figures(&self, outputs: &[Outputs], targets: impl Iterator<Item = Option<usize>>) -> Option<Figures> {
        class_figures(outputs, targets, self.labels.names())
    }

    /// The likeliest class and its probability.
    pub(super) fn describe(&self, outputs: &Outputs) -> Prediction {
        let class = largest(&outputs.values);
        let probability = probability(&outputs.values, class);
        Prediction::likely(self.labels.name(class), probability)
    }
}

impl Task for Classification {
    const NAME: &'static str = "classification";
    const PIPELINE: Option<&'static str> = Some("text-classification");
    const DATA: &'static str =
        "`text` and, with `data.fields.text_pair`, a second text; `label`, a class by its name or number";
    const METRICS: &'static [&'static str] = OF_CLASSES;
    const LABELS: usize = 1;
    const LABEL_FIELD: Option<LabelField> = Some(|fields| (&fields.label, None));
    const WEIGHS_CLASSES: bool = true;

    type Example = TextExample<usize>;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        Ok(Self(Classes::new(cx)))
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(self.0.head.clone())
    }

    fn serves(head: &HeadConfig) -> bool {
        Classes::serves(head)
    }

    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let field = &cx.options.fields.label;
        examples(records, cx, |record| {
            Ok(record.class(field, &self.0.labels, labeled)?)
        })
    }

    fn length(example: &Self::Example) -> usize {
        example.encoded.ids.len()
    }

    fn truncated(example: &Self::Example) -> usize {
        usize::from(example.encoded.truncated)
    }

    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        _seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        Ok(text_batch(examples, model, device, |classes| {
            Targets::Classes(ints(classes.into_iter().map(|class| *class as i64).collect(), device))
        }))
    }

    fn loss(
        &self,
        model: &TaskModel,
        hidden: Tensor<3>,
        batch: &Batch,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<1>, TrainError> {
        self.0.loss(model, hidden, batch, cx)
    }

    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures> {
        let targets = examples.iter().map(|example| example.target);
        self.0.figures(outputs, targets)
    }

    fn describe(&self, outputs: &Outputs, _example: &Self::Example) -> Prediction {
        self.0.describe(outputs)
    }
}

/// Cross entropy `sum_i w_{y_i} l_i / sum_i w_{y_i}`, `[rows, classes]` and `[rows]`.
fn weighted_loss(scores: Tensor<2>, classes: Tensor<1, Int>, weights: &[f32]) -> Tensor<1> {
    let weights = Tensor::<1>::from_data(TensorData::new(weights.to_vec(), [weights.len()]), &classes.device());
    let weights = weights.select(0, classes.clone());
    let losses = cross_entropy(scores, classes);
    (losses * weights.clone()).sum() / weights.sum().clamp_min(f32::MIN_POSITIVE)
}

/// Figures of a task in which each example has one class.
pub(super) const OF_CLASSES: &[&str] = &["accuracy", "f1", "matthews"];

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
