//! Which tokens a text may continue with, whatever their scores.

use std::collections::HashSet;

/// Rules about the next token. Names in parentheses are those of transformers' `GenerationConfig`, whose processors these rules reproduce,
/// in their order.
///
/// A checkpoint may have such rules in `generation_config.json`: a translation begins with the token of its language, a summary does not
/// repeat itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// No sequence of this many tokens occurs twice in a text, prompt included; 0 for no limit (`no_repeat_ngram_size`).
    pub no_repeat_ngram: usize,
    /// Sequences of tokens that are not written (`bad_words_ids`). A token that ends a text is not one of them.
    pub bad_words: Vec<Vec<u32>>,
    /// A text does not end before it has this many tokens, those of the prompt of a decoder included (`min_length`).
    pub min_length: usize,
    /// A text does not end before it has grown by this many tokens (`min_new_tokens`).
    pub min_new_tokens: usize,
    /// The token behind a text of one token, which is the start token of an encoder-decoder (`forced_bos_token_id`).
    pub forced_first: Option<u32>,
    /// The tokens one of which comes last, if the text has grown to its longest (`forced_eos_token_id`).
    pub forced_last: Vec<u32>,
    /// Tokens that are never written (`suppress_tokens`).
    pub suppressed: Vec<u32>,
    /// Tokens that what is written does not begin with (`begin_suppress_tokens`).
    pub suppressed_first: Vec<u32>,
    /// Whether scores are normalized again when some tokens are excluded, which matters with beams (`renormalize_logits`).
    pub renormalize: bool,
}

/// The text whose next token is chosen.
#[derive(Clone, Copy)]
pub(super) struct Growing<'t> {
    pub(super) text: &'t [u32],
    /// Tokens that it began with.
    pub(super) begun: usize,
    /// Tokens that it grows by at most.
    pub(super) most: usize,
    /// Tokens that end it.
    pub(super) stop: &'t [u32],
}

impl TokenRules {
    /// Every token id in the rules, with the name of its field in `generation_config.json`.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let named = |field: &'static str, ids: &[u32]| ids.iter().map(move |id| (field, *id)).collect::<Vec<_>>();
        [
            named("bad_words_ids", &self.bad_words.concat()),
            named("forced_bos_token_id", self.forced_first.as_slice()),
            named("forced_eos_token_id", &self.forced_last),
            named("suppress_tokens", &self.suppressed),
            named("begin_suppress_tokens", &self.suppressed_first),
        ]
        .into_iter()
        .flatten()
    }

    /// Sets the scores of tokens that may not come next to negative infinity.
    pub(super) fn apply(&self, scores: &mut [f64], growing: Growing<'_>) {
        let Growing {
            text,
            begun,
            most,
            stop,
        } = growing;
        if let Some(before) = self.no_repeat_ngram.checked_sub(1)
            && let Some(start) = text.len().checked_sub(before)
        {
            let last = &text[start..];
            let seen = text.windows(self.no_repeat_ngram);
            seen.filter(|ngram| ngram.starts_with(last))
                .for_each(|ngram| exclude(scores, ngram[before]));
        }
        for word in &self.bad_words {
            if let Some((last, before)) = word.split_last()
                && !(before.is_empty() && stop.contains(last))
                && word.len() <= text.len().max(1)
                && text.ends_with(before)
            {
                exclude(scores, *last);
            }
        }
        if text.len() < self.min_length || text.len() - begun < self.min_new_tokens {
            stop.iter().for_each(|id| exclude(scores, *id));
        }
        if let Some(first) = self.forced_first.filter(|_| text.len() == 1) {
            only(scores, &[first]);
        }
        if !self.forced_last.is_empty() && text.len() + 1 - begun == most {
            only(scores, &self.forced_last);
        }
        // What follows a forced first token is what a text begins with.
        let first = begun + usize::from(begun == 1 && self.forced_first.is_some());
        let at_first = (text.len() == first).then_some(&self.suppressed_first);
        for id in self.suppressed.iter().chain(at_first.into_iter().flatten()) {
            exclude(scores, *id);
        }
    }
}

/// Excludes a token.
fn exclude(scores: &mut [f64], id: u32) {
    if let Some(score) = scores.get_mut(id as usize) {
        *score = f64::NEG_INFINITY;
    }
}

/// Leaves these tokens alone, with equal scores.
fn only(scores: &mut [f64], ids: &[u32]) {
    let ids: HashSet<usize> = ids.iter().map(|id| *id as usize).collect();
    for (id, score) in scores.iter_mut().enumerate() {
        *score = if ids.contains(&id) { 0.0 } else { f64::NEG_INFINITY };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens out of eight that may follow a text that began with `begun` tokens and grows by five.
    fn left(rules: &TokenRules, text: &[u32], begun: usize) -> Vec<usize> {
        let mut scores = [1.0; 8];
        let growing = Growing {
            text,
            begun,
            most: 5,
            stop: &[7],
        };
        rules.apply(&mut scores, growing);
        (0..8).filter(|id| scores[*id].is_finite()).collect()
    }

    fn without(ids: &[usize]) -> Vec<usize> {
        (0..8).filter(|id| !ids.contains(id)).collect()
    }

    #[test]
    fn sequences_are_not_repeated_and_bad_words_not_written() {
        let ngram = |no_repeat_ngram| TokenRules {
            no_repeat_ngram,
            ..TokenRules::default()
        };
        assert_eq!(left(&ngram(2), &[1, 2, 1, 3, 1], 1), without(&[2, 3]));
        assert_eq!(left(&ngram(3), &[1, 2, 1, 3, 1, 2], 1), without(&[1]));
        assert_eq!(left(&ngram(1), &[1, 2], 1), without(&[1, 2]));
        assert_eq!(left(&ngram(4), &[1, 2], 1), without(&[]));
        assert_eq!(left(&ngram(usize::MAX), &[1, 2], 1), without(&[]));
        let words = TokenRules {
            bad_words: vec![vec![5], vec![7], vec![2, 6], vec![1, 2, 4], vec![9]],
            ..TokenRules::default()
        };
        assert_eq!(left(&words, &[2], 1), without(&[5]));
        assert_eq!(left(&words, &[3, 2], 1), without(&[5, 6]));
        assert_eq!(left(&words, &[0, 1, 2], 1), without(&[4, 5, 6]));
    }

    #[test]
    fn beginnings_and_ends_are_forced_and_suppressed() {
        let short = TokenRules {
            min_length: 3,
            ..TokenRules::default()
        };
        assert_eq!(left(&short, &[1, 2], 2), without(&[7]));
        assert_eq!(left(&short, &[1, 2, 3], 2), without(&[]));
        let short = TokenRules {
            min_new_tokens: 2,
            ..TokenRules::default()
        };
        assert_eq!(left(&short, &[1, 2, 3], 2), without(&[7]));
        assert_eq!(left(&short, &[1, 2, 3, 4], 2), without(&[]));
        let forced = TokenRules {
            forced_first: Some(3),
            forced_last: vec![6, 7],
            suppressed: vec![2],
            suppressed_first: vec![4],
            ..TokenRules::default()
        };
        assert_eq!(left(&forced, &[1], 1), [3]);
        assert_eq!(left(&forced, &[1, 3], 1), without(&[2, 4]));
        assert_eq!(left(&forced, &[1, 3, 5], 1), without(&[2]));
        assert_eq!(left(&forced, &[1, 3, 5, 0, 0], 1), [6, 7]);
        assert_eq!(left(&forced, &[1, 3], 2), without(&[2, 4]));
    }
}
