//! Classification: one class of a text, or of a pair of texts.

use adapters_models::Model;
use adapters_models::heads::{HeadConfig, HeadKind, Targets};
use burn::tensor::Device;

use super::context::TaskContext;
use super::task::Task;
use super::text::{TextExample, examples, ints, text_batch};
use crate::data::{Labels, Record};
use crate::error::TrainError;
use crate::evaluate::{Outputs, fraction, largest, probability};
use crate::inputs::Batch;

/// Classification by cross entropy; the metric is the accuracy.
#[derive(Debug)]
pub(super) struct Classification {
    labels: Labels,
    head: HeadConfig,
}

impl Task for Classification {
    const NAME: &'static str = "classification";
    const DATA: &'static str =
        "`text` and, with `data.fields.text_pair`, a second text; `label`, a class by its name or number";
    const LABELS: usize = 1;

    type Example = TextExample<usize>;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        let labels = cx.options.labels.clone();
        let kind = HeadKind::Classification { pooling: cx.pooling() };
        Ok(Self {
            head: cx.head(kind, labels.names()),
            labels,
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
        examples(records, cx, |record| Ok(record.class(field, &self.labels, labeled)?))
    }

    fn length(example: &Self::Example) -> usize {
        example.encoded.ids.len()
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

    fn metric(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<f64> {
        accuracy(outputs, examples.iter().map(|example| example.target))
    }

    fn describe(&self, outputs: &Outputs, _example: &Self::Example) -> String {
        described(outputs, &self.labels)
    }
}

/// The likeliest class and its probability.
pub(super) fn described(outputs: &Outputs, labels: &Labels) -> String {
    let class = largest(&outputs.values);
    let probability = probability(&outputs.values, class);
    format!("{}\t{probability:.4}", labels.name(class))
}

/// The share of examples whose largest output is the right one.
pub(super) fn accuracy(outputs: &[Outputs], targets: impl Iterator<Item = Option<usize>>) -> Option<f64> {
    let targets: Vec<usize> = targets.collect::<Option<_>>()?;
    let pairs = outputs.iter().zip(targets);
    Some(fraction(
        pairs.map(|(outputs, target)| largest(&outputs.values) == target),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_the_largest_outputs() {
        let outputs = [[0.0, 2.0, 1.0], [3.0, 0.0, 0.0], [0.0, 1.0, 1.0]].map(|values| Outputs {
            values: values.to_vec(),
            width: 3,
        });
        // Of equal outputs the first counts.
        let of = |targets: [Option<usize>; 3]| accuracy(&outputs, targets.into_iter());
        assert_eq!(of([Some(1), Some(0), Some(1)]), Some(1.0));
        assert_eq!(of([Some(1), Some(2), Some(2)]), Some(1.0 / 3.0));
        assert_eq!(of([Some(1), None, Some(2)]), None);
    }
}
