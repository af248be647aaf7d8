//! Continuing texts with a causal language model, and answering them with an encoder-decoder, token by token.

mod beam;
mod prompt_cache;
mod rules;
mod sampling;

use adapters_adapted::Adapted;
use adapters_core::{Active, AdapterSet, Ctx};
use burn::tensor::Tensor;

use crate::cache::KeyValueCache;
use crate::error::ModelError;
use crate::input::{PaddingSide, SpeechInput, TextInput};
use crate::model::Model;
use crate::speech::SpeechPrompt;
use crate::transformer::{EncodedInput, EncoderDecoder};

pub use beam::{Beams, EarlyStopping};
pub use prompt_cache::PromptCache;
use rules::Growing;
pub use rules::TokenRules;
use sampling::Sampler;
pub use sampling::Sampling;

/// How to continue texts.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `max_new_tokens` | 128 | tokens a text grows by at most | at least 1 |
/// | `sampling` | greedy | which token comes next | see [`Sampling`] |
/// | `beams` | none | search among several continuations | see [`Beams`]; greedy only |
/// | `repetition_penalty` | 1 | scores of tokens that were there are divided by it, negative ones multiplied | above 0 |
/// | `rules` | none | tokens that may not, or must, come next | see [`TokenRules`] |
/// | `start` | that of the model | what the answer of an encoder-decoder begins with, and which is not part of it | |
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
    /// Beam search, in place of one token after the other. Tokens are known at the end only.
    pub beams: Option<Beams>,
    /// Divides the scores of tokens that are in the text already. *CTRL*, Keskar et al., 2019,
    /// <https://arxiv.org/abs/1909.05858>.
    pub repetition_penalty: f64,
    /// Tokens that may not, or must, come next.
    pub rules: TokenRules,
    /// What the answer of an encoder-decoder begins with, in place of the start token of the model.
    pub start: Option<u32>,
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
            beams: None,
            repetition_penalty: 1.0,
            rules: TokenRules::default(),
            start: None,
            stop: Vec::new(),
            seed: 0,
            cache: true,
            tasks: Vec::new(),
        }
    }
}

/// What the next tokens are computed of.
struct Step<'r> {
    rows: &'r [Vec<u32>],
    /// Which row of the step before each row continues with; empty where each continues with itself.
    order: &'r [usize],
}

impl Generation {
    /// Continues `prompts` with the active adapters; what each grew by, without the token that ended it. Every new
    /// token goes to `on_token` with the index of its text as soon as it is known.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongKind`] for a model that is no causal language model; [`ModelError::Generation`] for a field out of
    /// its range, a prompt without tokens or beyond the longest input, and a
    /// composition that makes several outputs of one input; [`ModelError::Adapter`] for tasks the composition does not have
    /// and for rows or positions of a composition that are not those of the texts.
    pub fn run(
        &self,
        adapted: &Adapted<Model>,
        prompts: &[&[u32]],
        on_token: impl FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        self.continue_rows(&mut PromptCache::new(adapted), prompts, on_token)
    }

