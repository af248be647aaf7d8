//! What a run trains, and on what: classes of sentences, or hidden tokens.

use std::path::Path;

use adapters_core::{Adapted, Ctx, NamedParams};
use adapters_models::{ClassificationHead, Encoder, Head as FlexibleHead, SequenceClassifier, TextTokenizer};
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::batches::eval_batches;
use crate::error::TrainError;
use crate::evaluate::{EncodedData, Evaluation, cross_entropy, evaluate, evaluate_head, row_scores, targets};

/// An adapted encoder with the head of its task: as a module, its adapters and its head.
#[derive(Module, Debug)]
pub(crate) struct Learner {
    pub adapted: Adapted<Encoder>,
    pub head: Head,
}

/// A head.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One a run.
pub(crate) enum Head {
    Classification(ClassificationHead),
    MaskedLm(FlexibleHead),
    /// Says a number, or several labels, of a text.
    Text(FlexibleHead),
}

/// How tokens are hidden: BERT's way.
///
/// Of the tokens that are not special, the share `probability` is to be predicted; 80 % of those become the mask token,
/// 10 % a random one, 10 % stay. *BERT*, Devlin et al., 2018, <https://arxiv.org/abs/1810.04805>.
#[derive(Clone, Debug)]
pub(crate) struct Masking {
    pub probability: f64,
    pub mask_id: u32,
    pub vocab: u32,
    pub special: Vec<u32>,
}

/// Rows with hidden tokens, where those are, and what they were.
struct Masked {
    rows: EncodedData,
    /// Positions in the padded batch, row by row.
    positions: Vec<i64>,
    tokens: Vec<i64>,
}

/// The seed of the masks of every evaluation, so that its figures can be compared.
const EVALUATION: u64 = 0x0e7a_1a7e;

impl Masking {
    /// # Errors
    ///
    /// [`TrainError::Value`] if the tokenizer has no mask token.
    pub fn new(probability: f64, tokenizer: &TextTokenizer, encoder: &Encoder) -> Result<Self, TrainError> {
        let mask_id = tokenizer
            .token_id("[MASK]")
            .or_else(|| tokenizer.token_id("<mask>"))
            .ok_or_else(|| TrainError::Value {
                field: "head.kind",
                expected: "a tokenizer with a token `[MASK]` or `<mask>`, as masked_lm needs".to_owned(),
                found: "neither".to_owned(),
            })?;
        Ok(Self {
            probability,
            mask_id,
            vocab: encoder.vocab_size() as u32,
            special: tokenizer.special_ids(),
        })
    }

    /// Hides tokens of the rows `indices`; every row has a stream of the seed of its own.
    fn hide(&self, data: &EncodedData, indices: &[usize], seed: u64) -> Masked {
        let mut rows: Vec<_> = indices.iter().map(|i| data.rows[*i].clone()).collect();
        let seq = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let (mut positions, mut tokens) = (Vec::new(), Vec::new());
        let share = |x: u32| f64::from(x) / (f64::from(u32::MAX) + 1.0);
        for (at, (row, index)) in rows.iter_mut().zip(indices).enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(*index as u64);
            for (t, id) in row.ids.iter_mut().enumerate() {
                if self.special.contains(id) || share(rng.next_u32()) >= self.probability {
                    continue;
                }
                positions.push((at * seq + t) as i64);
                tokens.push(i64::from(*id));
                match share(rng.next_u32()) {
                    x if x < 0.8 => *id = self.mask_id,
                    x if x < 0.9 => *id = rng.next_u32() % self.vocab,
                    _ => {}
                }
            }
        }
        if positions.is_empty() {
            // A batch of very short texts: the first token predicts itself.
            positions.push(0);
            tokens.push(i64::from(rows[0].ids[0]));
        }
        let lengths = rows.iter().map(|row| row.ids.len()).collect();
        let labels = vec![None; rows.len()];
        Masked {
            rows: EncodedData { rows, labels, lengths },
            positions,
            tokens,
        }
    }
}

impl Learner {
    /// Mean loss over a batch, in training.
    pub fn loss(
        &self,
        data: &EncodedData,
        indices: &[usize],
        masking: Option<&Masking>,
        seed: u64,
        device: &Device,
    ) -> Result<Tensor<1>, TrainError> {
        let loss = match &self.head {
            Head::Text(head) => {
                let (scores, seq) = row_scores(&self.adapted, head, data, indices, Some(seed), device);
                let targets = targets(data, indices, head.config().labels.len(), device);
                head.loss(scores, targets, None, seq)?
            }
            _ => {
                let (logits, labels) = self.predict(data, indices, masking, Some(seed), device);
                cross_entropy(logits, labels).mean()
            }
        };
        Ok(match self.adapted.set.penalty() {
            Some(penalty) => loss + penalty,
            None => loss,
        })
    }

