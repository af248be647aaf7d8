//! Extractive question answering: where in a text the answer to a question begins and ends.

use std::collections::HashMap;
use std::ops::Range;

use adapters_models::heads::{HeadConfig, HeadKind, Targets};
use adapters_models::{Encoded, Model};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::context::TaskContext;
use super::task::{Example, Task};
use super::text::{batch, check, ints};
use super::usage::Usage;
use crate::data::Record;
use crate::error::TrainError;
use crate::evaluate::{Outputs, Prediction, f1, fraction};
use crate::inputs::Batch;
use crate::metrics::Figures;

/// Longest answer in tokens, as in the examples of transformers.
const LONGEST_ANSWER: usize = 30;

/// Half the cross entropies of the first and the last token of the answer; a question without an answer has both at the first
/// token of the input. The metric is the mean F1 of words, as SQuAD's evaluation computes it. *SQuAD*, Rajpurkar et al., 2016,
/// <https://arxiv.org/abs/1606.05250>.
#[derive(Debug)]
pub(super) struct QuestionAnswering {
    head: HeadConfig,
}

/// A question about a text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Question {
    context: String,
    encoded: Encoded,
    /// Bytes of the context for each token of it.
    spans: Vec<Option<Range<usize>>>,
    answer: Option<Answer>,
}

/// An answer as the file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    text: String,
    /// Its first and last token; `None` where the longest input cut it off, which is not scored.
    tokens: Option<(usize, usize)>,
}

impl Question {
    /// The best span of at most [`LONGEST_ANSWER`] tokens in the context, and its text; empty where the first token of the
    /// input scores higher than any span: no answer.
    fn best(&self, outputs: &Outputs) -> &str {
        let scores: Vec<&[f32]> = outputs.rows().collect();
        let score = |start: usize, end: usize| Some(scores.get(start)?.first()? + scores.get(end)?.get(1)?);
        let mut best = (score(0, 0).unwrap_or(f32::NEG_INFINITY), None);
        if self.spans.first().is_some_and(Option::is_some) {
            // The first token is one of the context: there is no token for "no answer".
            best.0 = f32::NEG_INFINITY;
        }
        for (start, first) in self.spans.iter().enumerate() {
            let Some(first) = first else { continue };
            let ends = self.spans.iter().enumerate().skip(start).take(LONGEST_ANSWER);
            for (end, last) in ends {
                if let (Some(last), Some(score)) = (last, score(start, end))
                    && score > best.0
                {
                    best = (score, Some(first.start..last.end));
                }
            }
        }
        best.1.and_then(|bytes| self.context.get(bytes)).unwrap_or_default()
    }
}

/// Words of an answer as SQuAD compares them: lower case, without punctuation and articles.
fn normalized(text: &str) -> Vec<String> {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let words = kept
        .split_whitespace()
        .filter(|word| !["a", "an", "the"].contains(word));
    words.map(str::to_owned).collect()
}

