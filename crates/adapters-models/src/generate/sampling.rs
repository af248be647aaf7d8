//! Which token comes next.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::ModelError;

/// Which token comes next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The one with the highest score.
    Greedy,
    /// One drawn by `softmax(scores / temperature)`, among the most likely ones only where limits are set. `top_k` is applied
    /// before `top_p`, as in Hugging Face transformers.
    Random {
        /// Above 1 evens the chances out, below 1 sharpens them.
        temperature: f64,
        /// Only this many.
        top_k: Option<usize>,
        /// Only as many as make up this probability. *The Curious Case of Neural Text Degeneration*, Holtzman et al.,
        /// 2019, <https://arxiv.org/abs/1904.09751>.
        top_p: Option<f64>,
    },
}

impl Sampling {
    /// Checks the values against their ranges.
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let Self::Random {
            temperature,
            top_k,
            top_p,
        } = *self
        else {
            return Ok(());
        };
        let refuse = |field, expected: &str, found: String| {
            Err(ModelError::Generation {
                field,
                expected: expected.to_owned(),
                found,
            })
        };
        if !(temperature > 0.0 && temperature.is_finite()) {
            return refuse(
                "temperature",
                "a number above 0; use greedy decoding instead of 0",
                temperature.to_string(),
            );
        }
        if top_k == Some(0) {
            return refuse("top_k", "at least 1", "0".to_owned());
        }
        match top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => refuse("top_p", "0 < p <= 1", p.to_string()),
            _ => Ok(()),
        }
    }
}

/// Chooses the tokens of one text.
pub(crate) struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// For text number `row`, which draws from its own stream of the seed.
    pub(crate) fn new(sampling: Sampling, seed: u64, row: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(row);
        Self { sampling, rng }
    }

    /// The next token, from the scores of all tokens.
    pub(crate) fn next(&mut self, scores: &[f64]) -> u32 {
        match self.sampling {
            Sampling::Greedy => first_highest(scores),
            Sampling::Random {
                temperature,
                top_k,
                top_p,
            } => {
                let chances = chances(scores, temperature, top_k, top_p);
                // 53 bits, evenly in [0, 1).
                let drawn = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                draw(&chances, drawn)
            }
        }
    }
}

/// Divides the scores of tokens that are in `text` by the penalty, and multiplies negative ones.
pub(super) fn penalize(scores: &mut [f64], text: &[u32], penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = text.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = match *score < 0.0 {
                true => *score * penalty,
                false => *score / penalty,
            };
        }
    }
}

fn first_highest(scores: &[f64]) -> u32 {
    let mut best = 0;
    for (token, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = token;
        }
    }
    best as u32
}