    /// As [`run`](Self::run), for one prompt, of which only the tokens that `cache` does not hold are computed: a conversation,
    /// whose every prompt begins with the one before and its answer. The cache then holds this text.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_cached(
        &self,
        cache: &mut PromptCache<'_>,
        prompt: &[u32],
        mut on_token: impl FnMut(u32),
    ) -> Result<Vec<u32>, ModelError> {
        let rows = self.continue_rows(cache, &[prompt], |_, token| on_token(token))?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Continues `prompts` from what `kept` holds of them.
    fn continue_rows(
        &self,
        kept: &mut PromptCache<'_>,
        prompts: &[&[u32]],
        on_token: impl FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let (model, set) = (kept.adapted.base(), &kept.adapted.set);
        let (lm, info) = (model.causal_lm()?, model.info());
        let prompt = self.check(set, prompts, model.vocab_size())?;
        self.check_length(prompt, self.max_new_tokens, info.max_length)?;
        let device = model.device();
        let input = |rows: &[&[u32]]| TextInput::padded(rows, info.pad_id, PaddingSide::Left, &device);
        let mut cache = self.caches(set).then(|| kept.take(lm, prompts));
        let rows = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        let grown = self.grow(rows, info.pad_id, on_token, |step| {
            if let Some(cache) = &mut cache
                && !lm.keeps(cache.columns(), cache.columns() + step.longest() - cache.text())
            {
                *cache = KeyValueCache::new();
            }
            let rows = step.unseen(cache.as_mut());
            let mut cx = self.context(set, self.rows_of_a_text())?.generating(prompt);
            let hidden = match &mut cache {
                Some(cache) => lm.forward_cached(input(&rows), cache, &mut cx)?,
                None => lm.forward(input(&rows), &mut cx)?,
            };
            let [_, seq, _] = hidden.dims();
            Ok(lm.logits(hidden.slice_dim(1, seq - 1..seq), &mut cx))
        })?;
        if let (Some(cache), None, [prompt], [new]) = (cache, self.beams, prompts, &grown[..]) {
            kept.put(cache, prompt, new);
        }
        Ok(grown)
    }

    /// What an encoder-decoder answers to `texts`, which it reads once; otherwise as [`run`](Self::run). The longest input
    /// holds for the texts and for the answers.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn answer(
        &self,
        adapted: &Adapted<Model>,
        texts: &[&[u32]],
        on_token: impl FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let (model, set) = (adapted.base(), &adapted.set);
        let (device, info) = (model.device(), model.info());
        let longest = self.check(set, texts, model.vocab_size())?;
        let model = model.encoder_decoder()?;
        self.check_length(longest, 0, info.max_length)?;
        self.check_length(1, self.max_new_tokens, info.max_length)?;
        let input = |rows: &[&[u32]]| TextInput::padded(rows, info.pad_id, PaddingSide::Right, &device);
        let text = input(texts);
        // Always said, for it tells adapters how long the texts are.
        let none = || Tensor::full([texts.len(), longest], false, &device);
        let text = TextInput {
            padding: Some(text.padding.unwrap_or_else(none)),
            ..TextInput::new(text.ids)
        };
        let mut cx = self.context(set, 1)?;
        let encoded = model.encode(text.into(), &mut cx)?;
        let start = [self.start.unwrap_or(model.start_id() as u32)];
        self.write((model, info.pad_id), set, encoded, &start, on_token)
    }

    /// The texts that a model hears in `speech`, each of which begins with the tokens of `start`; otherwise as
    /// [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), also for tokens of `start` that are not in the vocabulary; [`ModelError::Adapter`] for a model that
    /// does not read speech.
    pub fn transcribe(
        &self,
        adapted: &Adapted<Model>,
        speech: SpeechInput,
        start: &SpeechPrompt,
        on_token: impl FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let (model, set) = (adapted.base(), &adapted.set);
        let (info, vocabulary) = (model.info(), model.vocab_size());
        let model = model.encoder_decoder()?;
        let texts = vec![start.tokens.as_slice(); speech.features.dims()[0]];
        let begun = self.check(set, &texts, vocabulary)?;
        self.check_length(begun, self.max_new_tokens, info.max_length)?;
        let mut rules = self.rules.clone();
        rules.suppressed.extend(&start.suppressed);
        rules.suppressed_first.extend(&start.suppressed_first);
        let generation = Self { rules, ..self.clone() };
        generation.check_rules(vocabulary)?;
        let mut cx = self.context(set, 1)?;
        let encoded = model.encode(speech.into(), &mut cx)?;
        generation.write((model, info.pad_id), set, encoded, &start.tokens, on_token)
    }

    /// Writes the texts of what was encoded, each of which begins with `start`.
    fn write(
        &self,
        (model, pad_id): (&dyn EncoderDecoder, usize),
        set: &AdapterSet,
        encoded: EncodedInput,
        start: &[u32],
        on_token: impl FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        if self.context(set, 1)?.base_pass().is_some() {
            let found = "one that reads the last hidden state of the decoder".to_owned();
            return Err(refuse(
                "adapter",
                "a router that reads no pass before the one it acts in",
                found,
            ));
        }
        let device = encoded.hidden.device();
        let rows = vec![start.to_vec(); encoded.hidden.dims()[0]];
        let encoded = encoded.each_repeated(self.rows_of_a_text());
        // What invokes an adapter may come with every token here: an answer has no prompt.
        let invoked = set
            .iter()
            .any(|adapter| adapter.method().capabilities().invoked.is_some());
        let mut cache = (self.caches(set) && !invoked).then(KeyValueCache::new);
        self.grow(rows, pad_id, on_token, |step| {
            let rows = step.unseen(cache.as_mut());
            let mut cx = self.context(set, self.rows_of_a_text())?;
            let ids = TextInput::padded(&rows, pad_id, PaddingSide::Right, &device).ids;
            let hidden = model.decode(ids, &encoded, cache.as_mut(), &mut cx)?;
            let [_, seq, _] = hidden.dims();
            Ok(model.logits(hidden.slice_dim(1, seq - 1..seq), &mut cx))
        })
    }

    /// Whether keys and values are kept.
    fn caches(&self, set: &AdapterSet) -> bool {
        self.cache && Ctx::new(set).is_causal()
    }

    /// Rows the decoder has for each text.
    fn rows_of_a_text(&self) -> usize {
        self.beams.map_or(1, |beams| beams.count)
    }

    /// The context of one pass, over each text `times` times.
    fn context<'s>(&self, set: &'s AdapterSet, times: usize) -> Result<Ctx<'s>, ModelError> {
        let tasks = self.tasks.iter().flat_map(|task| std::iter::repeat_n(*task, times));
        Ok(Ctx::new(set).with_tasks(tasks)?)
    }

    /// Makes `rows` longer, token by token; what each grew by. `scores` are those of the token after each row,
    /// `[rows, 1, vocab]`.
    fn grow(
        &self,
        mut rows: Vec<Vec<u32>>,
        pad_id: usize,
        mut on_token: impl FnMut(usize, u32),
        mut scores: impl FnMut(Step<'_>) -> Result<Tensor<3>, ModelError>,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        if let Some(beams) = self.beams {
            let rows = rows.into_iter().flat_map(|row| std::iter::repeat_n(row, beams.count));
            let grown = beams.search(self, rows.collect(), scores)?;
            for (index, row) in grown.iter().enumerate() {
                row.iter().for_each(|token| on_token(index, *token));
            }
            return Ok(grown);
        }
        let mut samplers: Vec<Sampler> = (0..rows.len())
            .map(|row| Sampler::new(self.sampling, self.seed, row as u64))
            .collect();
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let mut ended = vec![false; rows.len()];
        for _ in 0..self.max_new_tokens {
            let scores = scores(Step {
                rows: &rows,
                order: &[],
            })?;
            let [_, _, vocab] = scores.dims();
            let mut scores: Vec<f64> = scores.into_data().iter().collect();
            for (index, scores) in scores.chunks_mut(vocab).enumerate() {
                if ended[index] {
                    // Rows stay equally long; what follows the end goes nowhere.
                    rows[index].push(pad_id as u32);
                    continue;
                }
                check_scores(scores)?;
                self.follow_rules(scores, &rows[index], lengths[index])?;
                let token = samplers[index].next(scores);
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
        let grown = rows.into_iter().zip(lengths).map(|(row, length)| {
            let new = row[length..].iter().copied();
            new.take_while(|token| !self.stop.contains(token)).collect()
        });
        Ok(grown.collect())
    }

    /// Checks the fields and the texts; the length of the longest.
    fn check(&self, set: &AdapterSet, texts: &[&[u32]], vocabulary: usize) -> Result<usize, ModelError> {
        if self.max_new_tokens == 0 {
            return Err(refuse("max_new_tokens", "at least 1", "0".to_owned()));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            let found = self.repetition_penalty.to_string();
            return Err(refuse("repetition_penalty", "a number above 0", found));
        }
        self.sampling.check()?;
        if let Some(beams) = &self.beams {
            beams.check()?;
            if self.sampling != Sampling::Greedy {
                return Err(refuse("sampling", "greedy, with beams", "random".to_owned()));
            }
        }
        if texts.iter().any(|text| text.is_empty()) || texts.is_empty() {
            return Err(refuse("prompt", "a text with at least one token", "empty".to_owned()));
        }
        if let Some(id) = texts.iter().copied().flatten().find(|id| **id as usize >= vocabulary) {
            let expected = format!("token ids below {vocabulary}, the size of the model's vocabulary");
            return Err(refuse("prompts", &expected, format!("the token {id}")));
        }
        self.check_rules(vocabulary)?;
        let outputs = set.active().map_or(1, Active::replicas);
        if outputs > 1 {
            return Err(refuse("composition", "one output a text", outputs.to_string()));
        }
        if !self.tasks.is_empty() && self.tasks.len() != texts.len() {
            let expected = format!("one a text, {}", texts.len());
            return Err(refuse("tasks", &expected, self.tasks.len().to_string()));
        }
        Ok(texts.iter().map(|text| text.len()).max().unwrap_or(0))
    }

    /// Refuses tokens of the rules that the model does not have.
    fn check_rules(&self, vocabulary: usize) -> Result<(), ModelError> {
        let start = self.start.map(|id| ("decoder_start_token_id", id));
        let mut tokens = self.rules.tokens().chain(start);
        let Some((field, id)) = tokens.find(|(_, id)| *id as usize >= vocabulary) else {
            return Ok(());
        };
        let expected = format!("token ids below {vocabulary}, the size of the model's vocabulary");
        Err(refuse(field, &expected, id.to_string()))
    }

    /// Changes the scores of the token after `text`, which began with `begun` tokens, by the repetition penalty and the rules.
    fn follow_rules(&self, scores: &mut [f64], text: &[u32], begun: usize) -> Result<(), ModelError> {
        sampling::penalize(scores, text, self.repetition_penalty);
        let growing = Growing {
            text,
            begun,
            most: self.max_new_tokens,
            stop: &self.stop,
        };
        self.rules.apply(scores, growing);
        match scores.iter().any(|score| score.is_finite()) {
            true => Ok(()),
            false => {
                let expected = "rules that leave a token to continue with";
                let found = format!("such that after {} tokens none is left", text.len());
                Err(refuse("rules", expected, found))
            }
        }
    }

    fn check_length(&self, text: usize, new: usize, most: Option<usize>) -> Result<(), ModelError> {
        let Some(most) = most.filter(|most| text.saturating_add(new) > *most) else {
            return Ok(());
        };
        let expected = format!("at most the {most} tokens the model takes");
        let found = format!("{new}, after a text of {text}");
        Err(refuse("max_new_tokens", &expected, found))
    }
}

/// Refuses the scores of a token that choose none: one is no number, or none is finite.
fn check_scores(scores: &[f64]) -> Result<(), ModelError> {
    let expected = "finite numbers: weights of the model or its adapter are beyond the range of its precision";
    let wrong = scores.iter().find(|score| score.is_nan() || **score == f64::INFINITY);
    let wrong = wrong.or(scores
        .first()
        .filter(|_| scores.iter().all(|score| score.is_infinite())));
    wrong.map_or(Ok(()), |found| Err(refuse("scores", expected, found.to_string())))
}

fn refuse(field: &'static str, expected: &str, found: String) -> ModelError {
    ModelError::Generation {
        field,
        expected: expected.to_owned(),
        found,
    }
}

impl Step<'_> {
    /// The length of the rows, which are padded to it.
    fn longest(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// What of the rows is not in the cache yet, whose rows go where those of the step went.
    fn unseen(&self, cache: Option<&mut KeyValueCache>) -> Vec<&[u32]> {
        let seen = cache.as_ref().map_or(0, |cache| cache.text());
        if let (Some(cache), false) = (cache, self.order.is_empty()) {
            cache.reorder(self.order);
        }
        let new = self.longest() - seen;
        self.rows
            .iter()
            .map(|row| &row[row.len().saturating_sub(new)..])
            .collect()
    }
}
