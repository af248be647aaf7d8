//! Hiding tokens, for masked language modeling.

use adapters_models::{Encoded, TextTokenizer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::TrainError;

/// How tokens are hidden: BERT's way.
///
/// Of the tokens that are not special, the fraction `probability` is to be predicted; 80 % of those become the mask token,
/// 10 % a random one, 10 % stay. *BERT*, Devlin et al., 2018, <https://arxiv.org/abs/1810.04805>.
#[derive(Clone, Debug)]
pub(crate) struct Masking {
    pub(crate) probability: f64,
    pub(crate) mask_id: u32,
    pub(crate) vocab: u32,
    pub(crate) special: Vec<u32>,
}

/// Rows with hidden tokens, where those are, and what they were.
pub(crate) struct Masked {
    pub(crate) rows: Vec<Encoded>,
    /// Row and position in the row, row by row.
    pub(crate) positions: Vec<(usize, usize)>,
    pub(crate) tokens: Vec<i64>,
}

impl Masking {
    /// # Errors
    ///
    /// [`TrainError::Value`] if the tokenizer has no mask token.
    pub(super) fn new(probability: f64, tokenizer: &TextTokenizer, vocab: usize) -> Result<Self, TrainError> {
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
            vocab: vocab as u32,
            special: tokenizer.special_ids(),
        })
    }

    /// Hides tokens of rows, each with its index in the file, which selects a stream of the seed of its own.
    pub(super) fn hide(&self, given: &[(usize, &Encoded)], seed: u64) -> Masked {
        let mut rows: Vec<Encoded> = given.iter().map(|(_, row)| (*row).clone()).collect();
        let (mut positions, mut tokens) = (Vec::new(), Vec::new());
        let fraction = |x: u32| f64::from(x) / (f64::from(u32::MAX) + 1.0);
        for (at, (row, (index, _))) in rows.iter_mut().zip(given).enumerate() {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(*index as u64);
            for (t, id) in row.ids.iter_mut().enumerate() {
                if self.special.contains(id) || fraction(rng.next_u32()) >= self.probability {
                    continue;
                }
                positions.push((at, t));
                tokens.push(i64::from(*id));
                match fraction(rng.next_u32()) {
                    x if x < 0.8 => *id = self.mask_id,
                    x if x < 0.9 => *id = rng.next_u32() % self.vocab,
                    _ => {}
                }
            }
        }
        if positions.is_empty() {
            // A batch of very short texts: the first token predicts itself.
            positions.push((0, 0));
            tokens.push(i64::from(rows[0].ids[0]));
        }
        Masked {
            rows,
            positions,
            tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_tokens_are_never_special_repeat_with_the_seed_and_keep_their_fraction() {
        let masking = Masking {
            probability: 0.15,
            mask_id: 103,
            vocab: 1000,
            special: vec![101, 102],
        };
        let row = |n: u32| Encoded {
            ids: [101].into_iter().chain((0..n).map(|t| 200 + t)).chain([102]).collect(),
            type_ids: vec![0; n as usize + 2],
            truncated: false,
        };
        let rows: Vec<_> = (0..200).map(|i| row(10 + i % 30)).collect();
        let all: Vec<(usize, &Encoded)> = rows.iter().enumerate().collect();
        let (once, again, other) = (masking.hide(&all, 1), masking.hide(&all, 1), masking.hide(&all, 2));
        assert_eq!(once.positions, again.positions);
        assert_ne!(once.positions, other.positions);
        assert!(once.tokens.iter().all(|id| (200..300).contains(id)));
        let words: usize = rows.iter().map(|row| row.ids.len() - 2).sum();
        let fraction = once.tokens.len() as f64 / words as f64;
        assert!((fraction - 0.15).abs() < 0.02, "{fraction}");
        let masks = once.rows.iter().flat_map(|r| &r.ids).filter(|id| **id == 103).count();
        let masked = masks as f64 / once.tokens.len() as f64;
        assert!((masked - 0.8).abs() < 0.05, "{masked}");
        // A row is hidden alike in any batch.
        let alone = masking.hide(&all[7..8], 1);
        assert_eq!(alone.rows[0], once.rows[7]);
    }
}
