//! Scoring a classifier on labeled text.

use adapters_core::{AdapterSet, Ctx};
use adapters_models::heads::{Scores, Targets};
use adapters_models::{Encoded, Encoder, EncoderInput, Head, SequenceClassifier, TextTokenizer};
use burn::data::dataloader::Progress;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use burn::train::metric::{AccuracyInput, AccuracyMetric, LossInput, LossMetric, Metric, MetricMetadata, Numeric};

use crate::batches::eval_batches;
use crate::data::{Dataset, Label};
use crate::error::TrainError;

/// A data set as token ids.
#[derive(Clone, Debug)]
pub struct EncodedData {
    /// Token ids, in the order of the file.
    pub rows: Vec<Encoded>,
    /// Labels, in the order of the file; `None` where there is none.
    pub labels: Vec<Option<Label>>,
    /// Lengths in tokens, in the order of the file.
    pub lengths: Vec<usize>,
}

impl EncodedData {
    /// Encodes a data set for `encoder`.
    ///
    /// # Errors
    ///
    /// Those of the tokenizer, and a [`TrainError::Value`] for a text without tokens or with ids the model does not
    /// have.
    pub fn new(data: &Dataset, tokenizer: &TextTokenizer, encoder: &Encoder) -> Result<Self, TrainError> {
        let texts = data.examples.iter().map(|e| (e.text.as_str(), e.text_pair.as_deref()));
        let rows = tokenizer.encode(texts)?;
        let refuse = |field, expected: String, found: String| Err(TrainError::Value { field, expected, found });
        let (vocab, types) = (encoder.vocab_size(), encoder.token_types());
        for (i, row) in rows.iter().enumerate() {
            if row.ids.is_empty() {
                let found = format!("none in example {} of {}", i + 1, data.path.display());
                return refuse("data", "at least one token in every text".to_owned(), found);
            }
            if let Some(id) = row.ids.iter().find(|id| **id as usize >= vocab) {
                return refuse(
                    "tokenizer",
                    format!("token ids below the model's vocab_size = {vocab}"),
                    id.to_string(),
                );
            }
            if let Some(id) = row.type_ids.iter().find(|id| **id as usize >= types) {
                return refuse(
                    "tokenizer",
                    format!("token types below the model's type_vocab_size = {types}"),
                    id.to_string(),
                );
            }
        }
        Ok(Self {
            lengths: rows.iter().map(|row| row.ids.len()).collect(),
            rows,
            labels: data.examples.iter().map(|e| e.label.clone()).collect(),
        })
    }

    /// Input of the rows `indices`.
    pub(crate) fn input(&self, indices: &[usize], pad_id: usize, device: &Device) -> EncoderInput {
        let rows: Vec<&Encoded> = indices.iter().map(|i| &self.rows[*i]).collect();
        EncoderInput::padded(&rows, pad_id, device)
    }

    /// Classes of the rows `indices`, zero where there is none.
    fn classes(&self, indices: &[usize], device: &Device) -> Tensor<1, Int> {
        let labels: Vec<i64> = indices
            .iter()
            .map(|i| self.labels[*i].as_ref().and_then(Label::class).unwrap_or(0) as i64)
            .collect();
        Tensor::from_data(TensorData::new(labels, [indices.len()]), device)
    }
}

/// What a head should say of the rows `indices`, among `labels` labels.
pub(crate) fn targets(data: &EncodedData, indices: &[usize], labels: usize, device: &Device) -> Targets {
    let rows = indices.len();
    let known: Vec<&Label> = indices.iter().filter_map(|i| data.labels[*i].as_ref()).collect();
    match known.first() {
        Some(Label::Number(_)) => {
            let numbers: Vec<f32> = known.iter().map(|label| number(label)).collect();
            Targets::Numbers(Tensor::from_data(TensorData::new(numbers, [rows]), device))
        }
        Some(Label::Several(_)) => {
            let ones = known.iter().flat_map(|label| has(label, labels));
            let ones: Vec<f32> = ones.map(|has| f32::from(u8::from(has))).collect();
            Targets::Labels(Tensor::from_data(TensorData::new(ones, [rows, labels]), device))
        }
        _ => {
            let classes: Vec<i64> = known.iter().map(|label| label.class().unwrap_or(0) as i64).collect();
            Targets::Classes(Tensor::from_data(TensorData::new(classes, [rows]), device))
        }
    }
}

fn number(label: &Label) -> f32 {
    match label {
        Label::Number(number) => *number,
        Label::Class(_) | Label::Several(_) => 0.0,
    }
}

/// Which of `count` labels an example has.
fn has(label: &Label, count: usize) -> Vec<bool> {
    let mut ones = vec![false; count];
    if let Label::Several(labels) = label {
        for label in labels {
            ones[*label] = true;
        }
    }
    ones
}

