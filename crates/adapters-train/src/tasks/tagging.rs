//! Tagging: a label of every word of a sentence.

use std::collections::{BTreeMap, HashSet};

use adapters_models::heads::{HeadConfig, HeadKind, IGNORED, Targets};
use adapters_models::{Encoded, Model};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::context::TaskContext;
use super::task::{Example, LabelField, Task};
use super::text::{batch, check};
use crate::data::{Labels, Record};
use crate::error::TrainError;
use crate::evaluate::{Outputs, Prediction, f1, largest};
use crate::inputs::Batch;
use crate::metrics::{Confusion, Figures};

/// Cross entropy at the first token of each word. The metric is the F1 of spans, as `conlleval` counts them, where the labels
/// are `B-X`, `I-X` and `O`; otherwise the accuracy of words.
#[derive(Debug)]
pub(super) struct Tagging {
    labels: Labels,
    head: HeadConfig,
}

/// A sentence in words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TaggedSentence {
    words: Vec<String>,
    encoded: Encoded,
    /// The first token of each word that the longest input leaves.
    first_tokens: Vec<usize>,
    tags: Option<Vec<usize>>,
}

impl Tagging {
    /// The tag of each word that the longest input leaves.
    fn tags(outputs: &Outputs, example: &TaggedSentence) -> Vec<usize> {
        let rows: Vec<&[f32]> = outputs.rows().collect();
        let tokens = example.first_tokens.iter();
        tokens.filter_map(|token| Some(largest(rows.get(*token)?))).collect()
    }

    fn spans_of(&self, tags: &[usize]) -> HashSet<(usize, usize, String)> {
        let names: Vec<String> = tags.iter().map(|tag| self.labels.name(*tag)).collect();
        spans(&names)
    }
}

/// Spans of `B-X`, `I-X` and `O` tags: first word, the word after the last, and `X`. As in `conlleval`, an `I-X` after another
/// type begins a span.
fn spans(tags: &[String]) -> HashSet<(usize, usize, String)> {
    let mut spans = HashSet::new();
    let mut open: Option<(usize, &str)> = None;
    for (at, tag) in tags.iter().map(String::as_str).chain(["O"]).enumerate() {
        let (begins, kind) = match (tag.strip_prefix("B-"), tag.strip_prefix("I-")) {
            (Some(kind), _) => (true, Some(kind)),
            (None, Some(kind)) => (open.is_none_or(|(_, of)| of != kind), Some(kind)),
            (None, None) => (true, None),
        };
        if begins {
            if let Some((start, of)) = open {
                spans.insert((start, at, of.to_owned()));
            }
            open = kind.map(|kind| (at, kind));
        }
    }
    spans
}

impl Example for TaggedSentence {
    fn length(&self) -> usize {
        self.encoded.length()
    }

    fn truncated(&self) -> usize {
        self.encoded.truncated()
    }
}

