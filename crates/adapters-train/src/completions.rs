//! Prompts and what follows them: the loss is on the completions only.
//!
//! A causal language model reads both in one row; an encoder-decoder reads the prompt and writes the completion.

use std::path::Path;

use adapters_models::{
    CausalInput, CausalLm, ChatTemplate, EncoderDecoder, EncoderDecoderInput, Message, ModelError, PaddingSide,
    Pretrained, TextTokenizer,
};
use burn::tensor::Device;

use crate::data::{Dataset, Example};
use crate::error::TrainError;
use crate::recipe::Template;
use crate::task::{Batch, Input};

/// The rows of a data file as token ids, each token marked as given or to be predicted.
#[derive(Clone, Debug)]
pub(crate) struct Completions {
    rows: Vec<Row>,
    /// Lengths in tokens.
    pub lengths: Vec<usize>,
}

/// One row: a prompt with its completion, or several that were packed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    ids: Vec<u32>,
    /// Whether the token is to be predicted from those before it.
    learned: Vec<bool>,
}

/// The chat template that a run uses: as `template` says; without it, the one the model in `dir` has, if it has one.
///
/// # Errors
///
/// Those of the template, if it was asked for.
pub(crate) fn chat_template(template: Option<Template>, dir: &Path) -> Result<Option<ChatTemplate>, ModelError> {
    match template {
        Some(Template::Plain) => Ok(None),
        Some(Template::Chat) => ChatTemplate::load(dir).map(Some),
        None => Ok(ChatTemplate::load(dir).ok()),
    }
}

/// Makes ids of a prompt and of what follows it.
pub(crate) struct Layout<'a> {
    tokenizer: &'a TextTokenizer,
    template: Option<ChatTemplate>,
    /// The token that ends a completion.
    end: Option<u32>,
}

impl<'a> Layout<'a> {
    /// As `template` says; without it, as a chat where the tokenizer has a template for one.
    ///
    /// # Errors
    ///
    /// Those of the chat template, if it was asked for.
    pub fn new(
        template: Option<Template>,
        pretrained: &Pretrained,
        tokenizer: &'a TextTokenizer,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            tokenizer,
            template: chat_template(template, pretrained.dir())?,
            end: pretrained.stop_tokens()?.first().copied(),
        })
    }

    /// The ids of a prompt, and of its completion with what ends it.
    fn encode(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<u32>), TrainError> {
        let Some(template) = &self.template else {
            let mut answer = self.tokenizer.encode_whole(completion, false)?;
            answer.extend(self.end);
            return Ok((self.tokenizer.encode_whole(prompt, true)?, answer));
        };
        let user = Message::new("user", prompt);
        let asked = template.render(std::slice::from_ref(&user), true)?;
        let answered = template.render(&[user, Message::new("assistant", completion)], false)?;
        // The template says itself what ends an answer.
        let Some(answer) = answered.strip_prefix(&asked) else {
            return Err(TrainError::Value {
                field: "data.template",
                expected: "a chat template that writes an answer behind its question; `plain` uses none".to_owned(),
                found: "one that changes the question when there is an answer".to_owned(),
            });
        };
        let asked = self.tokenizer.encode_whole(&asked, false)?;
        // As a part of the whole: some tokenizers put a space before what begins a text.
        let whole = self.tokenizer.encode_whole(&answered, false)?;
        let answer = match whole.strip_prefix(asked.as_slice()) {
            Some(answer) => answer.to_vec(),
            None => self.tokenizer.encode_whole(answer, false)?,
        };
        Ok((asked, answer))
    }
}

impl Completions {
    /// Encodes each example: its text is the prompt, its second text the completion. Rows are cut to `max_length` tokens;
    /// with `pack` they are filled up to it with several examples.
    ///
    /// # Errors
    ///
    /// Those of tokenizer and template; [`TrainError::Value`] for an example of whose completion nothing is left within the
    /// longest row, and for a token beyond `vocab`, which the model does not have.
    pub fn new(
        data: &Dataset,
        layout: &Layout<'_>,
        max_length: usize,
        pack: bool,
        vocab: usize,
    ) -> Result<Self, TrainError> {
        let mut rows = Vec::new();
        for (index, Example { text, text_pair, .. }) in data.examples.iter().enumerate() {
            let (prompt, completion) = layout.encode(text, text_pair.as_deref().unwrap_or_default())?;
            let asked = prompt.len();
            let mut row = Row::default();
            row.extend(prompt, false);
            row.extend(completion, true);
            check_vocabulary(row.ids.iter(), vocab)?;
            let example = format!("example {} of {}", index + 1, data.path.display());
            if row.predictions() == 0 {
                return Err(TrainError::Value {
                    field: "data",
                    expected: "at least one token before the last one of every completion".to_owned(),
                    found: format!("without one in {example}"),
                });
            }
            row.cut(max_length);
            if row.predictions() == 0 {
                return Err(TrainError::Value {
                    field: "model.max_length",
                    expected: format!(
                        "more, so that something of the completion of {example} is left: its prompt alone has {asked} tokens",
                    ),
                    found: max_length.to_string(),
                });
            }
            rows.push(row);
        }
        if pack {
            rows = packed(rows, max_length);
        }
        Ok(Self {
            lengths: rows.iter().map(|row| row.ids.len()).collect(),
            rows,
        })
    }

