//! Beam search: of several continuations of a text, the likeliest.

use burn::tensor::Tensor;

use crate::error::ModelError;
use crate::generate::{Generation, Step, check_scores, refuse};

/// Keeps the `count` likeliest continuations of a text at every token, and returns the one with the highest
/// `log p(tokens) / length^length_penalty` of those that ended. It computes what the beam search of Hugging Face
/// transformers computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    /// Continuations kept (`num_beams`).
    pub count: usize,
    /// Above zero favors long continuations, below zero short ones.
    pub length_penalty: f64,
    /// When the search of a text ends.
    pub early_stopping: EarlyStopping,
}

/// When the search of a text ends, once `count` continuations have ended. The names are those of transformers'
/// `early_stopping`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best unfinished continuation would be worse if it ended now.
    #[default]
    False,
    /// At once.
    True,
    /// When the best unfinished continuation cannot become better at any length.
    Never,
}

impl Default for Beams {
    /// Five, as long as they are likely.
    fn default() -> Self {
        Self {
            count: 5,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::False,
        }
    }
}

/// The most continuations that are kept: each has a row of the batch, and scores of all tokens.
const MOST: usize = 1024;

/// Of a beam that does not exist yet: all begin as one.
const NOTHING: f32 = -1e9;

impl Beams {
    /// Checks the values against their ranges.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        if !(1..=MOST).contains(&self.count) {
            return Err(refuse("beams", &format!("1 to {MOST}"), self.count.to_string()));
        }
        match self.length_penalty.is_finite() {
            true => Ok(()),
            false => Err(refuse("length_penalty", "a number", self.length_penalty.to_string())),
        }
    }

    /// What the texts grow by. `rows` has each text `count` times, one after the other; `scores` are those of the token
    /// after each row, `[rows, 1, vocab]`.
    pub(super) fn search(
        self,
        generation: &Generation,
        mut rows: Vec<Vec<u32>>,
        mut scores: impl FnMut(Step<'_>) -> Result<Tensor<3>, ModelError>,
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut searches: Vec<Search> = rows.chunks(self.count).map(Search::new).collect();
        let mut order = Vec::new();
        for index in 0..generation.max_new_tokens {
            let scores = scores(Step {
                rows: &rows,
                order: &order,
            })?;
            let [_, _, vocab] = scores.dims();
            let scores: Vec<f64> = scores.into_data().iter().collect();
            scores.chunks(vocab).try_for_each(check_scores)?;
            order.clear();
            for (text, (search, scores)) in searches.iter_mut().zip(scores.chunks(self.count * vocab)).enumerate() {
                let parents = search.advance(self, generation, index + 1, scores.chunks(vocab))?;
                order.extend(parents.into_iter().map(|parent| text * self.count + parent));
            }
            if searches.iter().all(|search| !search.open) {
                break;
            }
            let running = searches.iter().flat_map(|search| &search.running);
            rows = running.map(|beam| beam.tokens.clone()).collect();
        }
        let best = searches.into_iter().map(|search| search.best(&generation.stop));
        Ok(best.collect())
    }
}

/// A text and what it has grown by.
#[derive(Clone)]
struct Beam {
    score: f32,
    tokens: Vec<u32>,
}

/// A token after one of the beams.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    parent: usize,
    token: u32,
}

/// The search of one text.
struct Search {
    /// Length of the text.
    start: usize,
    running: Vec<Beam>,
    /// The best that ended, best first, by their scores with the length penalty.
    finished: Vec<Beam>,
    /// Whether a better one may come.
    open: bool,
}

impl Search {
    fn new(rows: &[Vec<u32>]) -> Self {
        let beam = |(index, tokens): (usize, &Vec<u32>)| Beam {
            score: if index == 0 { 0.0 } else { NOTHING },
            tokens: tokens.clone(),
        };
        Self {
            start: rows.first().map_or(0, Vec::len),
            running: rows.iter().enumerate().map(beam).collect(),
            finished: Vec::new(),
            open: true,
        }
    }