/// F1 of the words two answers have in common.
fn word_f1(predicted: &str, expected: &str) -> f64 {
    let (predicted, expected) = (normalized(predicted), normalized(expected));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &expected {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in &predicted {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    f1(common, predicted.len(), expected.len())
}

/// Bytes of the answer in the context: from the character given, or where it occurs first.
fn bytes(
    record: &Record,
    context: &str,
    answer: &str,
    field: &str,
    start: Option<usize>,
) -> Result<Range<usize>, TrainError> {
    let at = match start {
        Some(start) => {
            let byte = context.char_indices().map(|(byte, _)| byte).nth(start);
            byte.filter(|byte| context[*byte..].starts_with(answer))
        }
        None => context.find(answer),
    };
    match at {
        Some(at) => Ok(at..at + answer.len()),
        None => {
            let expected = match start {
                Some(start) => format!("at character {start} of the context"),
                None => "a substring of the context".to_owned(),
            };
            Err(record.wrong(field, expected, format!("`{answer}`")).into())
        }
    }
}

impl Example for Question {
    fn length(&self) -> usize {
        self.encoded.length()
    }

    fn truncated(&self) -> usize {
        self.encoded.truncated()
    }
}

impl Task for QuestionAnswering {
    const NAME: &'static str = "question_answering";
    const PIPELINE: Option<&'static str> = Some("question-answering");
    const DATA: &'static str = "`question`, `context`, and `answer`, a part of the context or empty where it has none; \
                                `answer_start`, the offset of its first character, needed if the answer occurs more than once";
    const METRICS: &'static [&'static str] = &["f1", "exact_match"];
    const USAGE: Usage = Usage::Question;

    type Example = Question;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            head: cx.head(HeadKind::QuestionAnswering, Vec::new()),
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(self.head.clone())
    }

    fn serves(head: &HeadConfig) -> bool {
        head.kind == HeadKind::QuestionAnswering
    }

    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let fields = &cx.options.fields;
        let example = |record: &Record| {
            let (question, context) = (record.text(&fields.question)?, record.text(&fields.context)?);
            let aligned = cx.tokenizer()?.encode_aligned(question, context)?;
            check(&aligned.encoded, record, cx.model)?;
            let origins = aligned.origins.into_iter();
            let spans: Vec<Option<Range<usize>>> = origins
                .map(|origin| origin.filter(|origin| origin.text == 1).map(|origin| origin.bytes))
                .collect();
            let answer = match labeled || record.has(&fields.answer) {
                true => {
                    let text = record.text(&fields.answer)?;
                    let start = record.optional_index(&fields.answer_start)?;
                    let tokens = match text {
                        "" => Some((0, 0)),
                        text => {
                            let bytes = bytes(record, context, text, &fields.answer, start)?;
                            tokens_of(&bytes, &spans)
                        }
                    };
                    Some(Answer {
                        text: text.to_owned(),
                        tokens,
                    })
                }
                false => None,
            };
            Ok(Question {
                context: context.to_owned(),
                encoded: aligned.encoded,
                spans,
                answer,
            })
        };
        records.iter().map(example).collect()
    }

    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        _seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        let rows: Vec<&Encoded> = examples.iter().map(|(_, example)| &example.encoded).collect();
        let batch = batch(&rows, rows.len(), model, device);
        // A position beyond the input is not scored.
        let beyond = batch.seq();
        let tokens = examples.iter().map(|(_, example)| {
            let answer = example.answer.as_ref()?;
            Some(answer.tokens.unwrap_or((beyond, beyond)))
        });
        let tokens: Option<Vec<(usize, usize)>> = tokens.collect();
        let targets = tokens.map(|tokens| {
            let column = |of: fn(&(usize, usize)) -> usize| ints(tokens.iter().map(|t| of(t) as i64).collect(), device);
            Targets::Spans {
                start: column(|(start, _)| *start),
                end: column(|(_, end)| *end),
            }
        });
        Ok(Batch { targets, ..batch })
    }

    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures> {
        let scores = outputs.iter().zip(examples).map(|(outputs, example)| {
            let (best, answer) = (example.best(outputs), example.answer.as_ref()?);
            let exact = normalized(best) == normalized(&answer.text);
            Some((word_f1(best, &answer.text), exact))
        });
        let scores: Vec<(f64, bool)> = scores.collect::<Option<_>>()?;
        let sum: f64 = scores.iter().map(|(f1, _)| f1).sum();
        Some(Figures::new([
            ("f1", sum / scores.len().max(1) as f64),
            ("exact_match", fraction(scores.into_iter().map(|(_, exact)| exact))),
        ]))
    }

    fn describe(&self, outputs: &Outputs, example: &Self::Example) -> Prediction {
        example.best(outputs).to_owned().into()
    }
}

/// First and last token that have bytes of the answer, if both its ends are there.
fn tokens_of(answer: &Range<usize>, spans: &[Option<Range<usize>>]) -> Option<(usize, usize)> {
    let holds = |byte: usize| {
        let has = |span: &Option<Range<usize>>| span.as_ref().is_some_and(|span| span.contains(&byte));
        spans.iter().position(has)
    };
    Some((holds(answer.start)?, holds(answer.end - 1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_as_squad_does() {
        assert_eq!(word_f1("The Rhine!", "rhine"), 1.0);
        // Two of three predicted words are among the two expected ones.
        assert!((word_f1("in river Rhine", "river rhine") - 0.8).abs() < 1e-12);
        assert_eq!(word_f1("", ""), 1.0);
        assert_eq!(word_f1("rhine", ""), 0.0);
    }

    #[test]
    fn the_best_span_is_in_the_context_and_may_be_none() {
        let question = |first: Option<Range<usize>>| Question {
            context: "ab cd ef".to_owned(),
            encoded: Encoded {
                ids: vec![0; 5],
                type_ids: vec![0; 5],
                truncated: false,
            },
            // The classification token, the question, and three words.
            spans: vec![first, None, Some(0..2), Some(3..5), Some(6..8)],
            answer: None,
        };
        let outputs = |rows: [[f32; 2]; 5]| Outputs {
            values: rows.concat(),
            width: 2,
        };
        let clear = outputs([[0.0, 0.0], [9.0, 9.0], [0.0, 5.0], [4.0, 0.0], [0.0, 2.0]]);
        // An end before the start is no span, and the question is no answer.
        assert_eq!(question(None).best(&clear), "cd ef");
        let none = outputs([[9.0, 9.0], [0.0, 0.0], [0.0, 5.0], [3.0, 0.0], [0.0, 2.0]]);
        assert_eq!(question(None).best(&none), "");
        assert_eq!(tokens_of(&(3..8), &question(None).spans), Some((3, 4)));
        assert_eq!(tokens_of(&(3..9), &question(None).spans), None);
    }
}