    /// The rows `indices`, padded on the right.
    pub fn batch(&self, indices: &[usize], lm: &CausalLm, device: &Device) -> Batch {
        let rows: Vec<&Row> = indices.iter().map(|index| &self.rows[*index]).collect();
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
        let (mut places, mut tokens) = (Vec::new(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            for t in row.predicted() {
                // Predicted from the token before it.
                places.push((at, t - 1));
                tokens.push(i64::from(row.ids[t]));
            }
        }
        let input = CausalInput::padded(&ids, lm.pad_id(), PaddingSide::Right, device);
        Batch::of_tokens(Input::CausalLm(input), places, tokens, device)
    }
}

/// Prompts that an encoder reads, and completions that a decoder writes.
#[derive(Clone, Debug)]
pub(crate) struct Pairs {
    rows: Vec<(Vec<u32>, Vec<u32>)>,
    /// Lengths of both together, in tokens.
    pub lengths: Vec<usize>,
}

impl Pairs {
    /// Encodes each example: its text is the prompt, its second text the completion, each cut to `max_length` tokens.
    ///
    /// # Errors
    ///
    /// Those of tokenizer and template; [`TrainError::Value`] for a token beyond `vocab`, which the model does not have, and
    /// for an empty prompt or completion.
    pub fn new(data: &Dataset, layout: &Layout<'_>, max_length: usize, vocab: usize) -> Result<Self, TrainError> {
        let mut rows = Vec::new();
        for (index, Example { text, text_pair, .. }) in data.examples.iter().enumerate() {
            let (mut prompt, mut completion) = layout.encode(text, text_pair.as_deref().unwrap_or_default())?;
            check_vocabulary(prompt.iter().chain(&completion), vocab)?;
            let ended = prompt.last().copied().filter(|last| layout.end == Some(*last));
            prompt.truncate(max_length);
            // A text that was cut ends as others do.
            if let (Some(last), Some(end)) = (prompt.last_mut(), ended) {
                *last = end;
            }
            completion.truncate(max_length);
            if prompt.is_empty() || completion.is_empty() {
                let found = format!("none in example {} of {}", index + 1, data.path.display());
                return Err(TrainError::Value {
                    field: "data",
                    expected: "at least one token in every prompt and completion".to_owned(),
                    found,
                });
            }
            rows.push((prompt, completion));
        }
        let lengths = rows.iter().map(|(prompt, completion)| prompt.len() + completion.len());
        Ok(Self {
            lengths: lengths.collect(),
            rows,
        })
    }

    /// The rows `indices`, padded on the right. The decoder reads its start token and the completion but its last token.
    pub fn batch(&self, indices: &[usize], model: &EncoderDecoder, device: &Device) -> Batch {
        let rows: Vec<_> = indices.iter().map(|index| &self.rows[*index]).collect();
        let (mut places, mut tokens) = (Vec::new(), Vec::new());
        for (at, (_, completion)) in rows.iter().enumerate() {
            for (t, id) in completion.iter().enumerate() {
                places.push((at, t));
                tokens.push(i64::from(*id));
            }
        }
        let shifted: Vec<Vec<u32>> = rows
            .iter()
            .map(|(_, completion)| {
                let before = completion[..completion.len() - 1].iter().copied();
                [model.start_id() as u32].into_iter().chain(before).collect()
            })
            .collect();
        let padded = |rows: Vec<&[u32]>| CausalInput::padded(&rows, model.pad_id(), PaddingSide::Right, device);
        let prompts = padded(rows.iter().map(|(prompt, _)| prompt.as_slice()).collect());
        let input = EncoderDecoderInput {
            ids: prompts.ids,
            padding: prompts.padding,
            decoder_ids: padded(shifted.iter().map(Vec::as_slice).collect()).ids,
        };
        Batch::of_tokens(Input::EncoderDecoder(input), places, tokens, device)
    }
}

/// Refuses a token that the model does not have.
fn check_vocabulary<'i>(mut ids: impl Iterator<Item = &'i u32>, vocab: usize) -> Result<(), TrainError> {
    match ids.find(|id| **id as usize >= vocab) {
        Some(id) => Err(TrainError::Value {
            field: "tokenizer",
            expected: format!("token ids below the model's vocab_size = {vocab}"),
            found: id.to_string(),
        }),
        None => Ok(()),
    }
}