impl Task for Tagging {
    const NAME: &'static str = "tagging";
    const PIPELINE: Option<&'static str> = Some("token-classification");
    const DATA: &'static str =
        "`words`, a list of the words of a sentence, and `tags`, the tag of each; separated by spaces in a table";
    const METRICS: &'static [&'static str] = &["f1", "accuracy"];
    const REPEATS_INPUT: bool = true;
    const LABELS: usize = 1;
    const LABEL_FIELD: Option<LabelField> = Some(|fields| (&fields.tags, Some(' ')));

    type Example = TaggedSentence;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        let labels = cx.options.labels.clone();
        Ok(Self {
            head: cx.head(HeadKind::Tagging, labels.names()),
            labels,
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(self.head.clone())
    }

    fn serves(head: &HeadConfig) -> bool {
        head.kind == HeadKind::Tagging
    }

    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let fields = &cx.options.fields;
        let example = |record: &Record| {
            let words = record.texts(&fields.words, ' ')?;
            let tags = record.class_of_each(&fields.tags, &self.labels, words.len(), labeled)?;
            let aligned = cx.tokenizer()?.encode_words(&words)?;
            check(&aligned.encoded, record, cx.model)?;
            let mut first_tokens = Vec::new();
            for (token, origin) in aligned.origins.iter().enumerate() {
                // A word without a token of its own, as of control characters only, has no prediction.
                if origin.as_ref().is_some_and(|origin| origin.word == first_tokens.len()) {
                    first_tokens.push(token);
                }
            }
            Ok(TaggedSentence {
                words,
                encoded: aligned.encoded,
                first_tokens,
                tags,
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
        let words = examples.iter().map(|(_, example)| example.first_tokens.len()).sum();
        let batch = batch(&rows, words, model, device);
        let seq = batch.seq();
        let mut tags = vec![IGNORED; rows.len() * seq];
        for (row, (_, example)) in examples.iter().enumerate() {
            for (token, tag) in example.first_tokens.iter().zip(example.tags.iter().flatten()) {
                tags[row * seq + token] = *tag as i64;
            }
        }
        let known = examples.iter().all(|(_, example)| example.tags.is_some());
        let tags = TensorData::new(tags, [rows.len(), seq]);
        Ok(Batch {
            targets: known.then(|| Targets::Tokens(Tensor::from_data(tags, device))),
            ..batch
        })
    }

    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures> {
        let is_span = |name: &String| name.starts_with("B-") || name.starts_with("I-");
        let of_spans = self.labels.names().iter().any(is_span);
        let mut words = Vec::new();
        // Of each kind of span: right, predicted and expected ones.
        let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
        for (outputs, example) in outputs.iter().zip(examples) {
            let predicted = Self::tags(outputs, example);
            let tags = &example.tags.as_ref()?[..predicted.len()];
            words.extend(tags.iter().copied().zip(predicted.iter().copied()));
            if of_spans {
                let (predicted, expected) = (self.spans_of(&predicted), self.spans_of(tags));
                for (of, spans) in [
                    (0, predicted.intersection(&expected).collect::<Vec<_>>()),
                    (1, predicted.iter().collect()),
                    (2, expected.iter().collect()),
                ] {
                    for (.., kind) in spans {
                        counts.entry(kind.clone()).or_default()[of] += 1;
                    }
                }
            }
        }
        let of_words = Confusion::new(self.labels.names(), words);
        let accuracy = ("accuracy", of_words.accuracy());
        let (values, of_labels) = match of_spans {
            true => {
                let [right, predicted, expected] = [0, 1, 2].map(|of| counts.values().map(|counts| counts[of]).sum());
                let of_kinds = counts.into_iter();
                let of_kinds =
                    of_kinds.map(|(kind, [right, predicted, expected])| (kind, f1(right, predicted, expected)));
                (
                    vec![("f1", f1(right, predicted, expected)), accuracy],
                    of_kinds.collect(),
                )
            }
            false => (vec![accuracy, ("f1", of_words.macro_f1())], of_words.of_labels()),
        };
        Some(Figures {
            values,
            of_labels,
            confusion: Some(of_words),
        })
    }

    fn describe(&self, outputs: &Outputs, example: &Self::Example) -> Prediction {
        let tags = Self::tags(outputs, example);
        let tagged = example.words.iter().zip(&tags);
        let tagged: Vec<String> = tagged
            .map(|(word, tag)| format!("{word}/{}", self.labels.name(*tag)))
            .collect();
        tagged.join(" ").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_counted_as_conlleval_does() {
        let of = |tags: &str| {
            let tags: Vec<String> = tags.split(' ').map(str::to_owned).collect();
            let mut spans: Vec<_> = spans(&tags).into_iter().collect();
            spans.sort();
            spans
        };
        let span = |start, end, kind: &str| (start, end, kind.to_owned());
        assert_eq!(of("O B-X I-X O B-Y"), [span(1, 3, "X"), span(4, 5, "Y")]);
        // Another type, a new beginning, and an inside without a beginning.
        assert_eq!(
            of("I-X I-Y B-Y I-Y"),
            [span(0, 1, "X"), span(1, 2, "Y"), span(2, 4, "Y")]
        );
        assert_eq!(of("O O"), []);
    }

    fn task(labels: &[&str]) -> Tagging {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        Tagging {
            head: HeadConfig::new(HeadKind::Tagging, labels.clone()),
            labels: Labels::Names(labels),
        }
    }

    /// Three words in five tokens: the second word has two, and the classification token is in front.
    fn sentence(tags: [usize; 3]) -> TaggedSentence {
        TaggedSentence {
            words: ["x", "yy", "z"].map(str::to_owned).to_vec(),
            encoded: Encoded {
                ids: vec![0; 5],
                type_ids: vec![0; 5],
                truncated: false,
            },
            first_tokens: vec![1, 2, 4],
            tags: Some(tags.to_vec()),
        }
    }

    /// Outputs that choose this label for each token.
    fn choosing(labels: [usize; 5], width: usize) -> Outputs {
        let rows = labels
            .into_iter()
            .flat_map(|label| (0..width).map(move |at| f32::from(u8::from(at == label))));
        Outputs {
            values: rows.collect(),
            width,
        }
    }

    #[test]
    fn words_have_the_tag_of_their_first_token() {
        let plain = task(&["n", "v"]);
        let outputs = choosing([0, 0, 1, 0, 0], 2);
        assert_eq!(plain.describe(&outputs, &sentence([0, 1, 0])).text, "x/n yy/v z/n");
        let score = |tags| {
            plain
                .figures(std::slice::from_ref(&outputs), &[sentence(tags)])
                .unwrap()
                .values[0]
                .1
        };
        assert_eq!((score([0, 1, 0]), score([0, 0, 0])), (1.0, 2.0 / 3.0));
    }

    #[test]
    fn f1_is_over_spans_where_the_tags_are_of_spans() {
        let spans = task(&["O", "B-X", "I-X"]);
        // Predicted: one span over the first two words, and one of the third.
        let outputs = choosing([0, 1, 2, 0, 1], 3);
        let score = |tags| {
            spans
                .figures(std::slice::from_ref(&outputs), &[sentence(tags)])
                .unwrap()
                .values[0]
                .1
        };
        assert_eq!(score([1, 2, 1]), 1.0);
        // One of two predicted is one of one expected.
        assert!((score([1, 2, 0]) - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(score([1, 0, 0]), 0.0);
        // Of each kind of span, and which tag was predicted for which.
        let figures = spans.figures(&[outputs], &[sentence([1, 2, 0])]).unwrap();
        assert_eq!(figures.of_labels, [("X".to_owned(), 2.0 / 3.0)]);
        let confusion = figures.confusion.unwrap();
        let rows: Vec<Vec<usize>> = confusion.rows().map(|(_, counts)| counts).collect();
        assert_eq!(rows, [[0, 1, 0], [0, 1, 0], [0, 0, 1]]);
    }
}
