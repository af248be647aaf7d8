//! Continuing texts with a causal language model, token by token.

mod sampling;

use adapters_core::{AdapterSet, Ctx};
use burn::tensor::Tensor;

use crate::cache::KeyValueCache;
use crate::causal_lm::{CausalInput, CausalLm, PaddingSide};
use crate::error::ModelError;

use sampling::Sampler;
pub use sampling::Sampling;

/// How to continue texts.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `max_new_tokens` | 128 | tokens a text grows by at most | at least 1 |
/// | `sampling` | greedy | which token comes next | see [`Sampling`] |
/// | `repetition_penalty` | 1 | scores of tokens that were there are divided by it, negative ones multiplied | above 0 |
/// | `stop` | none | tokens that end a text, and are not part of it | |
/// | `seed` | 0 | of what is drawn; each text has a stream of its own | |
/// | `cache` | true | keep keys and values from token to token | |
/// | `tasks` | none | the task of each text, for `MultiTask` | one a text |
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Tokens a text grows by at most.
    pub max_new_tokens: usize,
    /// Which token comes next.
    pub sampling: Sampling,
    /// Divides the scores of tokens that are in the text already. *CTRL*, Keskar et al., 2019,
    /// <https://arxiv.org/abs/1909.05858>.
    pub repetition_penalty: f64,
    /// Tokens that end a text.
    pub stop: Vec<u32>,
    /// Seed of what is drawn.
    pub seed: u64,
    /// Whether keys and values are kept from token to token. The tokens are the same without; adapters that look ahead
    /// ([`Ctx::is_causal`]) are computed without it in any case.
    pub cache: bool,
    /// The task of each text.
    pub tasks: Vec<Option<usize>>,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            sampling: Sampling::Greedy,
            repetition_penalty: 1.0,
            stop: Vec::new(),
            seed: 0,
            cache: true,
            tasks: Vec::new(),
        }
    }
}

impl Generation {
    /// Continues `prompts` with the adapters active in `set`; what each grew by, without the token that ended it. Every new
    /// token goes to `on_token` with the index of its text as soon as it is known.
    ///
    /// # Errors
    ///
    /// [`ModelError::Generation`] for a field out of its range, a prompt without tokens or beyond the longest input, and a
    /// composition that makes several outputs of one input; [`ModelError::Adapter`] for tasks the composition does not have
    /// and for shares of the batch or of the positions that are not those of the texts.
    ///
    /// # Panics
    ///
    /// Panics if an id is outside the vocabulary.
    pub fn run(
        &self,
        lm: &CausalLm,
        set: &AdapterSet,
        prompts: &[&[u32]],
        mut on_token: impl FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        self.check(lm, set, prompts)?;
        let mut samplers: Vec<Sampler> = (0..prompts.len())
            .map(|row| Sampler::new(self.sampling, self.repetition_penalty, self.seed, row as u64))
            .collect();
        let prompt = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let device = lm.device();
        let mut rows: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        let mut ended = vec![false; rows.len()];
        let mut cache = (self.cache && Ctx::new(set).is_causal()).then(KeyValueCache::new);
        for step in 0..self.max_new_tokens {
            let mut cx = Ctx::new(set).generating(prompt);
            if !self.tasks.is_empty() {
                cx = cx.with_tasks(self.tasks.iter().copied())?;
            }
            let positions = match cache.as_ref().filter(|_| step > 0) {
                Some(_) => 1,
                None => prompt + step,
            };
            cx = cx.for_input(rows.len(), positions)?;
            let input = |rows: &[&[u32]]| CausalInput::padded(rows, lm.pad_id(), PaddingSide::Left, &device);
            let hidden = match &mut cache {
                Some(cache) if step > 0 => {
                    let last: Vec<&[u32]> = rows.iter().map(|row| &row[row.len() - 1..]).collect();
                    lm.forward_cached(input(&last), cache, &mut cx)
                }
                cache => {
                    let all: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
                    match cache {
                        Some(cache) => lm.forward_cached(input(&all), cache, &mut cx),
                        None => lm.forward(input(&all), &mut cx),
                    }
                }
            };
            let scores = last_scores(lm, hidden, &mut cx);
            for (index, scores) in scores.into_iter().enumerate() {
                if ended[index] {
                    // Rows stay equally long; what follows the end goes nowhere.
                    rows[index].push(lm.pad_id() as u32);
                    continue;
                }
                let token = samplers[index].next(scores, &rows[index]);
                ended[index] = self.stop.contains(&token);
                rows[index].push(token);
                if !ended[index] {
                    on_token(index, token);
                }
            }
            if ended.iter().all(|ended| *ended) {
                break;
            }
        }
        Ok(rows
            .into_iter()
            .zip(prompts)
            .map(|(row, prompt)| {
                let new = row[prompt.len()..].iter().copied();
                new.take_while(|token| !self.stop.contains(token)).collect()
            })
            .collect())
    }

    fn check(&self, lm: &CausalLm, set: &AdapterSet, prompts: &[&[u32]]) -> Result<(), ModelError> {
        let refuse = |field, expected: &str, found: String| ModelError::Generation {
            field,
            expected: expected.to_owned(),
            found,
        };
        if self.max_new_tokens == 0 {
            return Err(refuse("max_new_tokens", "at least 1", "0".to_owned()));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            let found = self.repetition_penalty.to_string();
            return Err(refuse("repetition_penalty", "a number above 0", found));
        }
        self.sampling.check()?;
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        if prompts.iter().any(|prompt| prompt.is_empty()) || prompts.is_empty() {
            return Err(refuse("prompts", "at least one token in each", "none".to_owned()));
        }
        if longest + self.max_new_tokens > lm.max_length() {
            let expected = format!("at most the {} tokens the model takes", lm.max_length());
            let found = format!("a prompt of {longest} and {} new ones", self.max_new_tokens);
            return Err(refuse("max_new_tokens", &expected, found));
        }
        let outputs = Ctx::new(set).replicas();
        if outputs > 1 {
            return Err(refuse("composition", "one output a text", format!("{outputs}")));
        }
        if !self.tasks.is_empty() && self.tasks.len() != prompts.len() {
            let expected = format!("one a text, {}", prompts.len());
            return Err(refuse("tasks", &expected, self.tasks.len().to_string()));
        }
        Ok(())
    }
}

/// Scores of the token after the last column, row by row.
fn last_scores(lm: &CausalLm, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Vec<Vec<f32>> {
    let [rows, seq, _] = hidden.dims();
    let logits = lm.logits(hidden.slice_dim(1, seq - 1..seq), cx);
    let [_, _, vocab] = logits.dims();
    let all: Vec<f32> = logits.into_data().iter().collect();
    (0..rows)
        .map(|row| all[row * vocab..(row + 1) * vocab].to_vec())
        .collect()
}
