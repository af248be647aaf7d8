//! Tokenizers of folders that have vocabulary files in place of `tokenizer.json`: `vocab.txt` of WordPiece, `vocab.json` and `merges.txt` of
//! byte-level BPE.
//!
//! What is in none of these files follows from the class of transformers that reads them, which `tokenizer_config.json` or `config.json`
//! names. The tokenizer is the one that `AutoTokenizer` makes of the folder (`convert_slow_tokenizer.py` of transformers 4.57.6).

mod tokenizer_json;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use adapters_store::{is_there, read_file, read_json, read_json_if_there};
use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::error::ModelError;
use tokenizer_json::Parts;

const WORDS: &str = "vocab.txt";
const PIECES: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// Vocabularies that are not read, most specific first.
const SENTENCE_PIECE: [&str; 5] = [
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "source.spm",
];

/// A class of transformers.
struct Class {
    /// Its name, without the `Fast` at the end.
    name: &'static str,
    /// The `model_type`s whose tokenizer it is where no file names one.
    model_types: &'static [&'static str],
    rules: Rules,
    /// Special tokens where no file names them, by their fields in the order in which they are added.
    tokens: &'static [(&'static str, &'static str)],
}

/// How a class splits a text, and what it puts around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rules {
    WordPiece,
    Gpt2,
    Roberta,
    Deberta,
    Qwen2,
    Clip,
}

