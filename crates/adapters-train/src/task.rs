//! What a run trains, and on what: classes of sentences, or hidden tokens.

use std::path::Path;

use adapters_core::{Adapted, Ctx, NamedParams};
use adapters_models::{ClassificationHead, Encoder, EncoderInput, MaskedLmHead, SequenceClassifier, TextTokenizer};
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::batches::eval_batches;
use crate::error::TrainError;
use crate::evaluate::{EncodedData, Evaluation, cross_entropy, evaluate};
use crate::recompute::LossGradients;

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
    MaskedLm(MaskedLmHead),
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

/// What is drawn for one pass of training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draws {
    /// Seed of the masks.
    pub seed: u64,
    /// How many of the first layers go without adapters.
    pub dropped_layers: usize,
}

/// Rows with hidden tokens, where those are, and what they were.
struct Masked {
    rows: EncodedData,
    /// Row and position in the row, row by row.
    places: Vec<(usize, usize)>,
    tokens: Vec<i64>,
}

/// Rows of a data set, and what is to be said of them.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    input: EncoderInput,
    /// Row and position of each hidden token; none where whole rows are classified.
    places: Vec<(usize, usize)>,
    /// Classes or tokens, one a prediction.
    labels: Tensor<1, Int>,
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
        let (mut places, mut tokens) = (Vec::new(), Vec::new());
        let share = |x: u32| f64::from(x) / (f64::from(u32::MAX) + 1.0);
        for (at, (row, index)) in rows.iter_mut().zip(indices).enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(*index as u64);
            for (t, id) in row.ids.iter_mut().enumerate() {
                if self.special.contains(id) || share(rng.next_u32()) >= self.probability {
                    continue;
                }
                places.push((at, t));
                tokens.push(i64::from(*id));
                match share(rng.next_u32()) {
                    x if x < 0.8 => *id = self.mask_id,
                    x if x < 0.9 => *id = rng.next_u32() % self.vocab,
                    _ => {}
                }
            }
        }
        if places.is_empty() {
            // A batch of very short texts: the first token predicts itself.
            places.push((0, 0));
            tokens.push(i64::from(rows[0].ids[0]));
        }
        let lengths = rows.iter().map(|row| row.ids.len()).collect();
        let labels = vec![0; rows.len()];
        Masked {
            rows: EncodedData { rows, labels, lengths },
            places,
            tokens,
        }
    }
}

impl Learner {
    /// Mean loss over a batch times `share`, in training, and its gradients; with the memory of one block if `by_block`.
    pub fn gradients(&self, batch: Batch, share: f64, draws: Draws, by_block: bool) -> LossGradients {
        let (encoder, set) = (&*self.adapted.base, &self.adapted.set);
        let input = batch.input.clone();
        let mut cx = Ctx::new(set)
            .training(draws.seed)
            .skipping_layers(0..draws.dropped_layers);
        let loss = |hidden, cx: &mut Ctx<'_>| {
            let loss = cross_entropy(self.logits(hidden, &batch, cx), batch.labels.clone()).mean();
            let loss = match set.penalty() {
                Some(penalty) => loss + penalty,
                None => loss,
            };
            loss * share
        };
        if by_block {
            return LossGradients::by_block(encoder, input, set, &self.head, &cx, loss);
        }
        let hidden = encoder.forward(input, &mut cx);
        LossGradients::of(&loss(hidden, &mut cx), set, &self.head)
    }

    /// The rows `indices` with what is to be said of them; `seed` hides tokens, where tokens are hidden.
    pub fn batch(
        &self,
        data: &EncodedData,
        indices: &[usize],
        masking: Option<&Masking>,
        seed: u64,
        device: &Device,
    ) -> Batch {
        let pad_id = self.adapted.base.pad_id();
        let Some(masking) = masking else {
            let (input, labels) = data.batch(indices, pad_id, device);
            return Batch {
                input,
                places: Vec::new(),
                labels,
            };
        };
        let masked = masking.hide(data, indices, seed);
        let all: Vec<usize> = (0..indices.len()).collect();
        let (input, _) = masked.rows.batch(&all, pad_id, device);
        let count = masked.tokens.len();
        Batch {
            input,
            places: masked.places,
            labels: Tensor::from_data(TensorData::new(masked.tokens, [count]), device),
        }
    }

    /// Logits of a batch, a row a prediction, `[predictions, classes or vocab]`.
    fn logits(&self, hidden: Tensor<3>, batch: &Batch, cx: &mut Ctx<'_>) -> Tensor<2> {
        match &self.head {
            Head::MaskedLm(head) => {
                let ([rows, seq, width], count) = (hidden.dims(), batch.places.len());
                // An adapter may have made the rows longer.
                let places = batch.places.iter();
                let positions = places.map(|(row, t)| (row * seq + cx.pass().position(*t)) as i64);
                let positions = TensorData::new(positions.collect::<Vec<i64>>(), [count]);
                let positions = Tensor::<1, Int>::from_data(positions, &batch.labels.device());
                // Only what is to be predicted goes through the head: the vocabulary is wide.
                let hidden = hidden.reshape([rows * seq, width]).select(0, positions);
                let logits = head.forward(hidden.unsqueeze_dim(0), &self.adapted.base, cx);
                logits.squeeze_dim(0)
            }
            Head::Classification(head) => head.forward(hidden, cx.pass()),
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
        let (mut loss, mut right, mut count) = (0.0, 0.0, 0usize);
        for indices in eval_batches(&data.lengths, batch_size) {
            let batch = self.batch(data, &indices, masking, EVALUATION, device);
            let mut cx = Ctx::new(&self.adapted.set);
            let hidden = self.adapted.base.forward(batch.input.clone(), &mut cx);
            let (logits, labels) = (self.logits(hidden, &batch, &mut cx), batch.labels);
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
            Head::MaskedLm(head) => head.save(dir, name, &self.adapted.base)?,
        }
        Ok(())
    }
}

impl Head {
    /// Names and ids of the head's parameters.
    pub fn names(&self) -> Vec<(String, ParamId)> {
        let named = match self {
            Self::Classification(head) => head.named_params(),
            Self::MaskedLm(head) => head.named_params(),
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
            labels: vec![0; rows.len()],
            rows,
        };
        let all: Vec<usize> = (0..200).collect();
        let (once, again, other) = (
            masking.hide(&data, &all, 1),
            masking.hide(&data, &all, 1),
            masking.hide(&data, &all, 2),
        );
        assert_eq!(once.places, again.places);
        assert_ne!(once.places, other.places);
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
