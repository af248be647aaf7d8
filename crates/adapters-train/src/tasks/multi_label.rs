//! Multi-label classification: which of several labels a text has.

use adapters_models::Model;
use adapters_models::heads::{HeadConfig, HeadKind, Targets};
use burn::tensor::{Device, Tensor, TensorData};

use super::context::TaskContext;
use super::task::{LabelField, Task};
use super::text::{TextExample, examples, text_batch};
use crate::data::{Labels, Record};
use crate::error::TrainError;
use crate::evaluate::{Outputs, Prediction, f1, fraction};
use crate::inputs::Batch;
use crate::metrics::Figures;

/// Binary cross entropy of each label; the metric is the fraction of right decisions about labels, each counted alone.
#[derive(Debug)]
pub(super) struct MultiLabel {
    labels: Labels,
    head: HeadConfig,
}

/// One at the labels of a text and zero at the others.
fn ones(labels: &[usize], count: usize) -> Vec<f32> {
    let mut ones = vec![0.0; count];
    for label in labels {
        ones[*label] = 1.0;
    }
    ones
}

impl Task for MultiLabel {
    const NAME: &'static str = "multi_label";
    const PIPELINE: Option<&'static str> = Some("text-classification");
    const DATA: &'static str =
        "`text`; `label`, a list of labels by name or number, `a|b` in a table; an empty list means no label";
    const METRICS: &'static [&'static str] = &["accuracy", "f1", "f1_micro", "exact_match"];
    const LABELS: usize = 1;
    const LABEL_FIELD: Option<LabelField> = Some(|fields| (&fields.label, Some('|')));

    type Example = TextExample<Vec<usize>>;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        let labels = cx.options.labels.clone();
        let kind = HeadKind::MultiLabel { pooling: cx.pooling() };
        Ok(Self {
            head: cx.head(kind, labels.names()),
            labels,
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(self.head.clone())
    }

    fn serves(head: &HeadConfig) -> bool {
        head.has_several_labels()
    }

    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let field = &cx.options.fields.label;
        examples(records, cx, |record| {
            Ok(record.classes(field, &self.labels, labeled)?)
        })
    }

    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        _seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        let count = self.labels.count();
        Ok(text_batch(examples, model, device, |labels| {
            let shape = [labels.len(), count];
            let values: Vec<f32> = labels.into_iter().flat_map(|labels| ones(labels, count)).collect();
            Targets::Labels(Tensor::from_data(TensorData::new(values, shape), device))
        }))
    }

    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures> {
        let targets: Vec<&Vec<usize>> = examples.iter().map(|e| e.target.as_ref()).collect::<Option<_>>()?;
        let count = self.labels.count();
        let mut of_labels = vec![(0, 0, 0); count];
        let (mut decisions, mut exact) = (Vec::new(), Vec::new());
        for (outputs, labels) in outputs.iter().zip(targets) {
            let pairs = outputs.values.iter().map(|score| *score > 0.0);
            let pairs: Vec<(bool, bool)> = pairs
                .zip(ones(labels, count).into_iter().map(|one| one > 0.0))
                .collect();
            for ((both, predicted, expected), (says, has)) in of_labels.iter_mut().zip(&pairs) {
                *both += usize::from(*says && *has);
                *predicted += usize::from(*says);
                *expected += usize::from(*has);
            }
            exact.push(pairs.iter().all(|(says, has)| says == has));
            decisions.extend(pairs.into_iter().map(|(says, has)| says == has));
        }
        let occurring = (0..).zip(&of_labels);
        let occurring = occurring.filter(|(_, (_, predicted, expected))| predicted + expected > 0);
        let of_each: Vec<(String, f64)> = occurring
            .map(|(label, (both, predicted, expected))| (self.labels.name(label), f1(*both, *predicted, *expected)))
            .collect();
        let sums = of_labels
            .iter()
            .fold((0, 0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1, sum.2 + of.2));
        let figures = Figures::new([
            ("accuracy", fraction(decisions)),
            (
                "f1",
                of_each.iter().map(|(_, f1)| f1).sum::<f64>() / of_each.len().max(1) as f64,
            ),
            ("f1_micro", f1(sums.0, sums.1, sums.2)),
            ("exact_match", fraction(exact)),
        ]);
        Some(Figures {
            of_labels: of_each,
            ..figures
        })
    }

    fn describe(&self, outputs: &Outputs, _example: &Self::Example) -> Prediction {
        let with = outputs.values.iter().enumerate().filter(|(_, score)| **score > 0.0);
        let names: Vec<String> = with.map(|(label, _)| self.labels.name(label)).collect();
        names.join("|").into()
    }
}

#[cfg(test)]
mod tests {
    use adapters_models::Encoded;
    use adapters_models::heads::Pooling;

    use super::*;

    #[test]
    fn decisions_about_labels_are_counted_one_by_one() {
        let pooling = Pooling::Mean;
        let labels = Labels::Names(["a", "b", "c"].map(str::to_owned).to_vec());
        let task = MultiLabel {
            head: HeadConfig::new(HeadKind::MultiLabel { pooling }, labels.names()),
            labels,
        };
        let example = |labels: Option<Vec<usize>>| TextExample {
            source: Encoded {
                ids: vec![1],
                type_ids: vec![0],
                truncated: false,
            },
            target: labels,
        };
        let outputs = Outputs {
            values: vec![1.5, -0.5, 0.1],
            width: 3,
        };
        let figures = |target| task.figures(std::slice::from_ref(&outputs), &[example(target)]);
        let of = |target| figures(target)?.get("accuracy");
        assert_eq!(of(Some(vec![0, 2])), Some(1.0));
        assert_eq!(of(Some(vec![1])), Some(0.0));
        assert_eq!(of(Some(vec![])), Some(1.0 / 3.0));
        assert_eq!(of(None), None);
        // Right about label 0, wrong about 2, and 1 is not there.
        let partly = figures(Some(vec![0])).unwrap();
        assert_eq!((partly.get("f1"), partly.get("exact_match")), (Some(0.5), Some(0.0)));
        assert_eq!(partly.get("f1_micro"), Some(2.0 / 3.0));
        assert_eq!(partly.of_labels, [("a".to_owned(), 1.0), ("c".to_owned(), 0.0)]);
        assert_eq!(task.describe(&outputs, &example(None)).text, "a|c");
    }
}