/// Scores a head that says a row for each text; the set must be on a plain device. Where a label is missing there is no loss and
/// no accuracy, which are zero then.
///
/// # Errors
///
/// [`TrainError::Model`] for labels of another kind than the head's.
pub fn evaluate_head(
    encoder: &Encoder,
    set: &AdapterSet,
    head: &Head,
    data: &EncodedData,
    batch_size: usize,
    device: &Device,
) -> Result<Evaluation, TrainError> {
    let mut logits = vec![Vec::new(); data.rows.len()];
    let mut loss = 0.0;
    let labels: Option<Vec<&Label>> = data.labels.iter().map(Option::as_ref).collect();
    for indices in eval_batches(&data.lengths, batch_size) {
        let input = data.input(&indices, encoder.pad_id(), device);
        let ([_, seq], mut cx) = (input.ids.dims(), Ctx::new(set));
        let hidden = encoder.forward(input, &mut cx)?;
        let padding = cx.pass().padding.clone();
        let scores = head.forward(hidden, padding, encoder, &mut cx);
        if labels.is_some() {
            let targets = targets(data, &indices, head.config().labels.len(), device);
            let of_batch = head.loss(scores.clone(), targets, None, seq)?.into_scalar::<f32>();
            loss += f64::from(of_batch) * indices.len() as f64;
        }
        if let Scores::Rows(rows) = scores {
            let values: Vec<f32> = rows.into_data().iter::<f32>().collect();
            for (row, index) in values.chunks(values.len() / indices.len()).zip(&indices) {
                logits[*index] = row.to_vec();
            }
        }
    }
    Ok(Evaluation {
        loss: loss / data.rows.len().max(1) as f64,
        accuracy: labels.map_or(0.0, |labels| agreement(&labels, &logits)),
        logits,
    })
}

/// How well scores fit, 0 to 1: the share of right classes, or of right decisions about labels, each counted alone; of numbers
/// the share of their variance that is explained, zero where there is none.
fn agreement(labels: &[&Label], logits: &[Vec<f32>]) -> f64 {
    let share = |right: &[bool]| right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64;
    let pairs = labels.iter().zip(logits);
    match labels.first() {
        Some(Label::Number(_)) => {
            let numbers: Vec<f64> = labels.iter().map(|label| f64::from(number(label))).collect();
            let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
            let spread: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
            let said = logits.iter().map(|row| row.first().copied().map_or(0.0, f64::from));
            let off: f64 = numbers.iter().zip(said).map(|(x, said)| (x - said).powi(2)).sum();
            if spread > 0.0 {
                (1.0 - off / spread).max(0.0)
            } else {
                0.0
            }
        }
        Some(Label::Class(_)) => {
            let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            share(&pairs.map(|(label, row)| label.class() == best(row)).collect::<Vec<_>>())
        }
        _ => {
            let decisions = pairs.flat_map(|(label, row)| {
                let has = has(label, row.len());
                row.iter().map(|score| *score > 0.0).zip(has).collect::<Vec<_>>()
            });
            share(&decisions.map(|(said, has)| said == has).collect::<Vec<_>>())
        }
    }
}

/// The figures of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss: cross-entropy, or that of the head.
    pub loss: f64,
    /// Share of right answers, 0 to 1; of numbers the share of their variance that is explained.
    pub accuracy: f64,
    /// Logits `[examples, classes]`, row by row in the order of the file.
    pub logits: Vec<Vec<f32>>,
}

/// Scores `model`, whose set must be on a plain device (see [`valid`](burn::module::Module::valid)).
///
/// # Errors
///
/// [`TrainError::Device`] if the device fails.
pub fn evaluate(
    model: &SequenceClassifier,
    data: &EncodedData,
    batch_size: usize,
    device: &Device,
) -> Result<Evaluation, TrainError> {
    let pad_id = model.adapted.base.pad_id();
    let score = |indices: &[usize]| {
        let input = data.input(indices, pad_id, device);
        Ok((model.forward(input, None)?, data.classes(indices, device)))
    };
    evaluate_with(score, &data.lengths, batch_size)
}

/// Scores what `score` says of the rows of each batch: their logits `[batch, classes]`, and their labels.
pub(crate) fn evaluate_with(
    score: impl Fn(&[usize]) -> Result<(Tensor<2>, Tensor<1, Int>), TrainError>,
    lengths: &[usize],
    batch_size: usize,
) -> Result<Evaluation, TrainError> {
    let failed = |e: &dyn std::fmt::Debug| TrainError::Device {
        reason: format!("{e:?}"),
    };
    let mut logits = vec![Vec::new(); lengths.len()];
    let (mut accuracy, mut loss) = (AccuracyMetric::new(), LossMetric::new());
    let metadata = MetricMetadata {
        progress: Progress::new(0, lengths.len(), None),
        iteration: None,
        lr: None,
    };
    for indices in eval_batches(lengths, batch_size) {
        let (out, labels) = score(&indices)?;
        let losses = cross_entropy(out.clone(), labels.clone());
        loss.update(&LossInput::new(losses), &metadata)
            .map_err(|e| failed(&e))?;
        accuracy
            .update(&AccuracyInput::new(out.clone(), labels), &metadata)
            .map_err(|e| failed(&e))?;
        let values: Vec<f32> = out.into_data().iter::<f32>().collect();
        for (row, index) in values.chunks(values.len() / indices.len()).zip(&indices) {
            logits[*index] = row.to_vec();
        }
    }
    Ok(Evaluation {
        loss: loss.final_value().current(),
        accuracy: accuracy.final_value().current() / 100.0,
        logits,
    })
}

/// `-log softmax(logits)[label]` of every row. `[batch, classes]`, `[batch]` to `[batch]`.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let picked = activation::log_softmax(logits, 1).gather(1, labels.unsqueeze_dim(1));
    -picked.squeeze_dim(1)
}
