//! Multiple choice: which of several texts goes with a question.

use adapters_models::heads::{HeadConfig, HeadKind, Targets};
use adapters_models::{Encoded, Model};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::context::TaskContext;
use super::task::{Example, Task};
use super::text::{batch, encode, ints};
use super::usage::Usage;
use crate::data::{Labels, Record};
use crate::error::TrainError;
use crate::evaluate::{Outputs, Prediction, fraction, largest, probability};
use crate::inputs::Batch;
use crate::metrics::Figures;

/// Cross entropy over the choices of a question, each of which is scored as a pair with it; the metric is the accuracy.
#[derive(Debug)]
pub(super) struct MultipleChoice {
    choices: usize,
    head: HeadConfig,
}

/// A question and its choices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Choices {
    texts: Vec<String>,
    rows: Vec<Encoded>,
    right: Option<usize>,
}

impl Example for Choices {
    fn length(&self) -> usize {
        self.rows.iter().map(|row| row.ids.len()).max().unwrap_or(0)
    }

    fn truncated(&self) -> usize {
        self.rows.iter().filter(|row| row.truncated).count()
    }
}

impl Task for MultipleChoice {
    const NAME: &'static str = "multiple_choice";
    const DATA: &'static str = "`question`, and `context`, a text before it, if present; `choices`, a list of `data.labels` texts, \
                                `a|b` in a table; `label`, the right one by its number from 0 or its text";
    const LABELS: usize = 2;
    const USAGE: Usage = Usage::Choice;

    type Example = Choices;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        let choices = cx.options.labels.count();
        let kind = HeadKind::MultipleChoice {
            choices,
            pooling: cx.pooling(),
        };
        Ok(Self {
            choices,
            head: cx.head(kind, Vec::new()),
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(self.head.clone())
    }

    fn serves(head: &HeadConfig) -> bool {
        matches!(head.kind, HeadKind::MultipleChoice { .. })
    }

    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let fields = &cx.options.fields;
        let example = |record: &Record| {
            let question = record.text(&fields.question)?;
            let first = match record.optional_text(&fields.context)? {
                Some(context) => format!("{context} {question}"),
                None => question.to_owned(),
            };
            let texts = record.texts(&fields.choices, '|')?;
            if texts.len() != self.choices {
                let expected = format!("`data.labels` = {} texts", self.choices);
                return Err(record.wrong(&fields.choices, expected, texts.len().to_string()).into());
            }
            let right = record.class(&fields.label, &Labels::Names(texts.clone()), labeled)?;
            let pairs = texts.iter().map(|text| (first.as_str(), Some(text.as_str()))).collect();
            let rows = encode(pairs, std::slice::from_ref(record), cx)?;
            Ok(Choices { texts, rows, right })
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
        let rows: Vec<&Encoded> = examples.iter().flat_map(|(_, example)| &example.rows).collect();
        let right = examples.iter().map(|(_, example)| Some(example.right? as i64));
        let right: Option<Vec<i64>> = right.collect();
        Ok(Batch {
            targets: right.map(|right| Targets::Classes(ints(right, device))),
            ..batch(&rows, examples.len(), model, device)
        })
    }

    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures> {
        let right = outputs.iter().zip(examples).map(|(outputs, example)| {
            let choice = largest(&outputs.values);
            Some(choice == example.right?)
        });
        let right: Vec<bool> = right.collect::<Option<_>>()?;
        Some(Figures::new([("accuracy", fraction(right))]))
    }

    fn describe(&self, outputs: &Outputs, example: &Self::Example) -> Prediction {
        let choice = largest(&outputs.values);
        let probability = probability(&outputs.values, choice);
        Prediction::likely(example.texts[choice].clone(), probability)
    }
}
