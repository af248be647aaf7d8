//! Chat templates: messages to the text a model was trained on, by the template published with its tokenizer.

mod message;
mod time;

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use adapters_store::{StoreError, is_there, read_file, read_json, read_json_if_there};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value as Json};

use crate::error::ModelError;

pub use message::Message;
pub use time::ChatTime;

/// The template of a checkpoint: `chat_template.jinja`, or `chat_template` of `chat_template.json` or `tokenizer_config.json`.
///
/// Of several templates with names, which are in a list `{name, template}` or in files `additional_chat_templates/{name}.jinja`,
/// the one named `default` is used, and `tool_use`, if there is one, for a chat [with tools](Self::with_tools).
///
/// It is rendered as Hugging Face transformers renders it, with the methods of Python's strings, lists and dictionaries, with
/// `tojson` and with `strftime_now`, the local time: a template that writes the date gives another text on another day, unless it is
/// told the [time](Self::at).
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    source: String,
    /// The template named `tool_use`, with its file.
    tool_use: Option<(PathBuf, String)>,
    /// The tools that the chat may use.
    tools: Option<Vec<Json>>,
    /// `bos_token` and its like.
    tokens: Map<String, Json>,
    /// The time to write; `None` for that of the call.
    time: Option<ChatTime>,
}