/// The tokens that may be drawn with their chances, most likely first. Of equal ones the first comes first.
fn chances(scores: &[f64], temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> Vec<(u32, f64)> {
    let mut ranked: Vec<(u32, f64)> = (0u32..).zip(scores.iter().map(|score| score / temperature)).collect();
    let by_rank = |(token, a): &(u32, f64), (other, b): &(u32, f64)| b.total_cmp(a).then(token.cmp(other));
    if let Some(k) = top_k.filter(|k| *k < ranked.len()) {
        // Only these are put in order.
        ranked.select_nth_unstable_by(k, by_rank);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(by_rank);
    let highest = ranked.first().map_or(0.0, |(_, score)| *score);
    for (_, score) in &mut ranked {
        *score = (*score - highest).exp();
    }
    let sum: f64 = ranked.iter().map(|(_, chance)| chance).sum();
    let mut kept = 0.0;
    let wanted = top_p.map_or(f64::INFINITY, |p| p * sum);
    // The one that reaches `top_p` is in.
    let count = ranked
        .iter()
        .take_while(|(_, chance)| {
            let open = kept < wanted;
            kept += chance;
            open
        })
        .count();
    ranked.truncate(count.max(1));
    let sum: f64 = ranked.iter().map(|(_, chance)| chance).sum();
    ranked
        .into_iter()
        .map(|(token, chance)| (token, chance / sum))
        .collect()
}

/// The token at `drawn` of the summed chances.
fn draw(chances: &[(u32, f64)], drawn: f64) -> u32 {
    let mut sum = 0.0;
    for (token, chance) in chances {
        sum += chance;
        if drawn < sum {
            return *token;
        }
    }
    // Rounding may leave the sum below one.
    chances.last().map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ln` of 0.1, 0.4, 0.2, 0.3.
    fn scores() -> Vec<f64> {
        [0.1f64, 0.4, 0.2, 0.3].map(f64::ln).to_vec()
    }

    fn close(got: &[(u32, f64)], want: &[(u32, f64)]) {
        assert_eq!(got.len(), want.len(), "{got:?}");
        for ((token, chance), (of, expected)) in got.iter().zip(want) {
            assert!(token == of && (chance - expected).abs() < 1e-12, "{got:?}");
        }
    }

    #[test]
    fn limits_keep_the_most_likely() {
        let all = [(1, 0.4), (3, 0.3), (2, 0.2), (0, 0.1)];
        close(&chances(&scores(), 1.0, None, None), &all);
        close(
            &chances(&scores(), 1.0, Some(2), None),
            &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
        );
        // 0.4 and 0.3 make up 0.7, which is not yet 0.75.
        let three = [(1, 4.0 / 9.0), (3, 3.0 / 9.0), (2, 2.0 / 9.0)];
        close(&chances(&scores(), 1.0, None, Some(0.75)), &three);
        close(&chances(&scores(), 1.0, None, Some(0.3)), &[(1, 1.0)]);
        // After `top_k` the chances are 4/7 and 3/7, so that half of them is the first.
        close(&chances(&scores(), 1.0, Some(2), Some(0.5)), &[(1, 1.0)]);
        // Squares of the chances.
        close(
            &chances(&scores(), 0.5, Some(2), None),
            &[(1, 16.0 / 25.0), (3, 9.0 / 25.0)],
        );
    }

    #[test]
    fn draws_follow_the_chances_and_the_seed() {
        let sampling = Sampling::Random {
            temperature: 1.0,
            top_k: None,
            top_p: None,
        };
        let drawn = |seed, row| {
            let mut sampler = Sampler::new(sampling, seed, row);
            (0..4000).map(|_| sampler.next(&scores())).collect::<Vec<_>>()
        };
        let tokens = drawn(7, 0);
        assert_eq!(tokens, drawn(7, 0));
        assert!(tokens != drawn(8, 0) && tokens != drawn(7, 1));
        for (token, chance) in [(0, 0.1), (1, 0.4), (2, 0.2), (3, 0.3)] {
            let fraction = tokens.iter().filter(|t| **t == token).count() as f64 / 4000.0;
            assert!((fraction - chance).abs() < 0.03, "{token}: {fraction}");
        }
    }

    #[test]
    fn the_penalty_lowers_what_was_there_whatever_its_sign() {
        let mut sampler = Sampler::new(Sampling::Greedy, 0, 0);
        let mut next = |mut scores: [f64; 2], text: &[u32]| {
            penalize(&mut scores, text, 2.0);
            sampler.next(&scores)
        };
        assert_eq!(next([3.0, 2.0], &[]), 0);
        assert_eq!(next([3.0, 2.0], &[0, 0]), 1);
        assert_eq!(next([-1.0, -2.5], &[0]), 0);
        assert_eq!(next([-1.0, -1.5], &[0]), 1);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let random = |temperature, top_k, top_p| Sampling::Random {
            temperature,
            top_k,
            top_p,
        };
        assert!(random(0.7, Some(5), Some(0.9)).check().is_ok());
        for (wrong, field) in [
            (random(0.0, None, None), "temperature"),
            (random(1.0, Some(0), None), "top_k"),
            (random(1.0, None, Some(1.5)), "top_p"),
        ] {
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