const OF_BERT: &[(&str, &str)] = &[
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const OF_GPT2: &[(&str, &str)] = &[
    ("bos_token", "<|endoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
];
const OF_ROBERTA: &[(&str, &str)] = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];

/// Fields of special tokens, in the order in which they are added.
const FIELDS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

const OF_DEBERTA: &[(&str, &str)] = &[
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const OF_QWEN2: &[(&str, &str)] = &[
    ("eos_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
    ("pad_token", "<|endoftext|>"),
];
const OF_CLIP: &[(&str, &str)] = &[
    ("bos_token", "<|startoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
    ("pad_token", "<|endoftext|>"),
];

const CLASSES: [Class; 10] = [
    Class::new("BertTokenizer", &["bert"], Rules::WordPiece, OF_BERT),
    Class::new("DistilBertTokenizer", &["distilbert"], Rules::WordPiece, OF_BERT),
    Class::new("ElectraTokenizer", &["electra"], Rules::WordPiece, OF_BERT),
    Class::new(
        "GPT2Tokenizer",
        &["gpt2", "gptj", "granite", "opt"],
        Rules::Gpt2,
        OF_GPT2,
    ),
    Class::new("CodeGenTokenizer", &["phi"], Rules::Gpt2, OF_GPT2),
    Class::new("RobertaTokenizer", &["roberta"], Rules::Roberta, OF_ROBERTA),
    Class::new("BartTokenizer", &["bart"], Rules::Roberta, OF_ROBERTA),
    Class::new("DebertaTokenizer", &["deberta"], Rules::Deberta, OF_DEBERTA),
    Class::new(
        "Qwen2Tokenizer",
        &["qwen2", "qwen3", "qwen3_moe"],
        Rules::Qwen2,
        OF_QWEN2,
    ),
    Class::new("CLIPTokenizer", &["clip", "clip_text_model"], Rules::Clip, OF_CLIP),
];

impl Class {
    const fn new(
        name: &'static str,
        model_types: &'static [&'static str],
        rules: Rules,
        tokens: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            name,
            model_types,
            rules,
            tokens,
        }
    }
}

/// Merges that CLIP's classes read at most.
const CLIP_MERGES: usize = 49152 - 256 - 2;

/// Whether a folder has the files of a vocabulary.
pub(crate) fn are_in(dir: &Path) -> bool {
    is_there(&dir.join(WORDS)) || (is_there(&dir.join(PIECES)) && is_there(&dir.join(MERGES)))
}

/// The tokenizer of a folder's vocabulary files, and the file of its vocabulary.
///
/// # Errors
///
/// [`ModelError::NotACheckpoint`] if the folder has none, [`ModelError::Tokenizer`] for those of a class that is not built here, or files
/// that do not fit, [`ModelError::Store`] for files that cannot be read.
pub(crate) fn tokenizer(dir: &Path) -> Result<(PathBuf, Tokenizer), ModelError> {
    if !are_in(dir) {
        return Err(match SENTENCE_PIECE.iter().find(|name| is_there(&dir.join(name))) {
            Some(name) => refusal(
                &dir.join(name),
                &format!(
                    "a SentencePiece model is not read without tokenizer.json; {}",
                    conversion(dir)
                ),
            ),
            None => ModelError::NotACheckpoint {
                path: dir.to_owned(),
                missing: "it has no tokenizer.json",
            },
        });
    }
    let config = Config::read(dir)?;
    let words = config.class.rules == Rules::WordPiece;
    let path = dir.join(if words { WORDS } else { PIECES });
    let vocabulary = match words {
        true => words_of(&read(&path)?),
        false => read_json(&path)?,
    };
    let merges = match words {
        true => Vec::new(),
        false => merges_of(&dir.join(MERGES), config.class.rules)?,
    };
    let parts = Parts {
        config: &config,
        path: &path,
        vocabulary,
    };
    let built = Tokenizer::from_bytes(parts.tokenizer(merges)?.to_string());
    let mut tokenizer = built.map_err(|error| refusal(&path, &error.to_string()))?;
    for (id, token) in config.added()? {
        let content = token.content.clone();
        let added = match token.special {
            true => tokenizer.add_special_tokens([token]),
            false => tokenizer.add_tokens([token]),
        };
        added.map_err(|error| refusal(&path, &error.to_string()))?;
        let found = tokenizer.token_to_id(&content);
        if id.is_some() && id != found {
            let (expected, found) = (id.unwrap_or_default(), found.unwrap_or_default());
            let reason =
                format!("the added token `{content}` is number {expected} in the folder, and would be {found}");
            return Err(refusal(&path, &reason));
        }
    }
    Ok((path, tokenizer))
}

/// What the files of a folder say of its tokenizer.
struct Config {
    class: &'static Class,
    /// `tokenizer_config.json`, with the tokens of `special_tokens_map.json` where the former does not list the added ones.
    fields: Map<String, Value>,
    path: PathBuf,
    /// `added_tokens.json`, by token.
    added: Map<String, Value>,
}

impl Config {
    fn read(dir: &Path) -> Result<Self, ModelError> {
        let optional =
            |name: &str| read_json_if_there::<Map<String, Value>>(&dir.join(name)).map(Option::unwrap_or_default);
        let path = dir.join("tokenizer_config.json");
        let mut fields = optional("tokenizer_config.json")?;
        let of_model = optional("config.json")?;
        let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let named = text(&fields, "tokenizer_class").or_else(|| text(&of_model, "tokenizer_class"));
        let model_type = text(&of_model, "model_type");
        let class = match &named {
            Some(name) => CLASSES
                .iter()
                .find(|class| class.name == name.strip_suffix("Fast").unwrap_or(name)),
            None => CLASSES
                .iter()
                .find(|class| model_type.as_deref().is_some_and(|of| class.model_types.contains(&of))),
        };
        let Some(class) = class else {
            let of = match (named, model_type) {
                (Some(name), _) => format!("the class `{name}`"),
                (None, Some(model_type)) => format!("`{model_type}` models"),
                (None, None) => "an unknown class, as tokenizer_config.json has no `tokenizer_class`".to_owned(),
            };
            let reason = format!(
                "the vocabulary files of {of} are not read without tokenizer.json; {}",
                conversion(dir)
            );
            return Err(refusal(dir, &reason));
        };
        let needed: &[&str] = match class.rules {
            Rules::WordPiece => &[WORDS],
            _ => &[PIECES, MERGES],
        };
        if let Some(missing) = needed.iter().find(|name| !is_there(&dir.join(name))) {
            let reason = format!(
                "a `{}` without tokenizer.json needs {missing}, which is not there",
                class.name
            );
            return Err(refusal(dir, &reason));
        }
        let mut added = Map::new();
        if !fields.contains_key("added_tokens_decoder") {
            fields.extend(optional("special_tokens_map.json")?);
            added = optional("added_tokens.json")?;
        }
        Ok(Self {
            class,
            fields,
            path,
            added,
        })
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        Ok(self.choice(key, Some(default))?.unwrap_or(default))
    }

    /// A truth value that may be null.
    fn choice(&self, key: &str, default: Option<bool>) -> Result<Option<bool>, ModelError> {
        match self.fields.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, "true, false or null", other)),
        }
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> ModelError {
        refusal(&self.path, &format!("`{key}` is {found}, expected {expected}"))
    }

    /// A special token by its field; `None` where it is null, or the class has none.
    fn token(&self, field: &str) -> Result<Option<AddedToken>, ModelError> {
        let default = self.class.tokens.iter().find(|(name, _)| *name == field);
        let token = match (self.fields.get(field), default) {
            (None, Some((_, token))) => self.special(field, &Value::from(*token))?,
            (None | Some(Value::Null), _) => return Ok(None),
            (Some(found), _) => self.special(field, found)?,
        };
        Ok(Some(token))
    }

    /// A token as a text or an object. The hidden token of BPE takes the space before it.
    fn special(&self, field: &str, found: &Value) -> Result<AddedToken, ModelError> {
        let takes_space = field == "mask_token" && matches!(self.class.rules, Rules::Roberta | Rules::Deberta);
        match found {
            Value::String(text) => Ok(AddedToken::from(text.clone(), true).lstrip(takes_space)),
            Value::Object(fields) => self.object(field, fields, true),
            other => Err(self.wrong(field, "a token", other)),
        }
    }

    fn object(&self, field: &str, fields: &Map<String, Value>, special: bool) -> Result<AddedToken, ModelError> {
        let flag = |key: &str| fields.get(key).and_then(Value::as_bool);
        let Some(content) = fields.get("content").and_then(Value::as_str) else {
            return Err(self.wrong(field, "a token with its `content`", &Value::Object(fields.clone())));
        };
        let special = special || flag("special").unwrap_or_default();
        Ok(AddedToken::from(content, special)
            .single_word(flag("single_word").unwrap_or_default())
            .lstrip(flag("lstrip").unwrap_or_default())
            .rstrip(flag("rstrip").unwrap_or_default())
            .normalized(flag("normalized").unwrap_or(!special)))
    }

    /// The tokens to add, each once, in order, with their numbers where the folder has them.
    fn added(&self) -> Result<Vec<(Option<u32>, AddedToken)>, ModelError> {
        let mut special = Vec::new();
        for field in FIELDS {
            special.extend(self.token(field)?);
        }
        let more = "additional_special_tokens";
        match self.fields.get(more) {
            None | Some(Value::Null) => {}
            Some(Value::Array(tokens)) => {
                for token in tokens {
                    special.push(self.special(more, token)?);
                }
            }
            Some(other) => return Err(self.wrong(more, "a list of tokens", other)),
        }
        let is_special = |content: &str| special.iter().any(|token| token.content == content);
        let mut numbered = Vec::new();
        let listed = "added_tokens_decoder";
        match self.fields.get(listed) {
            None | Some(Value::Null) => {}
            Some(Value::Object(tokens)) => {
                for (id, token) in tokens {
                    let (Ok(id), Some(fields)) = (id.parse(), token.as_object()) else {
                        return Err(self.wrong(listed, "tokens by their numbers", token));
                    };
                    let mut token = self.object(listed, fields, false)?;
                    token.special |= is_special(&token.content);
                    numbered.push((id, token));
                }
            }
            Some(other) => return Err(self.wrong(listed, "tokens by their numbers", other)),
        }
        for (content, id) in &self.added {
            let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                return Err(self.wrong(content, "the number of an added token", id));
            };
            numbered.push((id, AddedToken::from(content.clone(), is_special(content))));
        }
        numbered.sort_by_key(|(id, _)| *id);
        let numbered = numbered.into_iter().map(|(id, token)| (Some(id), token));
        let mut once = HashSet::new();
        let all = numbered.chain(special.into_iter().map(|token| (None, token)));
        Ok(all.filter(|(_, token)| once.insert(token.content.clone())).collect())
    }
}

