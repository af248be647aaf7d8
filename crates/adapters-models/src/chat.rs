//! Chat templates: messages to the text a model was trained on, by the template published with its tokenizer.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use adapters_store::{StoreError, read_json};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::{Map, Value as Json};

use crate::error::ModelError;

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// The template of a checkpoint: `chat_template.jinja`, or `chat_template` of `chat_template.json` or `tokenizer_config.json`.
///
/// It is rendered as Hugging Face transformers renders it, with the methods of Python's strings, lists and dictionaries, but
/// without tools, documents and `strftime_now`: a text does not depend on the day.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    source: String,
    /// `bos_token` and its like.
    tokens: Vec<(String, String)>,
}

const CONFIG: &str = "tokenizer_config.json";
const FILE: &str = "chat_template.jinja";
const JSON_FILE: &str = "chat_template.json";

/// What a rendered text has around an answer that the template marks with `{% generation %}`: noncharacters of Unicode, which no
/// text has.
const MARKS: [char; 2] = ['\u{10FFFE}', '\u{10FFFF}'];

/// Steps of the template engine that a chat may take; published templates need a few hundred for each message.
const FUEL: u64 = 2_000_000;

/// Bytes that a chat may become.
const LONGEST: usize = 16 << 20;

/// A text that refuses to become too long.
#[derive(Default)]
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(io::Error::other(format!(
                "it makes a text of more than {} MiB",
                LONGEST >> 20
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ChatTemplate {
    /// Whether a folder has a template: that of a checkpoint, or that of an adapter which was trained with another one.
    pub fn is_in(dir: &Path) -> bool {
        let config = || read_json::<Map<String, Json>>(&dir.join(CONFIG));
        dir.join(FILE).is_file() || config().is_ok_and(|config| config.contains_key("chat_template"))
    }

    /// Reads the template of a checkpoint folder.
    ///
    /// # Errors
    ///
    /// [`ModelError::ChatTemplate`] if it has none, [`ModelError::Store`] for files.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let config: Map<String, Json> = match dir.join(CONFIG) {
            path if path.exists() => read_json(&path)?,
            _ => Map::new(),
        };
        let (file, json_file) = (dir.join(FILE), dir.join(JSON_FILE));
        let (path, source) = if file.exists() {
            let text = fs::read_to_string(&file).map_err(|source| StoreError::Read {
                path: file.clone(),
                source,
            })?;
            (file, Some(text))
        } else if json_file.exists() {
            let fields: Map<String, Json> = read_json(&json_file)?;
            (json_file, fields.get("chat_template").and_then(default_template))
        } else {
            (dir.join(CONFIG), config.get("chat_template").and_then(default_template))
        };
        let Some(source) = source else {
            return Err(ModelError::ChatTemplate {
                path,
                reason: "it has no chat_template: the model was not trained on chats".to_owned(),
            });
        };
        let tokens = config
            .iter()
            .filter(|(key, _)| key.ends_with("_token"))
            .filter_map(|(key, value)| {
                // A token is a text, or an object that has it.
                let token = value.as_str().or_else(|| value.get("content")?.as_str())?;
                Some((key.clone(), token.to_owned()))
            })
            .collect();
        Ok(Self {
            path,
            source: marked(&source),
            tokens,
        })
    }

    /// Whether the template says itself which parts are an assistant's, `{% generation %}`.
    pub fn marks_answers(&self) -> bool {
        self.source.contains(MARKS[0])
    }

    /// The text of a chat; `open` adds what an answer begins with.
    ///
    /// # Errors
    ///
    /// [`ModelError::ChatTemplate`] with the template's own words, or the line it fails at.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<String, ModelError> {
        self.render_marked(messages, open).map(|(text, _)| text)
    }

    /// The text of a chat, and the bytes of it that the template marks as an assistant's.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render).
    pub fn render_marked(&self, messages: &[Message], open: bool) -> Result<(String, Vec<Range<usize>>), ModelError> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| self.refuse(&error))?);
        environment.set_unknown_method_callback(|state, value, method, args| match (value.as_str(), method, args) {
            (Some(separator), "join", [items]) => joined(items, Some(separator)).map(Value::from),
            _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
        });
        environment.add_filter("join", |items: Value, separator: Option<String>| {
            joined(&items, separator.as_deref())
        });
        environment.add_function("raise_exception", |reason: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        for (name, token) in &self.tokens {
            environment.add_global(name.clone(), token.clone());
        }
        let messages: Value = messages
            .iter()
            .map(|Message { role, content }| {
                Value::from_pairs([("role", role.as_str()), ("content", content.as_str())])
            })
            .collect();
        let mut text = Limited::default();
        let template = environment
            .template_from_str(&self.source)
            .map_err(|error| self.refuse(&error))?;
        template
            .render_captured_to(context! { messages, add_generation_prompt => open }, &mut text)
            .map_err(|error| self.refuse(&error))?;
        // The engine writes texts only.
        Ok(unmarked(&String::from_utf8_lossy(&text.0)))
    }

    fn refuse(&self, error: &Error) -> ModelError {
        // What the writer said is the cause of an error that says nothing.
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        ModelError::ChatTemplate {
            path: self.path.clone(),
            reason: format!("{error}{}", cause.unwrap_or_default()),
        }
    }
}

/// Items with a separator between them, which the engine would join to any length.
fn joined(items: &Value, separator: Option<&str>) -> Result<String, Error> {
    let separator = separator.unwrap_or_default();
    let mut text = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        if index > 0 {
            text.push_str(separator);
        }
        match item.as_str() {
            Some(item) => text.push_str(item),
            None => text.push_str(&item.to_string()),
        }
        if text.len() > LONGEST {
            let reason = format!("`join` makes a text of more than {} MiB", LONGEST >> 20);
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
    }
    Ok(text)
}

