//! Regression: a number of a text, or of a pair of texts.

use adapters_models::Model;
use adapters_models::heads::{HeadConfig, HeadKind, Targets};
use burn::tensor::{Device, Tensor, TensorData};

use super::context::TaskContext;
use super::task::Task;
use super::text::{TextExample, examples, text_batch};
use crate::data::Record;
use crate::error::TrainError;
use crate::evaluate::{Outputs, Prediction};
use crate::inputs::Batch;
use crate::metrics::{Figures, pearson, spearman};

/// Squared error; the metric is the fraction of the numbers' variance that is explained, zero where there is none.
#[derive(Debug)]
pub(super) struct Regression {
    head: HeadConfig,
}

impl Task for Regression {
    const NAME: &'static str = "regression";
    const PIPELINE: Option<&'static str> = Some("text-classification");
    const DATA: &'static str = "`text` and, with `data.fields.text_pair`, a second text; `label`, a number";
    const METRICS: &'static [&'static str] = &["explained", "pearson", "spearman"];

    type Example = TextExample<f32>;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        let kind = HeadKind::Classification { pooling: cx.pooling() };
        Ok(Self {
            head: cx.head(kind, vec!["LABEL_0".to_owned()]),
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(self.head.clone())
    }

    fn serves(head: &HeadConfig) -> bool {
        head.is_regression()
    }

    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let field = &cx.options.fields.label;
        examples(records, cx, |record| Ok(record.number(field, labeled)?))
    }

    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        _seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        Ok(text_batch(examples, model, device, |numbers| {
            let numbers: Vec<f32> = numbers.into_iter().copied().collect();
            let count = numbers.len();
            Targets::Numbers(Tensor::from_data(TensorData::new(numbers, [count]), device))
        }))
    }

    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures> {
        let targets = examples.iter().map(|example| example.target.map(f64::from));
        let targets: Vec<f64> = targets.collect::<Option<_>>()?;
        let mean = targets.iter().sum::<f64>() / targets.len() as f64;
        let variance: f64 = targets.iter().map(|x| (x - mean).powi(2)).sum();
        let predicted = outputs.iter().map(|o| o.values.first().copied().map_or(0.0, f64::from));
        let predicted: Vec<f64> = predicted.collect();
        let error: f64 = targets
            .iter()
            .zip(&predicted)
            .map(|(x, predicted)| (x - predicted).powi(2))
            .sum();
        let explained = match variance > 0.0 {
            true => (1.0 - error / variance).max(0.0),
            false => 0.0,
        };
        Some(Figures::new([
            ("explained", explained),
            ("pearson", pearson(&targets, &predicted)),
            ("spearman", spearman(&targets, &predicted)),
        ]))
    }

    fn describe(&self, outputs: &Outputs, _example: &Self::Example) -> Prediction {
        format!("{:.4}", outputs.values.first().copied().unwrap_or(f32::NAN)).into()
    }
}

#[cfg(test)]
mod tests {
    use adapters_models::Encoded;
    use adapters_models::heads::Pooling;

    use super::*;

    #[test]
    fn the_metric_is_the_explained_share_of_the_variance() {
        let task = Regression {
            head: HeadConfig::regression(Pooling::Mean),
        };
        let score = |targets: &[f32], predicted: &[f32]| {
            let example = |target: &f32| TextExample {
                source: Encoded {
                    ids: vec![1],
                    type_ids: vec![0],
                    truncated: false,
                },
                target: Some(*target),
            };
            let examples: Vec<_> = targets.iter().map(example).collect();
            let outputs = predicted.iter().map(|value| Outputs {
                values: vec![*value],
                width: 1,
            });
            task.figures(&outputs.collect::<Vec<_>>(), &examples).unwrap().values[0].1
        };
        assert_eq!(score(&[1.0, 3.0], &[1.0, 3.0]), 1.0);
        // Variance 2 around 2; errors of 0.5 each leave a quarter of it.
        assert_eq!(score(&[1.0, 3.0], &[1.5, 2.5]), 0.75);
        assert_eq!(score(&[1.0, 3.0], &[9.0, -9.0]), 0.0);
        assert_eq!(score(&[2.0, 2.0], &[2.0, 2.0]), 0.0, "nothing to explain");
    }
}
