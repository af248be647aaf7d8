//! The figures of an evaluation, and the outputs of a head on the host.

use adapters_models::heads::Scores;
use burn::tensor::Tensor;

use crate::device_read;
use crate::error::TrainError;
use crate::metrics::Figures;

/// The figures of an evaluation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// Mean loss; zero where nothing is labeled.
    pub loss: f64,
    /// The figures of the task; none where an example is not labeled.
    pub figures: Figures,
    /// The outputs for each example, in the order of the file; none of a language model.
    pub outputs: Vec<Outputs>,
}

impl Evaluation {
    /// Refuses an evaluation whose loss or one of whose outputs is no number: it would be an answer that means nothing.
    ///
    /// # Errors
    ///
    /// [`TrainError::Meaningless`]
    pub fn check_finite(&self) -> Result<(), TrainError> {
        let meaningless = |what: String, found: f64| Err(TrainError::Meaningless { what, found });
        for (index, outputs) in self.outputs.iter().enumerate() {
            let wrong = outputs
                .values
                .iter()
                .find(|value| value.is_nan() || **value == f32::INFINITY);
            if let Some(found) = wrong {
                return meaningless(format!("an output of example {}", index + 1), f64::from(*found));
            }
        }
        match self.loss.is_finite() {
            true => Ok(()),
            false => meaningless("the loss".to_owned(), self.loss),
        }
    }

    /// The figure that the task is known by, with its name.
    pub fn main(&self) -> Option<(&'static str, f64)> {
        self.figures.values.first().copied()
    }

    /// The value of the main figure; zero where nothing is labeled.
    pub fn score(&self) -> f64 {
        self.main().map_or(0.0, |(_, value)| value)
    }

    /// The figure of that name; `loss` is one.
    pub fn figure(&self, name: &str) -> Option<f64> {
        match name {
            "loss" => Some(self.loss),
            name => self.figures.get(name),
        }
    }
}

/// A prediction in words.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// The label, number, tagged words or answer.
    pub text: String,
    /// Its probability, where the task has one.
    pub probability: Option<f32>,
}

impl Prediction {
    /// A prediction with its probability.
    pub fn likely(text: impl Into<String>, probability: f32) -> Self {
        Self {
            text: text.into(),
            probability: Some(probability),
        }
    }
}

impl From<String> for Prediction {
    fn from(text: String) -> Self {
        Self {
            text,
            probability: None,
        }
    }
}

/// The outputs of a head for one example, on the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// Row by row: one row of labels or choices; of tagging one row of labels a token; of question answering one row a token,
    /// of the scores that the answer begins and ends there.
    pub values: Vec<f32>,
    /// Values of a row.
    pub width: usize,
}

impl Outputs {
    /// The outputs of each of `count` examples.
    ///
    /// # Errors
    ///
    /// Those of reading them.
    pub(crate) fn of(scores: Scores, count: usize) -> Result<Vec<Self>, TrainError> {
        let (values, width): (Vec<f32>, usize) = match scores {
            Scores::Rows(rows) => (host(&rows)?, rows.dims()[1]),
            Scores::Tokens(tokens) => (host(&tokens)?, tokens.dims()[2]),
            Scores::Spans { start, end } => (host(&Tensor::stack::<3>(vec![start, end], 2))?, 2),
        };
        let each = values.len() / count.max(1);
        let rows = values.chunks(each.max(1)).map(<[f32]>::to_vec);
        Ok(rows.map(|values| Self { values, width }).collect())
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.width.max(1))
    }
}

fn host<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>, TrainError> {
    Ok(device_read::values(tensor.clone())?.iter().collect())
}

/// Index of the largest value; the first of equal ones.
pub(crate) fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

/// The fraction of `true`, zero of none.
pub(crate) fn fraction(right: impl IntoIterator<Item = bool>) -> f64 {
    let (mut correct, mut count) = (0usize, 0usize);
    for right in right {
        correct += usize::from(right);
        count += 1;
    }
    correct as f64 / count.max(1) as f64
}

/// `2 p r / (p + r)` of counts: correct, predicted and expected; one where nothing is predicted or expected.
pub(crate) fn f1(correct: usize, predicted: usize, expected: usize) -> f64 {
    match predicted + expected {
        0 => 1.0,
        sum => 2.0 * correct as f64 / sum as f64,
    }
}

/// The value with its probability by softmax.
pub(crate) fn probability(row: &[f32], index: usize) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = row.iter().map(|x| (x - max).exp()).sum();
    row.get(index).map_or(f32::NAN, |x| (x - max).exp() / sum)
}
