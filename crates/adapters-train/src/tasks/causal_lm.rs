//! Causal language modeling: of completions, of the answers in chats, and of texts.

use adapters_core::Ctx;
use adapters_models::heads::HeadConfig;
use adapters_models::{Encoded, Input, Model, ModelKind, Packing};
use burn::tensor::{Device, Tensor};

use super::answers::{Answers, Asked, EXACT_MATCH, ROUGE_L};
use super::context::TaskContext;
use super::prompts::{Layout, Row, check_vocabulary};
use super::task::{Join, Task};
use super::tokens::{self, of_tokens};
use super::usage::Usage;
use crate::data::Record;
use crate::error::TrainError;
use crate::evaluate::{Evaluation, Outputs, Prediction};
use crate::inputs::{Batch, text_input};
use crate::metrics::Figures;
use crate::task_model::TaskModel;

/// Cross entropy of the tokens of completions, by the model's own head; the metric is the fraction of them that is predicted
/// right.
#[derive(Debug)]
pub(super) struct CausalLmTask {
    answers: Option<Answers>,
}

impl CausalLmTask {
    /// What is before the last answer of each text, and that answer; nothing of a text that answers nothing.
    fn asked(row: &Row) -> impl Iterator<Item = Asked<'_>> {
        row.answers()
            .map(|(prompt, answer)| (&row.ids[prompt], &row.ids[answer]))
    }
}

impl Task for CausalLmTask {
    const NAME: &'static str = "causal_lm";
    const PIPELINE: Option<&'static str> = Some("text-generation");
    const DATA: &'static str = "`prompt` and `completion`, the text that follows it; or `messages`, `conversations` of ShareGPT, \
                               `instruction`, `input` and `output` of Alpaca, or `text` alone";
    const MODELS: &'static [ModelKind] = &[ModelKind::CausalLm];
    const METRICS: &'static [&'static str] = &["accuracy", "perplexity", ROUGE_L, EXACT_MATCH];
    const IS_GENERATIVE: bool = true;
    const JOIN: Option<Join<Row>> = Some(Row::joined);
    const USAGE: Usage = Usage::Generation;

    type Example = Row;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            answers: Answers::new(cx)?,
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        None
    }

    /// Rows are cut to the longest input.
    fn examples(
        &self,
        records: &[Record],
        _labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let (fields, max_length) = (&cx.options.fields, cx.options.max_length);
        let layout = Layout::new(cx)?;
        let mut rows = Vec::new();
        for record in records {
            let mut row = layout.row(record, fields)?;
            let prompt_length = row.predicted().next().unwrap_or(0);
            check_vocabulary(row.ids.iter(), cx.model.vocab_size())?;
            if row.predictions() == 0 {
                return Err(TrainError::Value {
                    field: "data",
                    expected: "at least one token before the last one of every completion".to_owned(),
                    found: format!("without one in {}", record.location()),
                });
            }
            row.cut(max_length);
            if row.predictions() == 0 {
                return Err(TrainError::Value {
                    field: "model.max_length",
                    expected: format!(
                        "more, so that something of the completion of {} is left: its prompt alone has {prompt_length} tokens",
                        record.location()
                    ),
                    found: max_length.to_string(),
                });
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        _seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        let (mut positions, mut tokens) = (Vec::new(), Vec::new());
        for (at, (_, row)) in examples.iter().enumerate() {
            for t in row.predicted() {
                // Predicted from the token before it.
                positions.push((at, t - 1));
                tokens.push(i64::from(row.ids[t]));
            }
        }
        let rows: Vec<Encoded> = examples.iter().map(|(_, row)| encoded(row.ids.clone())).collect();
        let mut input = text_input(&rows.iter().collect::<Vec<_>>(), model, device);
        if let Input::Text(text) = &mut input
            && examples.iter().any(|(_, row)| row.texts.len() > 1)
        {
            let texts: Vec<&[usize]> = examples.iter().map(|(_, row)| row.texts.as_slice()).collect();
            text.packing = Some(Packing::new(&texts, text.ids.dims()[1], device));
        }
        Ok(tokens::batch(input, positions, tokens, device))
    }

    of_tokens!(answers);
}

/// Ids without token types.
pub(super) fn encoded(ids: Vec<u32>) -> Encoded {
    Encoded {
        ids,
        ..Encoded::default()
    }
}