impl Row {
    fn extend(&mut self, ids: Vec<u32>, learned: bool) {
        self.learned.resize(self.learned.len() + ids.len(), learned);
        self.ids.extend(ids);
    }

    fn cut(&mut self, length: usize) {
        self.ids.truncate(length);
        self.learned.truncate(length);
    }

    /// Where the tokens to be predicted are; never the first, which has nothing before it.
    fn predicted(&self) -> impl Iterator<Item = usize> {
        (1..self.ids.len()).filter(|t| self.learned[*t])
    }

    fn predictions(&self) -> usize {
        self.predicted().count()
    }
}

/// Rows joined, one behind the other, as long as they fit `length`: first fit, in the order of the file. A later text sees
/// those before it in its row, as in most training programs; its first token is not predicted from them.
fn packed(rows: Vec<Row>, length: usize) -> Vec<Row> {
    let mut bins: Vec<Row> = Vec::new();
    for mut row in rows {
        if let Some(first) = row.learned.first_mut() {
            *first = false;
        }
        match bins.iter_mut().find(|bin| bin.ids.len() + row.ids.len() <= length) {
            Some(bin) => {
                bin.ids.extend(row.ids);
                bin.learned.extend(row.learned);
            }
            None => bins.push(row),
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(given: &[u32], learned: &[u32]) -> Row {
        let mut row = Row::default();
        row.extend(given.to_vec(), false);
        row.extend(learned.to_vec(), true);
        row
    }

    fn completions(rows: Vec<Row>) -> Completions {
        Completions {
            lengths: rows.iter().map(|row| row.ids.len()).collect(),
            rows,
        }
    }

    #[test]
    fn only_completions_are_predicted_and_never_a_first_token() {
        let data = completions(vec![row(&[1, 2], &[3, 4]), row(&[5], &[6]), row(&[], &[7, 8])]);
        let predicted: Vec<Vec<usize>> = data.rows.iter().map(|row| row.predicted().collect()).collect();
        // Without a prompt the first token has nothing before it.
        assert_eq!(predicted, [vec![2, 3], vec![1], vec![1]]);
    }

    #[test]
    fn an_answer_in_a_chat_is_encoded_as_a_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        // As Llama's: a text begins with a space that is not there.
        let tokenizer = serde_json::json!({
            "version": "1.0", "added_tokens": [], "post_processor": null, "decoder": null, "truncation": null,
            "padding": null, "pre_tokenizer": null, "normalizer": {"type": "Prepend", "prepend": "_"},
            "model": {"type": "BPE", "vocab": {"_": 0, "q": 1, ":": 2, "a": 3, ".": 4}, "merges": []},
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let template = "{% for m in messages %}{{ m.content ~ (':' if m.role == 'user' else '.') }}{% endfor %}";
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        let tokenizer = TextTokenizer::load(dir.path(), 8).unwrap();
        let chat = Layout {
            tokenizer: &tokenizer,
            template: Some(ChatTemplate::load(dir.path()).unwrap()),
            end: Some(7),
        };
        assert_eq!(chat.encode("q", "a").unwrap(), (vec![0, 1, 2], vec![3, 4]));
        let plain = Layout { template: None, ..chat };
        assert_eq!(plain.encode("q", "a").unwrap(), (vec![0, 1], vec![0, 3, 7]));
    }

    #[test]
    fn packing_keeps_every_token_and_every_prediction() {
        let rows: Vec<Row> = (1..12u32)
            .map(|n| row(&vec![n; n as usize % 4], &vec![n; 1 + n as usize % 3]))
            .collect();
        let (tokens, predictions) = (
            rows.iter().map(|r| r.ids.len()).sum::<usize>(),
            rows.iter().map(Row::predictions).sum::<usize>(),
        );
        let bins = packed(rows.clone(), 9);
        assert!(bins.len() < rows.len() && bins.iter().all(|bin| bin.ids.len() <= 9));
        assert_eq!(bins.iter().map(|r| r.ids.len()).sum::<usize>(), tokens);
        assert_eq!(bins.iter().map(Row::predictions).sum::<usize>(), predictions);
    }
}