    /// Logits and what they should say, a row a prediction.
    fn predict(
        &self,
        data: &EncodedData,
        indices: &[usize],
        masking: Option<&Masking>,
        seed: Option<u64>,
        device: &Device,
    ) -> (Tensor<2>, Tensor<1, Int>) {
        let mut cx = Ctx::new(&self.adapted.set);
        if let Some(seed) = seed {
            cx = cx.training(seed);
        }
        let encoder = &*self.adapted.base;
        let pad_id = encoder.pad_id();
        match (&self.head, masking) {
            (Head::MaskedLm(head), Some(masking)) => {
                let masked = masking.hide(data, indices, seed.unwrap_or(EVALUATION));
                let all: Vec<usize> = (0..indices.len()).collect();
                let (input, _) = masked.rows.batch(&all, pad_id, device);
                let hidden = encoder.forward(input, &mut cx);
                let [batch, seq, width] = hidden.dims();
                let count = masked.positions.len();
                let positions = Tensor::<1, Int>::from_data(TensorData::new(masked.positions, [count]), device);
                let labels = Tensor::from_data(TensorData::new(masked.tokens, [count]), device);
                // Only what is to be predicted goes through the head: the vocabulary is wide.
                let hidden = hidden.reshape([batch * seq, width]).select(0, positions);
                let logits = head.scores(hidden.unsqueeze_dim(0), encoder, &mut cx);
                (logits.squeeze_dim(0), labels)
            }
            (Head::Classification(head), _) => {
                let (input, labels) = data.batch(indices, pad_id, device);
                let padding = input.padding.clone();
                let hidden = encoder.forward(input, &mut cx);
                (head.forward(hidden, padding, cx.pass()), labels)
            }
            (Head::MaskedLm(_), None) => unreachable!("a run with this head has a masking"),
            (Head::Text(_), _) => unreachable!("this head scores its rows itself"),
        }
    }

    /// Scores the whole of `data`. For hidden tokens: the mean loss and the share guessed right; no logits.
    pub fn evaluate(
        &self,
        data: &EncodedData,
        masking: Option<&Masking>,
        batch_size: usize,
        device: &Device,
    ) -> Result<Evaluation, TrainError> {
        if let Head::Classification(head) = &self.head {
            let model = SequenceClassifier {
                adapted: self.adapted.clone(),
                head: head.clone(),
            };
            return evaluate(&model, data, batch_size, device);
        }
        if let Head::Text(head) = &self.head {
            return evaluate_head(&self.adapted, head, data, batch_size, device);
        }
        let (mut loss, mut right, mut count) = (0.0, 0.0, 0usize);
        for indices in eval_batches(&data.lengths, batch_size) {
            let (logits, labels) = self.predict(data, &indices, masking, None, device);
            let guesses = logits.clone().argmax(1).squeeze_dim::<1>(1);
            right += f64::from(guesses.equal(labels.clone()).int().sum().into_scalar::<i64>() as f32);
            count += labels.dims()[0];
            loss += f64::from(cross_entropy(logits, labels).sum().into_scalar::<f32>());
        }
        let count = count.max(1) as f64;
        Ok(Evaluation {
            loss: loss / count,
            accuracy: right / count,
            logits: Vec::new(),
        })
    }

    /// Writes the head into the folder of the adapter `name`; the file of a classification head.
    pub fn save_head(&self, dir: &Path, name: &str, file: &str) -> Result<(), TrainError> {
        match &self.head {
            Head::Classification(head) => head.save(&dir.join(file))?,
            Head::MaskedLm(head) | Head::Text(head) => head.save(dir, name, &*self.adapted.base)?,
        }
        Ok(())
    }
}

impl Head {
    /// Names and ids of the head's parameters.
    pub fn names(&self) -> Vec<(String, ParamId)> {
        let named = match self {
            Self::Classification(head) => head.named_params(),
            Self::MaskedLm(head) | Self::Text(head) => head.named_params(),
        };
        named.into_iter().map(|(name, id)| (name.into_owned(), id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use adapters_models::Encoded;

    use super::*;

    #[test]
    fn hidden_tokens_are_never_special_repeat_with_the_seed_and_keep_their_share() {
        let masking = Masking {
            probability: 0.15,
            mask_id: 103,
            vocab: 1000,
            special: vec![101, 102],
        };
        let row = |n: u32| Encoded {
            ids: [101].into_iter().chain((0..n).map(|t| 200 + t)).chain([102]).collect(),
            type_ids: vec![0; n as usize + 2],
        };
        let rows: Vec<_> = (0..200).map(|i| row(10 + i % 30)).collect();
        let data = EncodedData {
            lengths: rows.iter().map(|row| row.ids.len()).collect(),
            labels: vec![None; rows.len()],
            rows,
        };
        let all: Vec<usize> = (0..200).collect();
        let (once, again, other) = (
            masking.hide(&data, &all, 1),
            masking.hide(&data, &all, 1),
            masking.hide(&data, &all, 2),
        );
        assert_eq!(once.positions, again.positions);
        assert_ne!(once.positions, other.positions);
        assert!(once.tokens.iter().all(|id| (200..300).contains(id)));
        let words: usize = data.lengths.iter().map(|l| l - 2).sum();
        let share = once.tokens.len() as f64 / words as f64;
        assert!((share - 0.15).abs() < 0.02, "{share}");
        let masks = once
            .rows
            .rows
            .iter()
            .flat_map(|r| &r.ids)
            .filter(|id| **id == 103)
            .count();
        let masked = masks as f64 / once.tokens.len() as f64;
        assert!((masked - 0.8).abs() < 0.05, "{masked}");
        // A row is hidden alike in any batch.
        let alone = masking.hide(&data, &[7], 1);
        assert_eq!(alone.rows.rows[0], once.rows.rows[7]);
    }
}
