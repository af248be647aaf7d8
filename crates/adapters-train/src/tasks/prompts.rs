//! Prompts and their completions as token ids: the loss is on the completions only.

use std::collections::BTreeSet;
use std::ops::Range;

use adapters_models::{ChatTemplate, Message, ModelError, Pretrained, TextTokenizer};
use serde::{Deserialize, Serialize};

use super::context::{TaskContext, Template};
use super::task::Example;
use crate::data::{Fields, Passage, Record};
use crate::error::TrainError;

/// One row: a prompt with its completion, or several that were packed together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) ids: Vec<u32>,
    /// Whether the token is to be predicted from those before it.
    learned: Vec<bool>,
    /// Lengths of the texts that were packed into the row; none of a row that is one text.
    pub(super) texts: Vec<usize>,
    /// Texts in the row of which something was cut off.
    pub truncated: usize,
}

/// The chat template of a run: the one that `template` selects; without it that of the model, if it has one.
///
/// # Errors
///
/// Those of the template, if `template` selects it.
pub(crate) fn chat_template(
    template: Option<Template>,
    pretrained: &Pretrained,
) -> Result<Option<ChatTemplate>, ModelError> {
    match template {
        Some(Template::Plain) => Ok(None),
        Some(Template::Chat) => pretrained.chat_template().map(Some),
        None => Ok(pretrained.chat_template().ok()),
    }
}

/// Makes ids of a prompt and of what follows it.
pub(super) struct Layout<'a> {
    tokenizer: &'a TextTokenizer,
    template: Option<ChatTemplate>,
    /// The token that ends a completion.
    pub(super) end: Option<u32>,
}

impl<'a> Layout<'a> {
    /// With the template that the options select; without one, with that of the tokenizer if it has one.
    ///
    /// # Errors
    ///
    /// Those of the chat template, if the options select it.
    pub(super) fn new(cx: &TaskContext<'a>) -> Result<Self, TrainError> {
        Ok(Self {
            tokenizer: cx.tokenizer()?,
            template: chat_template(cx.options.template, cx.pretrained)?.map(|template| template.at(cx.options.time)),
            end: cx.pretrained.stop_tokens()?.first().copied(),
        })
    }

    /// The row of a passage.
    pub(super) fn row(&self, record: &Record, fields: &Fields) -> Result<Row, TrainError> {
        let mut row = Row::default();
        match record.passage(fields)? {
            Passage::Text(text) => {
                row.extend(self.tokenizer.encode_whole(&text, true)?, true);
                row.close(self.end);
            }
            Passage::Completion { prompt, completion } => {
                let (prompt, completion) = self.encode(&prompt, &completion)?;
                row.extend(prompt, false);
                row.extend(completion, true);
            }
            Passage::Chat(messages) => match &self.template {
                Some(template) => {
                    let tools = record.tools()?;
                    row = self.chat(&template.with_tools(tools), &messages)?;
                }
                None => {
                    return Err(TrainError::Value {
                        field: "data.template",
                        expected: "a model with a chat template, for data with messages".to_owned(),
                        found: format!("one without, or `plain`, and messages at {}", record.location()),
                    });
                }
            },
        }
        Ok(row)
    }

    /// The ids of a prompt, and of its completion with what ends it.
    pub(super) fn encode(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<u32>), TrainError> {
        let Some(template) = &self.template else {
            let mut answer = self.tokenizer.encode_whole(completion, false)?;
            answer.extend(self.end);
            return Ok((self.tokenizer.encode_whole(prompt, true)?, answer));
        };
        let chat = [Message::new("user", prompt), Message::new("assistant", completion)];
        let row = self.chat(template, &chat)?;
        let asked = row.learned.iter().position(|learned| *learned).unwrap_or(row.ids.len());
        let (prompt, answer) = row.ids.split_at(asked);
        Ok((prompt.to_vec(), answer.to_vec()))
    }

    /// A chat in its template. The assistant's turns are learned: the parts that the template marks as such, or else what each
    /// turn adds to the text that asks for it.
    fn chat(&self, template: &ChatTemplate, messages: &[Message]) -> Result<Row, TrainError> {
        let (text, mut answers) = template.render_marked(messages, false)?;
        if !template.marks_answers() {
            answers.clear();
            let turns = messages
                .iter()
                .enumerate()
                .filter(|(_, message)| message.role == "assistant");
            for (index, _) in turns {
                let asked = template.render(&messages[..index], true)?;
                let answered = template.render(&messages[..=index], false)?;
                if !answered.starts_with(&asked) || !text.starts_with(&answered) {
                    return Err(TrainError::Value {
                        field: "data.template",
                        expected: "a chat template that appends the answer to the question; `plain` uses none"
                            .to_owned(),
                        found: "one that changes what came before when there is an answer".to_owned(),
                    });
                }
                answers.push(asked.len()..answered.len());
            }
        }
        // As a whole: some tokenizers put a space before what begins a text.
        let mut row = Row::default();
        for (id, range) in self.tokenizer.encode_ranges(&text)? {
            let learned = answers
                .iter()
                .any(|answer| range.start < answer.end && range.end > answer.start);
            row.extend(vec![id], learned);
        }
        Ok(row)
    }
}