const CONFIG: &str = "tokenizer_config.json";
const FILE: &str = "chat_template.jinja";
const JSON_FILE: &str = "chat_template.json";
const ADDITIONAL: &str = "additional_chat_templates";
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

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
    pub(crate) fn is_in(dir: &Path) -> bool {
        let config = || read_json::<Map<String, Json>>(&dir.join(CONFIG));
        [FILE, JSON_FILE].iter().any(|name| is_there(&dir.join(name)))
            || config().is_ok_and(|config| config.contains_key("chat_template"))
    }

    /// Reads the template of a checkpoint folder.
    ///
    /// # Errors
    ///
    /// [`ModelError::ChatTemplate`] if it has none, [`ModelError::Store`] for files.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        Self::load_over(dir, dir)
    }

    /// Reads the template of the folder of an adapter, with special tokens of its base in the folder `base` where the adapter's names
    /// none.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub(crate) fn load_over(dir: &Path, base: &Path) -> Result<Self, ModelError> {
        let config = read_config(dir)?;
        let (file, json_file) = (dir.join(FILE), dir.join(JSON_FILE));
        let read = |path: &Path| {
            String::from_utf8(read_file(path)?).map_err(|error| StoreError::Read {
                path: path.to_owned(),
                source: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
            })
        };
        let (path, source, mut tool_use) = if is_there(&file) {
            let text = read(&file)?;
            (file, Some(text), None)
        } else {
            let (path, field) = if is_there(&json_file) {
                let mut fields: Map<String, Json> = read_json(&json_file)?;
                (json_file, fields.remove("chat_template"))
            } else {
                (dir.join(CONFIG), config.get("chat_template").cloned())
            };
            let named = |name| field.as_ref().and_then(|field| named_template(field, name));
            let tool_use = named(TOOL_USE).map(|text| (path.clone(), text));
            let source = field.as_ref().and_then(Json::as_str).map(str::to_owned);
            let source = source.or_else(|| named(DEFAULT));
            (path, source, tool_use)
        };
        let additional = dir.join(ADDITIONAL).join(format!("{TOOL_USE}.jinja"));
        if is_there(&additional) {
            let text = read(&additional)?;
            tool_use = Some((additional, text));
        }
        let Some(source) = source else {
            return Err(ModelError::ChatTemplate {
                path,
                reason: "it has no chat_template, and none named `default` in a list of templates: the model was not trained \
                         on chats"
                    .to_owned(),
            });
        };
        let mut tokens = special_tokens(&read_config(base)?);
        tokens.extend(special_tokens(&config));
        Ok(Self {
            path,
            source: marked(&source),
            tool_use: tool_use.map(|(path, text)| (path, marked(&text))),
            tools: None,
            tokens,
            time: None,
        })
    }

    /// The template at a time, which `strftime_now` gives in place of that of the call.
    #[must_use]
    pub fn at(mut self, time: ChatTime) -> Self {
        self.time = Some(time);
        self
    }

    /// The template for a chat that may use `tools`: descriptions of functions, as JSON objects. It is the one named `tool_use`, if
    /// the checkpoint has one, and else this one. An empty list is no tools.
    #[must_use]
    pub fn with_tools(&self, tools: Vec<Json>) -> Self {
        let mut template = self.clone();
        if !tools.is_empty() {
            if let Some((path, source)) = template.tool_use.take() {
                (template.path, template.source) = (path, source);
            }
            template.tools = Some(tools);
        }
        template
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
        // The name stands in messages, in front of the line.
        let name = match self.path.extension().is_some_and(|extension| extension == "jinja") {
            true => self.path.file_name().unwrap_or_default().to_string_lossy(),
            false => "the chat template".into(),
        };
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        // Errors name the variable and the line of the template then. By default they do in builds with debug assertions only.
        environment.set_debug(true);
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
        environment.add_filter("tojson", |value: Value, options: Kwargs| json(&value, &options));
        let time = self.time.unwrap_or_else(ChatTime::now);
        environment.add_function("strftime_now", move |format: String| {
            let written = time.format(&format);
            written.map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
        });
        for (name, token) in &self.tokens {
            environment.add_global(name.clone(), Value::from(Serde(token.clone())));
        }
        let messages: Value = messages.iter().map(Message::value).collect();
        let mut text = Limited::default();
        let template = environment
            .template_from_named_str(&name, &self.source)
            .map_err(|error| self.refuse(&error))?;
        template
            .render_captured_to(
                context! { messages, tools => Value::from(Serde(&self.tools)), add_generation_prompt => open },
                &mut text,
            )
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

/// Spaces behind commas and colons, as in Python.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// JSON as `json.dumps(value, ensure_ascii=False, indent=indent)` of Python writes it; the engine's own `tojson` has no spaces and
/// escapes what HTML reserves.
fn json(value: &Value, options: &Kwargs) -> Result<String, Error> {
    let refuse = |reason: String| Error::new(ErrorKind::InvalidOperation, reason);
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or_default() {
        return Err(refuse("`tojson` with `ensure_ascii=True` is not supported".to_owned()));
    }
    options.assert_all_used()?;
    let mut text = Limited::default();
    let written = match indent {
        Some(indent) if indent > 64 => {
            return Err(refuse(format!(
                "`tojson` expects an indent of at most 64, found {indent}"
            )));
        }
        Some(indent) => {
            let indent = " ".repeat(indent);
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut text, formatter))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, Spaced)),
    };
    written.map_err(|error| refuse(format!("`tojson`: {error}")))?;
    // JSON is a text.
    Ok(String::from_utf8_lossy(&text.0).into_owned())
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

/// `tokenizer_config.json` of a folder; empty if it has none.
fn read_config(dir: &Path) -> Result<Map<String, Json>, StoreError> {
    read_json_if_there(&dir.join(CONFIG)).map(Option::unwrap_or_default)
}

/// `bos_token` and its like: each a text, or an object that has it.
fn special_tokens(config: &Map<String, Json>) -> Map<String, Json> {
    let tokens = config.iter().filter(|(key, _)| key.ends_with("_token"));
    let text = |value: &Json| Some(value.as_str().or_else(|| value.get("content")?.as_str())?.into());
    tokens
        .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
        .collect()
}

