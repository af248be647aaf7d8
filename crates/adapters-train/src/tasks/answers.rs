//! What a language model answers, compared with what it should: ROUGE-L and exact match.

use adapters_models::{Generation, ModelKind, TextTokenizer};

use super::context::TaskContext;
use crate::batches::eval_batches;
use crate::error::TrainError;
use crate::evaluate::{Evaluation, fraction};
use crate::task_model::TaskModel;

pub(super) const ROUGE_L: &str = "rouge_l";
pub(super) const EXACT_MATCH: &str = "exact_match";

/// Figures of which an evaluation writes answers.
pub(crate) const FIGURES: [&str; 2] = [ROUGE_L, EXACT_MATCH];

/// Writes an answer to each prompt of an evaluation.
#[derive(Debug)]
pub(super) struct Answers {
    tokenizer: TextTokenizer,
    /// By the rules of the checkpoint.
    generation: Generation,
}

/// A prompt, and the answer that it should have.
pub(super) type Asked<'e> = (&'e [u32], &'e [u32]);

impl Answers {
    /// What an evaluation needs that writes answers; `None` for one that does not.
    pub(super) fn new(cx: &TaskContext<'_>) -> Result<Option<Self>, TrainError> {
        if !cx.options.answers {
            return Ok(None);
        }
        Ok(Some(Self {
            tokenizer: cx.tokenizer()?.clone(),
            generation: cx.pretrained.generation()?.generation(),
        }))
    }

    /// Adds the mean ROUGE-L and the fraction of the answers that are right to the letter, but for spaces around them. An answer is at
    /// most as long as the longest that is expected. Nothing is added where nothing is asked.
    pub(super) fn add_figures(
        &self,
        evaluation: &mut Evaluation,
        model: &TaskModel,
        asked: &[Asked<'_>],
        batch_size: usize,
    ) -> Result<(), TrainError> {
        let Some(longest) = asked.iter().map(|(_, answer)| answer.len()).max() else {
            return Ok(());
        };
        let base = model.adapted.base();
        let longest_input = base.max_length().unwrap_or(usize::MAX);
        let positions = longest_input.saturating_sub(model.adapted.set.positions());
        let lengths: Vec<usize> = asked.iter().map(|(prompt, _)| prompt.len()).collect();
        let (mut rouge, mut exact) = (0.0, Vec::new());
        for indices in eval_batches(&lengths, batch_size) {
            let prompts: Vec<&[u32]> = indices.iter().map(|index| asked[*index].0).collect();
            let prompt = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or_default();
            let reads_apart = base.kind() == ModelKind::EncoderDecoder;
            let left = positions.saturating_sub(if reads_apart { 1 } else { prompt });
            let generation = Generation {
                max_new_tokens: longest.min(left),
                ..self.generation.clone()
            };
            let written = match reads_apart {
                true => generation.answer(&model.adapted, &prompts, |_, _| ()),
                false => generation.run(&model.adapted, &prompts, |_, _| ()),
            }?;
            for (index, written) in indices.iter().zip(written) {
                let mut expected = asked[*index].1.split(|id| self.generation.stop.contains(id));
                let expected = self.tokenizer.decode(expected.next().unwrap_or_default())?;
                let written = self.tokenizer.decode(&written)?;
                rouge += rouge_l(&written, &expected);
                exact.push(written.trim() == expected.trim());
            }
        }
        let values = [(ROUGE_L, rouge / asked.len() as f64), (EXACT_MATCH, fraction(exact))];
        evaluation.figures.values.extend(values);
        Ok(())
    }
}

/// The F1 of the longest common subsequence of words, as the package `rouge_score` computes `rougeL` without a stemmer: a word is a run
/// of ASCII letters and digits, in lower case. burn-train has a metric of that name over rows of token ids, which depends on the
/// tokenizer. *ROUGE: A Package for Automatic Evaluation of Summaries*, Lin, 2004, <https://aclanthology.org/W04-1013>.
fn rouge_l(written: &str, expected: &str) -> f64 {
    let (written, expected) = (written.to_lowercase(), expected.to_lowercase());
    let words = |text: &'_ str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (written, expected) = (words(&written), words(&expected));
    // The row of the table of common lengths for the words so far.
    let mut common = vec![0usize; expected.len() + 1];
    for word in &written {
        let mut before = 0;
        for (at, other) in expected.iter().enumerate() {
            let above = common[at + 1];
            common[at + 1] = match word == other {
                true => before + 1,
                false => above.max(common[at]),
            };
            before = above;
        }
    }
    let common = common[expected.len()];
    match written.len() + expected.len() {
        0 => 0.0,
        sum => 2.0 * common as f64 / sum as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the package, made by `make.py` next to them.
    #[test]
    fn rouge_l_is_that_of_rouge_score() {
        let cases: Vec<(String, String, f64)> =
            serde_json::from_str(include_str!("../../tests/rouge/expected.json")).unwrap();
        for (written, expected, score) in cases {
            let found = rouge_l(&written, &expected);
            assert!((found - score).abs() < 1e-12, "{written:?}, {expected:?}: {found}");
        }
    }
}