/// A token a line, in the order of their numbers.
fn words_of(text: &str) -> Map<String, Value> {
    text.lines()
        .zip(0..)
        .map(|(word, id)| (word.to_owned(), Value::from(id)))
        .collect()
}

/// A pair a line. The classes leave out the first line and the last, which they take for a heading and nothing; Qwen2's look.
fn merges_of(path: &Path, rules: Rules) -> Result<Vec<[String; 2]>, ModelError> {
    let text = read(path)?;
    let mut lines: Vec<(usize, &str)> = match rules {
        Rules::Clip => (1..).zip(text.trim().split('\n')).collect(),
        _ => (1..).zip(text.split('\n')).collect(),
    };
    match rules {
        Rules::Qwen2 => lines.retain(|(number, line)| {
            let heading = *number == 1 && line.trim().starts_with("#version:");
            !heading && !line.trim().is_empty()
        }),
        Rules::Clip => lines = lines.into_iter().skip(1).take(CLIP_MERGES).collect(),
        _ => {
            lines.pop();
            lines = lines.into_iter().skip(1).collect();
        }
    }
    let pair = |(number, line): (usize, &str)| {
        let parts: Vec<&str> = line.split_whitespace().collect();
        match parts.as_slice() {
            [a, b] => Ok([(*a).to_owned(), (*b).to_owned()]),
            _ => Err(refusal(
                path,
                &format!("line {number} is `{line}`, expected two tokens"),
            )),
        }
    };
    lines.into_iter().map(pair).collect()
}

fn read(path: &Path) -> Result<String, ModelError> {
    String::from_utf8(read_file(path)?).map_err(|error| refusal(path, &error.to_string()))
}

/// How a folder gets its `tokenizer.json`.
fn conversion(dir: &Path) -> String {
    let dir = dir.display();
    format!("`AutoTokenizer.from_pretrained(\"{dir}\").save_pretrained(\"{dir}\")` of transformers in Python writes it")
}

fn refusal(path: &Path, reason: &str) -> ModelError {
    ModelError::Tokenizer {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
