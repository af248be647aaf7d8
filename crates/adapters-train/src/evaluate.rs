//! Scoring a classifier on labelled text.

use adapters_models::{Encoded, Encoder, EncoderInput, SequenceClassifier, TextTokenizer};
use burn::data::dataloader::Progress;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use burn::train::metric::{AccuracyInput, AccuracyMetric, LossInput, LossMetric, Metric, MetricMetadata, Numeric};

use crate::batches::eval_batches;
use crate::data::Dataset;
use crate::error::TrainError;

/// A data set as token ids.
#[derive(Clone, Debug)]
pub struct EncodedData {
    /// Token ids, in the order of the file.
    pub rows: Vec<Encoded>,
    /// Labels, in the order of the file; zero where there is none.
    pub labels: Vec<usize>,
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
            labels: data.examples.iter().map(|e| e.label.unwrap_or(0)).collect(),
        })
    }

    /// Input and labels of the rows `indices`.
    pub(crate) fn batch(&self, indices: &[usize], pad_id: usize, device: &Device) -> (EncoderInput, Tensor<1, Int>) {
        let rows: Vec<&Encoded> = indices.iter().map(|i| &self.rows[*i]).collect();
        let labels: Vec<i64> = indices.iter().map(|i| self.labels[*i] as i64).collect();
        let labels = Tensor::from_data(TensorData::new(labels, [indices.len()]), device);
        (EncoderInput::padded(&rows, pad_id, device), labels)
    }
}

/// The figures of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of right answers, 0 to 1.
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
        let (input, labels) = data.batch(indices, pad_id, device);
        (model.forward(input, None), labels)
    };
    evaluate_with(score, &data.lengths, batch_size)
}

/// Scores what `score` says of the rows of each batch: their logits `[batch, classes]`, and their labels.
pub(crate) fn evaluate_with(
    score: impl Fn(&[usize]) -> (Tensor<2>, Tensor<1, Int>),
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
        let (out, labels) = score(&indices);
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
