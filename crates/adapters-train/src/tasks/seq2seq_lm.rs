//! Sequence-to-sequence language modeling: an encoder reads the prompt, a decoder writes the completion.

use adapters_core::Ctx;
use adapters_models::heads::HeadConfig;
use adapters_models::{Encoded, Model, ModelKind, Source, TextInput, ToTextInput};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::answers::{Answers, Asked, EXACT_MATCH, ROUGE_L};
use super::causal_lm::encoded;
use super::context::TaskContext;
use super::prompts::{Layout, check_vocabulary};
use super::task::{Example, Task};
use super::tokens::{self, of_tokens};
use super::usage::Usage;
use crate::data::{Passage, Record};
use crate::error::TrainError;
use crate::evaluate::{Evaluation, Outputs, Prediction};
use crate::inputs::Batch;
use crate::metrics::Figures;
use crate::task_model::TaskModel;

/// Cross entropy of the tokens of completions, by the model's own head; the metric is the fraction of them that is predicted
/// right.
#[derive(Debug)]
pub(super) struct Seq2SeqLm {
    answers: Option<Answers>,
}

impl Seq2SeqLm {
    fn asked(pair: &Pair) -> [Asked<'_>; 1] {
        [(&pair.prompt, &pair.completion)]
    }
}

/// A prompt and its completion as token ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pair {
    prompt: Vec<u32>,
    completion: Vec<u32>,
    /// Whether one of the two was longer than the longest input.
    truncated: bool,
}

impl Example for Pair {
    fn length(&self) -> usize {
        self.prompt.len() + self.completion.len()
    }

    fn truncated(&self) -> usize {
        usize::from(self.truncated)
    }
}

impl Task for Seq2SeqLm {
    const NAME: &'static str = "seq2seq_lm";
    const PIPELINE: Option<&'static str> = Some("text2text-generation");
    const DATA: &'static str =
        "`prompt` and `completion`, the text to write; or `instruction`, `input` and `output` of Alpaca";
    const MODELS: &'static [ModelKind] = &[ModelKind::EncoderDecoder];
    const METRICS: &'static [&'static str] = &["accuracy", "perplexity", ROUGE_L, EXACT_MATCH];
    const IS_GENERATIVE: bool = true;
    const USAGE: Usage = Usage::Generation;

    type Example = Pair;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            answers: Answers::new(cx)?,
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        None
    }

    fn examples(
        &self,
        records: &[Record],
        _labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let (fields, max_length) = (&cx.options.fields, cx.options.max_length);
        let layout = Layout::new(cx)?;
        let example = |record: &Record| {
            let (prompt, completion) = match record.passage(fields)? {
                Passage::Completion { prompt, completion } => (prompt, completion),
                Passage::Chat(_) => {
                    return Err(TrainError::Value {
                        field: "data",
                        expected: format!(
                            "`{}` and `{}`, two texts, for the task `{}`; chats are data of `causal_lm`",
                            fields.prompt,
                            fields.completion,
                            Self::NAME
                        ),
                        found: format!("messages at {}", record.location()),
                    });
                }
                Passage::Text(_) => return Err(record.missing(&fields.prompt).into()),
            };
            let (mut prompt, mut completion) = layout.encode(&prompt, &completion)?;
            check_vocabulary(prompt.iter().chain(&completion), cx.model.vocab_size())?;
            let truncated = prompt.len().max(completion.len()) > max_length;
            let ended = prompt.last().copied().filter(|last| layout.end == Some(*last));
            prompt.truncate(max_length);
            // A text that was cut ends as others do.
            if let (Some(last), Some(end)) = (prompt.last_mut(), ended) {
                *last = end;
            }
            completion.truncate(max_length);
            if prompt.is_empty() || completion.is_empty() {
                return Err(TrainError::Value {
                    field: "data",
                    expected: "at least one token in every prompt and completion".to_owned(),
                    found: format!("none in {}", record.location()),
                });
            }
            Ok(Pair {
                prompt,
                completion,
                truncated,
            })
        };
        records.iter().map(example).collect()
    }

    /// The decoder reads its start token and the completion but its last token.
    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        _seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        let (mut positions, mut tokens) = (Vec::new(), Vec::new());
        for (at, (_, pair)) in examples.iter().enumerate() {
            for (t, id) in pair.completion.iter().enumerate() {
                positions.push((at, t));
                tokens.push(i64::from(*id));
            }
        }
        let pad_id = model.pad_id();
        let padded = |ids: &dyn Fn(&Pair) -> Vec<u32>| {
            let rows: Vec<Encoded> = examples.iter().map(|(_, pair)| encoded(ids(pair))).collect();
            TextInput::encoded(&rows.iter().collect::<Vec<_>>(), pad_id, device)
        };
        let start = model.encoder_decoder()?.start_id();
        let shifted = |pair: &Pair| {
            let before = pair.completion[..pair.completion.len() - 1].iter().copied();
            [start as u32].into_iter().chain(before).collect()
        };
        let input = ToTextInput {
            source: Source::Text(padded(&|pair| pair.prompt.clone())),
            decoder_ids: padded(&shifted).ids,
        };
        Ok(tokens::batch(input.into(), positions, tokens, device))
    }

    of_tokens!(answers);
}