    /// Makes the beams a token longer, of which they then have `length`; which beam each of them continues with.
    fn advance<'s>(
        &mut self,
        beams: Beams,
        generation: &Generation,
        length: usize,
        scores: impl Iterator<Item = &'s [f64]>,
    ) -> Result<Vec<usize>, ModelError> {
        let mut candidates = Vec::new();
        for (parent, (beam, scores)) in self.running.iter().zip(scores).enumerate() {
            let mut scores = log_softmax(scores.iter().copied());
            generation.follow_rules(&mut scores, &beam.tokens, self.start)?;
            if generation.rules.renormalize {
                scores = log_softmax(scores.into_iter());
            }
            candidates.extend((0u32..).zip(scores).map(|(token, score)| Candidate {
                score: beam.score + score as f32,
                parent,
                token,
            }));
        }
        // Enough that some go on even if all that can end do.
        let kept = beams.count * (1 + generation.stop.len()).max(2);
        let candidates = highest(candidates, kept);
        let ends = |candidate: &Candidate| generation.stop.contains(&candidate.token);
        let is_last = length == generation.max_new_tokens;

        let is_full = self.finished.len() == beams.count && beams.early_stopping == EarlyStopping::True;
        if self.open && !is_full {
            let ended = candidates
                .iter()
                .take(beams.count)
                .filter(|candidate| is_last || ends(candidate));
            let ended = ended.map(|candidate| Beam {
                score: candidate.score / (length as f32).powf(beams.length_penalty as f32),
                ..self.grown(candidate)
            });
            let ended: Vec<Beam> = ended.collect();
            self.finished.extend(ended);
            self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
            self.finished.truncate(beams.count);
        }

        let mut next: Vec<Candidate> = candidates
            .iter()
            .copied()
            .filter(|candidate| !ends(candidate))
            .collect();
        next.truncate(beams.count);
        // A vocabulary of few tokens has fewer continuations than there are beams.
        let fill = next.first().or(candidates.first()).copied();
        next.extend(
            fill.into_iter()
                .cycle()
                .take(beams.count - next.len())
                .map(|candidate| Candidate {
                    score: NOTHING,
                    ..candidate
                }),
        );
        self.running = next.iter().map(|candidate| self.grown(candidate)).collect();
        self.open &= !is_last && self.can_improve(beams, generation.max_new_tokens, length);
        Ok(next.iter().map(|candidate| candidate.parent).collect())
    }

    /// Whether an unfinished beam can be better than the worst finished one.
    fn can_improve(&self, beams: Beams, longest: usize, length: usize) -> bool {
        let (Some(worst), Some(best)) = (self.finished.get(beams.count - 1), self.running.first()) else {
            return true;
        };
        let length = match beams.early_stopping {
            EarlyStopping::True => return false,
            EarlyStopping::Never if beams.length_penalty > 0.0 => longest,
            EarlyStopping::Never | EarlyStopping::False => length,
        };
        best.score / (length as f32).powf(beams.length_penalty as f32) > worst.score
    }

    fn grown(&self, candidate: &Candidate) -> Beam {
        let mut tokens = self.running[candidate.parent].tokens.clone();
        tokens.push(candidate.token);
        Beam {
            score: candidate.score,
            tokens,
        }
    }

    /// What the best grew by, without the token that ended it.
    fn best(self, stop: &[u32]) -> Vec<u32> {
        let best = self.finished.into_iter().chain(self.running).next();
        let grown = best
            .into_iter()
            .flat_map(|beam| beam.tokens.into_iter().skip(self.start));
        grown.take_while(|token| !stop.contains(token)).collect()
    }
}

fn log_softmax(scores: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let highest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    let shifted = scores.map(|score| score - highest);
    let log_sum = shifted.clone().map(f64::exp).sum::<f64>().ln();
    shifted.map(|score| score - log_sum).collect()
}

/// The `count` with the highest scores, highest first. Of equal ones the first comes first.
fn highest(mut candidates: Vec<Candidate>, count: usize) -> Vec<Candidate> {
    let by_score = |a: &Candidate, b: &Candidate| {
        let score = b.score.total_cmp(&a.score);
        score.then((a.parent, a.token).cmp(&(b.parent, b.token)))
    };
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_score);
        candidates.truncate(count);
    }
    candidates.sort_by(by_score);
    candidates
}