/// The template with marks in place of `{% generation %}` and `{% endgeneration %}`, which the engine does not have. Each becomes a
/// block around its mark, so that line ends are kept or dropped as at a block.
fn marked(source: &str) -> String {
    let mut marked = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // Behind the opening, whose percent sign is none of the end.
        let Some(length) = rest[start + 2..].find("%}") else {
            break;
        };
        let end = start + 2 + length;
        let (before, tag) = (&rest[..start], &rest[start + 2..end]);
        marked.push_str(before);
        let (left, right) = (
            if tag.starts_with(['-', '+']) { &tag[..1] } else { "" },
            if tag.ends_with(['-', '+']) {
                &tag[tag.len() - 1..]
            } else {
                ""
            },
        );
        let mark = match tag.trim_matches(['-', '+']).trim() {
            "generation" => Some(MARKS[0]),
            "endgeneration" => Some(MARKS[1]),
            _ => None,
        };
        match mark {
            Some(mark) => marked.push_str(&format!("{{%{left} if true %}}{mark}{{% endif {right}%}}")),
            None => marked.push_str(&rest[start..end + 2]),
        }
        rest = &rest[end + 2..];
    }
    marked.push_str(rest);
    marked
}

/// A text without its marks, and the bytes between them.
fn unmarked(marked: &str) -> (String, Vec<Range<usize>>) {
    let (mut text, mut ranges, mut open) = (String::with_capacity(marked.len()), Vec::new(), None);
    for c in marked.chars() {
        match c {
            c if c == MARKS[0] => open = Some(text.len()),
            c if c == MARKS[1] => ranges.extend(open.take().map(|start| start..text.len())),
            c => text.push(c),
        }
    }
    (text, ranges)
}

/// The template, or the one called `default` of several.
fn default_template(value: &Json) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let named = value.as_array()?.iter().find(|named| named["name"] == "default")?;
    Some(named.get("template")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(config: &str) -> Result<ChatTemplate, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), config).unwrap();
        ChatTemplate::load(dir.path())
    }

    fn chat() -> [Message; 2] {
        [Message::new("system", "Be brief. "), Message::new("user", "Hello")]
    }

    #[test]
    fn messages_become_a_text_with_python_methods_and_special_tokens() {
        let config = r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template":
            "{{ bos_token }}{% for message in messages %}\n{% if message['role'] == 'user' %}\n[{{ message.content.upper() }}]\n{% else %}\n{{ message['content'].strip() }}{{ eos_token }}\n{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}>{% endif %}"}"#;
        let template = template(config).unwrap();
        // A line end after a block is the block's.
        assert_eq!(template.render(&chat(), true).unwrap(), "<s>Be brief.</s>\n[HELLO]\n>");
        assert_eq!(template.render(&chat(), false).unwrap(), "<s>Be brief.</s>\n[HELLO]\n");
    }

    #[test]
    fn a_template_has_limits_and_joins_as_python_does() {
        let of = |source: &str| {
            let config = serde_json::json!({ "chat_template": source });
            template(&config.to_string()).unwrap().render(&chat(), true)
        };
        assert_eq!(
            of("{{ ['a', 1, 'b']|join('-') }} {{ ', '.join(['x', 'y']) }}").unwrap(),
            "a-1-b x, y"
        );
        for endless in [
            "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
            "{{ (['a' * 1000000] * 100000)|join }}",
            "{{ ''.join(['a' * 1000000] * 100000) }}",
            "{% set ns = namespace(x='a' * 1000) %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        ] {
            assert!(matches!(of(endless), Err(ModelError::ChatTemplate { .. })), "{endless}");
        }
    }

    #[test]
    fn a_block_without_a_tag_is_refused_and_nothing_is_cut() {
        for source in ["{%}", "{%}{% endfor %}", "a{%}b", "{%-%}", "{%+", "{%", "{% %"] {
            let config = serde_json::json!({ "chat_template": source });
            let rendered = template(&config.to_string()).unwrap().render(&chat(), true);
            assert!(matches!(rendered, Err(ModelError::ChatTemplate { .. })), "{source}");
            assert_eq!(marked(source), source);
        }
    }

    #[test]
    fn answers_that_a_template_marks_are_found_and_line_ends_are_those_of_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let source = "{% for m in messages %}\n[{{ m.role }}]\n{%- generation -%}\n {{ m.content }}.\n{% endgeneration %}\n{% endfor %}";
        let json = serde_json::json!({"chat_template": source}).to_string();
        fs::write(dir.path().join(JSON_FILE), json).unwrap();
        let template = ChatTemplate::load(dir.path()).unwrap();
        assert!(template.marks_answers());
        let (text, ranges) = template.render_marked(&chat(), false).unwrap();
        assert_eq!(text, "[system]Be brief. .\n[user]Hello.\n");
        let answers: Vec<&str> = ranges.into_iter().map(|range| &text[range]).collect();
        assert_eq!(answers, ["Be brief. .\n", "Hello.\n"]);
    }

    #[test]
    fn a_template_may_refuse_and_one_of_several_is_the_default() {
        let config = r#"{"chat_template": [{"name": "tools", "template": "no"},
            {"name": "default", "template": "{{ raise_exception('roles must alternate') }}"}]}"#;
        let error = template(config).unwrap().render(&chat(), true).unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
        let error = template("{}").unwrap_err().to_string();
        assert!(error.contains("no chat_template"), "{error}");
    }
}