/// Refuses a token that the model does not have.
pub(super) fn check_vocabulary<'i>(mut ids: impl Iterator<Item = &'i u32>, vocab: usize) -> Result<(), TrainError> {
    match ids.find(|id| **id as usize >= vocab) {
        Some(id) => Err(TrainError::Value {
            field: "tokenizer",
            expected: format!("token ids below the model's vocab_size = {vocab}"),
            found: id.to_string(),
        }),
        None => Ok(()),
    }
}

impl Example for Row {
    fn length(&self) -> usize {
        self.ids.len()
    }

    fn truncated(&self) -> usize {
        self.truncated
    }
}

impl Row {
    pub(super) fn extend(&mut self, ids: Vec<u32>, learned: bool) {
        self.learned.resize(self.learned.len() + ids.len(), learned);
        self.ids.extend(ids);
    }

    /// Ends the row, if its tokenizer has not.
    fn close(&mut self, end: Option<u32>) {
        if let Some(end) = end.filter(|end| self.ids.last() != Some(end)) {
            self.extend(vec![end], true);
        }
    }

    /// Of each text of the row the tokens before its last answer and those of the answer. A text all of which is learned has none.
    pub(super) fn answers(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let whole = [self.ids.len()];
        let lengths = if self.texts.is_empty() {
            whole.to_vec()
        } else {
            self.texts.clone()
        };
        let mut next = 0;
        lengths.into_iter().filter_map(move |length| {
            let (start, end) = (next, next + length);
            next = end;
            let learned = &self.learned[start..end];
            let last = start + learned.iter().rposition(|learned| *learned)? + 1;
            let first = learned[..last - start].iter().rposition(|learned| !*learned)?;
            // The first token of a text is never learned in a row of several.
            let prompt = start..start + first + 1;
            (first > 0 || self.texts.is_empty()).then_some((prompt.clone(), prompt.end..last))
        })
    }

    /// Cuts off what is beyond `length` tokens.
    pub(super) fn cut(&mut self, length: usize) {
        self.truncated += usize::from(self.ids.len() > length);
        self.ids.truncate(length);
        self.learned.truncate(length);
    }

    /// Rows one behind the other. A text does not see the others of its row, and its first token is not predicted.
    pub(super) fn joined(rows: Vec<Self>) -> Self {
        let mut joined = Self::default();
        for row in rows {
            joined.texts.push(row.ids.len());
            joined.truncated += row.truncated;
            joined.ids.extend(row.ids);
            joined.learned.push(false);
            joined.learned.extend(row.learned.iter().skip(1));
        }
        joined
    }

    /// Where the tokens to be predicted are; never the first, which has nothing before it.
    pub(super) fn predicted(&self) -> impl Iterator<Item = usize> {
        (1..self.ids.len()).filter(|t| self.learned[*t])
    }

    pub(super) fn predictions(&self) -> usize {
        self.predicted().count()
    }
}

