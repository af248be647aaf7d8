//! What `tokenizer.json` would have for vocabulary files.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Config, Rules, refusal};
use crate::error::ModelError;

/// How Qwen2's classes split a text before BPE.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How CLIP's classes do.
const CLIP: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// What becomes a tokenizer.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) path: &'a Path,
    pub(super) vocabulary: Map<String, Value>,
}

impl Parts<'_> {
    /// The text and the number of a special token.
    fn special(&self, field: &str) -> Result<(String, Value), ModelError> {
        let Some(token) = self.config.token(field)? else {
            return Err(self.config.wrong(field, "a token", &Value::Null));
        };
        match self.vocabulary.get(&token.content) {
            Some(id) => Ok((token.content, id.clone())),
            None => Err(refusal(
                self.path,
                &format!("it has no `{}`, the {field}", token.content),
            )),
        }
    }

    /// What `tokenizer.json` would have.
    pub(super) fn tokenizer(self, merges: Vec<[String; 2]>) -> Result<Value, ModelError> {
        let (config, rules) = (self.config, self.config.class.rules);
        let (mut normalizer, pre_tokenizer, post_processor);
        let mut decoder =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        normalizer = Value::Null;
        let space = config.flag("add_prefix_space", false)?;
        let bytes = |space: bool, use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": use_regex});
        match rules {
            Rules::WordPiece => {
                normalizer = json!({
                    "type": "BertNormalizer",
                    "clean_text": true,
                    "handle_chinese_chars": config.flag("tokenize_chinese_chars", true)?,
                    "strip_accents": config.choice("strip_accents", None)?,
                    "lowercase": config.flag("do_lower_case", true)?,
                });
                pre_tokenizer = json!({"type": "BertPreTokenizer"});
                post_processor = around(&self.special("cls_token")?, &self.special("sep_token")?);
                decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
            }
            Rules::Gpt2 => {
                pre_tokenizer = bytes(space, true);
                post_processor = match config.flag("add_bos_token", false)? {
                    true => before(&self.special("bos_token")?),
                    false => plain(),
                };
            }
            Rules::Roberta => {
                pre_tokenizer = bytes(space, true);
                post_processor = json!({
                    "type": "RobertaProcessing",
                    "sep": self.special("sep_token")?,
                    "cls": self.special("cls_token")?,
                    "trim_offsets": config.flag("trim_offsets", true)?,
                    "add_prefix_space": space,
                });
            }
            Rules::Deberta => {
                pre_tokenizer = bytes(space, true);
                post_processor = around(&self.special("cls_token")?, &self.special("sep_token")?);
            }
            Rules::Qwen2 => {
                normalizer = json!({"type": "NFC"});
                pre_tokenizer = split(QWEN2, "Isolated", false, bytes(space, false));
                post_processor = plain();
            }
            Rules::Clip => {
                decoder = json!({"type": "Sequence", "decoders": [
                    decoder,
                    {"type": "Replace", "pattern": {"String": "</w>"}, "content": " "},
                ]});
                normalizer = json!({"type": "Sequence", "normalizers": [
                    {"type": "NFC"},
                    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                    {"type": "Lowercase"},
                ]});
                pre_tokenizer = split(CLIP, "Removed", true, bytes(false, true));
                post_processor = json!({
                    "type": "RobertaProcessing",
                    "sep": self.special("eos_token")?,
                    "cls": self.special("bos_token")?,
                    "trim_offsets": false,
                    "add_prefix_space": false,
                });
            }
        }
        let unknown = match rules {
            Rules::WordPiece | Rules::Clip => Value::from(self.special("unk_token")?.0),
            _ => Value::Null,
        };
        let model = match rules {
            Rules::WordPiece => json!({
                "type": "WordPiece",
                "unk_token": unknown,
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": self.vocabulary,
            }),
            _ => json!({
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": if rules == Rules::Clip { "</w>" } else { "" },
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": self.vocabulary,
                "merges": merges,
            }),
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": decoder,
            "model": model,
        }))
    }
}

/// Nothing around a text.
fn plain() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true})
}

fn split(pattern: &str, behavior: &str, invert: bool, then: Value) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert});
    json!({"type": "Sequence", "pretokenizers": [split, then]})
}

fn special_piece(token: &(String, Value), type_id: usize) -> Value {
    json!({"SpecialToken": {"id": token.0, "type_id": type_id}})
}

fn text_piece(id: &str, type_id: usize) -> Value {
    json!({"Sequence": {"id": id, "type_id": type_id}})
}

fn template(single: &[Value], pair: &[Value], tokens: &[&(String, Value)]) -> Value {
    let described =
        |(token, id): &&(String, Value)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
    let special: Map<String, Value> = tokens.iter().map(described).collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
}

/// One token before a text.
fn before(first: &(String, Value)) -> Value {
    let single = [special_piece(first, 0), text_piece("A", 0)];
    let pair = [special_piece(first, 0), text_piece("A", 0), text_piece("B", 1)];
    template(&single, &pair, &[first])
}

/// One token before a text, and one behind each of a pair.
fn around(first: &(String, Value), last: &(String, Value)) -> Value {
    let single = [special_piece(first, 0), text_piece("A", 0), special_piece(last, 0)];
    let pair = [single.as_slice(), &[text_piece("B", 1), special_piece(last, 1)]].concat();
    template(&single, &pair, &[first, last])
}