/// The template of a name in a list of `{name, template}`.
fn named_template(value: &Json, name: &str) -> Option<String> {
    let named = value.as_array()?.iter().find(|named| named["name"] == name)?;
    Some(named.get("template")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn what_a_template_lacks_is_named_with_its_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        for (source, names) in [
            ("\n\n{{ persona.name }}", &["persona"][..]),
            ("\n\n{{ messages[0].author.name }}", &["author"]),
            ("\n\n{% for part in parts.list %}{% endfor %}", &["parts"]),
            ("\n\n{{ shout('x') }}", &["shout"]),
            ("\n\n{{ 'x' | louder }}", &["louder"]),
            ("\n\n{% if messages[0] is cheerful %}{% endif %}", &["cheerful"]),
            ("\n\n{{ 'x'.louder() }}", &["louder"]),
            ("\n\n{{ messages[5].content.strip() }}", &["messages"]),
            ("\n\n{{ persona + 'x' }}", &["persona"]),
            ("\n\n{{ raise_exception('no') }}", &["no"]),
        ] {
            fs::write(dir.path().join(FILE), source).unwrap();
            let refused = ChatTemplate::load(dir.path()).unwrap().render(&chat(), true);
            let error = refused.unwrap_err().to_string();
            for part in names.iter().chain(&["chat_template.jinja:3"]) {
                assert!(error.contains(part), "{source}: {error}");
            }
        }
        // As in Jinja, a name that is not there is an empty text where it is only written.
        fs::write(dir.path().join(FILE), "a{{ persona }}b").unwrap();
        assert_eq!(
            ChatTemplate::load(dir.path()).unwrap().render(&chat(), true).unwrap(),
            "ab"
        );
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

    #[test]
    fn tools_are_given_to_the_template_named_tool_use_and_written_as_python_does() {
        let tools = || {
            let tool = serde_json::json!({"type": "function", "function": {"name": "weather", "b": [1, 2.5, true, null], "a": "<é>"}});
            vec![tool]
        };
        let written = r#"{"type": "function", "function": {"name": "weather", "b": [1, 2.5, true, null], "a": "<é>"}}"#;
        let config = serde_json::json!({"chat_template": [
            {"name": "tool_use", "template": "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"},
            {"name": "default", "template": "{% if tools is none %}no{% endif %}"},
        ]});
        let template = template(&config.to_string()).unwrap();
        let text = |template: &ChatTemplate| template.render(&chat(), false).unwrap();
        assert_eq!(text(&template), "no");
        assert_eq!(text(&template.with_tools(Vec::new())), "no");
        assert_eq!(text(&template.with_tools(tools())), written);

        // A file is in place of the one in the list; without any, the default gets the tools.
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{{ tools[0].function.b | tojson(indent=2) }}").unwrap();
        let template = ChatTemplate::load(dir.path()).unwrap();
        assert_eq!(
            text(&template.with_tools(tools())),
            "[\n  1,\n  2.5,\n  true,\n  null\n]"
        );
        fs::create_dir(dir.path().join(ADDITIONAL)).unwrap();
        fs::write(
            dir.path().join(ADDITIONAL).join("tool_use.jinja"),
            "{{ tools | length }}",
        )
        .unwrap();
        let template = ChatTemplate::load(dir.path()).unwrap();
        assert_eq!(text(&template.with_tools(tools())), "1");
    }

    #[test]
    fn a_template_may_write_the_date_and_a_wrong_format_is_an_error() {
        let of = |source: &str| {
            let config = serde_json::json!({ "chat_template": source });
            template(&config.to_string()).unwrap().render(&chat(), true)
        };
        let day = || ChatTime::now().format("%d %b %Y").unwrap();
        let (before, text, after) = (day(), of("{{ strftime_now('%d %b %Y') }}").unwrap(), day());
        // Midnight may pass between the two.
        assert!(text == before || text == after, "{text}");
        let config = serde_json::json!({ "chat_template": "{{ strftime_now('%Y-%f') }}" });
        let template = template(&config.to_string())
            .unwrap()
            .at("2001-02-03T04:05:06.5".parse().unwrap());
        assert_eq!(template.render(&chat(), true).unwrap(), "2001-500000");
        let error = of("{{ strftime_now('%!') }}").unwrap_err().to_string();
        assert!(error.contains("found `%!`"), "{error}");
    }
}