/// Texts of these lengths in rows of at most `longest` tokens: best fit, from the longest text to the shortest, each into the row with the
/// least room that it fits in, and into a new one where there is none. Rows stand in the order of their first texts.
pub(super) fn best_fit(lengths: &[usize], longest: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(lengths[*index]));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    // Bins by the room they have left.
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for index in order {
        let needed = lengths[index];
        let best = room.range((needed, 0)..).next().copied();
        let (left, bin) = match best {
            Some(best) => {
                room.remove(&best);
                bins[best.1].push(index);
                best
            }
            None => {
                bins.push(vec![index]);
                (longest.max(needed), bins.len() - 1)
            }
        };
        room.insert((left - needed, bin));
    }
    bins.iter_mut().for_each(|bin| bin.sort_unstable());
    bins.sort_unstable();
    bins
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::data::Records;

    fn row(given: &[u32], learned: &[u32]) -> Row {
        let mut row = Row::default();
        row.extend(given.to_vec(), false);
        row.extend(learned.to_vec(), true);
        row
    }

    #[test]
    fn only_completions_are_predicted_and_never_a_first_token() {
        let rows = [row(&[1, 2], &[3, 4]), row(&[5], &[6]), row(&[], &[7, 8])];
        let predicted: Vec<Vec<usize>> = rows.iter().map(|row| row.predicted().collect()).collect();
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
    fn every_answer_of_a_chat_is_learned_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let vocab: serde_json::Map<_, _> = "sua:;qrx"
            .chars()
            .enumerate()
            .map(|(i, c)| (c.to_string(), i.into()))
            .collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "added_tokens": [], "post_processor": null, "decoder": null, "truncation": null,
            "padding": null, "pre_tokenizer": null, "normalizer": null,
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let tokenizer = TextTokenizer::load(dir.path(), 8).unwrap();
        let plain = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
        let marks = "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }};{% endgeneration %}{% else %}{{ m.content }};{% endif %}{% endfor %}";
        let chat = [
            ("system", "x"),
            ("user", "q"),
            ("assistant", "r"),
            ("user", "qq"),
            ("assistant", "rr"),
        ];
        let chat = chat.map(|(role, content)| Message::new(role, content));
        for source in [plain, marks] {
            std::fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
            let template = ChatTemplate::load(dir.path()).unwrap();
            let layout = Layout {
                tokenizer: &tokenizer,
                template: None,
                end: None,
            };
            let row = layout.chat(&template, &chat).unwrap();
            let learned: String = row
                .learned
                .iter()
                .map(|learned| if *learned { '1' } else { '0' })
                .collect();
            assert_eq!(learned, "0000000000110000000111", "{source}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_teaches_no_end() {
        let mut row = row(&[1, 2], &[3, 4, 9]);
        row.cut(5);
        assert_eq!((row.predictions(), row.truncated), (3, 0));
        row.cut(4);
        let learned: Vec<u32> = row.predicted().map(|at| row.ids[at]).collect();
        assert_eq!((learned, row.truncated), (vec![3, 4], 1));
    }

    /// Values of transformers, made by `make.py` next to them.
    #[test]
    fn masks_of_published_templates_are_those_of_transformers() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat_masks");
        let cases = std::fs::read_to_string(fixtures.join("expected.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
        let tokenizer = TextTokenizer::load(&fixtures, 8).unwrap();
        let mut templates = BTreeSet::new();
        for case in &cases {
            let name = case["template"].as_str().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let source = fixtures.join(format!("templates/{name}.jinja"));
            std::fs::copy(source, dir.path().join("chat_template.jinja")).unwrap();
            std::fs::write(dir.path().join("tokenizer_config.json"), case.to_string()).unwrap();
            let template = ChatTemplate::load(dir.path()).unwrap();
            assert_eq!(template.marks_answers(), name.ends_with("_generation"), "{name}");
            let record = Records::of_objects(vec![case.as_object().unwrap().clone()], "expected.json");
            let record = &record.records[0];
            let (chat, tools) = (record.messages().unwrap().unwrap(), record.tools().unwrap());
            let template = template.with_tools(tools);
            assert_eq!(
                template.render(&chat, false).unwrap(),
                case["text"].as_str().unwrap(),
                "{name}"
            );
            let layout = Layout {
                tokenizer: &tokenizer,
                template: None,
                end: None,
            };
            let row = layout.chat(&template, &chat).unwrap();
            let mask: String = row
                .learned
                .iter()
                .map(|learned| if *learned { '1' } else { '0' })
                .collect();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(
                (row.ids, mask.as_str()),
                (ids, case["mask"].as_str().unwrap()),
                "{name}"
            );
            assert!(mask.contains('1') && mask.contains('0'));
            templates.insert(name);
        }
        assert_eq!(templates.len(), 8, "six without marks, two with them");
    }

    fn packed(rows: &[Row], longest: usize) -> Vec<Row> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let bins = best_fit(&lengths, longest).into_iter();
        bins.map(|bin| Row::joined(bin.iter().map(|index| rows[*index].clone()).collect()))
            .collect()
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
        let bins = packed(&rows, 9);
        assert!(bins.len() < rows.len() && bins.iter().all(|bin| bin.ids.len() <= 9));
        assert_eq!(bins.iter().map(|r| r.ids.len()).sum::<usize>(), tokens);
        assert_eq!(bins.iter().map(Row::predictions).sum::<usize>(), predictions);
        assert!(bins.iter().all(|bin| bin.texts.iter().sum::<usize>() == bin.ids.len()));
    }

    #[test]
    fn a_text_goes_into_the_row_with_the_least_room_for_it() {
        let of = |length: u32| row(&[], &vec![length; length as usize]);
        let bins = packed(&[4, 6, 3, 5, 2].map(of), 10);
        let texts: Vec<&[usize]> = bins.iter().map(|bin| bin.texts.as_slice()).collect();
        // First fit in the order of the file needs three rows.
        assert_eq!(texts, [&[4, 6][..], &[3, 5, 2]]);
    }
}
