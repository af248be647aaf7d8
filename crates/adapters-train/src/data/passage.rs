//! What a language model learns from a record, in the layouts that data sets are published in.

use adapters_models::Message;
use serde_json::{Map, Value};

use super::error::DataError;
use super::fields::Fields;
use super::record::{Cell, Record};

/// What a language model learns from a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// A text, all of which is learned.
    Text(String),
    /// A text that follows a prompt.
    Completion {
        /// The prompt.
        prompt: String,
        /// What follows it.
        completion: String,
    },
    /// A chat, whose assistant's turns are learned.
    Chat(Vec<Message>),
}

/// Fields of chats: those of the `messages` layout, and of ShareGPT.
const CHATS: [&str; 2] = ["messages", "conversations"];

/// The field of the tools that a chat may use.
const TOOLS: &str = "tools";

/// Fields of Alpaca's layout: an instruction, what it is about, and the answer.
const INSTRUCTION: [&str; 3] = ["instruction", "input", "output"];

impl Record {
    /// The passage of a record. The first layout of which it has the fields counts:
    ///
    /// | Layout | Fields |
    /// |---|---|
    /// | completion | `fields.prompt` and `fields.completion` |
    /// | chat | `messages`, a list of objects with `role` and `content`; [`tools`](Self::tools) if present |
    /// | ShareGPT | `conversations`, a list of objects with `from` (`human`, `gpt`, `system`) and `value` |
    /// | Alpaca | `instruction`, `output`, and `input` if present, which follows the instruction after an empty line |
    /// | text | `fields.text` |
    ///
    /// # Errors
    ///
    /// [`DataError::MissingField`] if it has none of them, [`DataError::WrongType`].
    pub fn passage(&self, fields: &Fields) -> Result<Passage, DataError> {
        let completion = |prompt, completion| Passage::Completion { prompt, completion };
        if self.get(&fields.prompt).is_some() {
            let (prompt, answer) = (self.text(&fields.prompt)?, self.text(&fields.completion)?);
            return Ok(completion(prompt.to_owned(), answer.to_owned()));
        }
        if let Some(field) = CHATS.into_iter().find(|field| self.get(field).is_some()) {
            return self.chat(field).map(Passage::Chat);
        }
        let [instruction, input, output] = INSTRUCTION;
        if self.get(instruction).is_some() && self.get(output).is_some() {
            let asked = self.text(instruction)?;
            let prompt = match self.optional_text(input)? {
                Some(input) => format!("{asked}\n\n{input}"),
                None => asked.to_owned(),
            };
            return Ok(completion(prompt, self.text(output)?.to_owned()));
        }
        match self.get(&fields.text) {
            Some(_) => Ok(Passage::Text(self.text(&fields.text)?.to_owned())),
            None => Err(self.missing(&fields.prompt)),
        }
    }

    /// The tools that a chat may use: the field `tools`, a list of JSON objects or a text that is one; empty without the field.
    ///
    /// # Errors
    ///
    /// [`DataError::WrongType`].
    pub fn tools(&self) -> Result<Vec<Value>, DataError> {
        if !self.has(TOOLS) {
            return Ok(Vec::new());
        }
        let cell = self.needed(TOOLS)?;
        let tools = match cell {
            Cell::Json(Value::String(text)) => serde_json::from_str(text).ok(),
            Cell::Text(text) => serde_json::from_str(text).ok(),
            Cell::Json(value) => Some(value.clone()),
        };
        match tools {
            Some(Value::Array(tools)) if tools.iter().all(Value::is_object) => Ok(tools),
            _ => Err(self.wrong_type(TOOLS, "a list of JSON objects, one for each tool", cell)),
        }
    }

    /// The messages of a chat.
    fn chat(&self, field: &str) -> Result<Vec<Message>, DataError> {
        let messages = match self.needed(field)? {
            Cell::Json(Value::Array(messages)) => messages,
            cell => return Err(self.wrong_type(field, "a list of messages", cell)),
        };
        let chat = messages.iter().map(|value| {
            let expected = "messages with `role` and `content`, or `from` and `value`";
            let message = value
                .as_object()
                .ok_or_else(|| self.wrong_type(field, expected, Cell::Json(value)))?;
            let role = message
                .get("role")
                .or_else(|| message.get("from"))
                .and_then(Value::as_str);
            let content = message.get("content").or_else(|| message.get("value"));
            let (Some(role), Some(content)) = (role, content) else {
                let keys: Vec<&str> = message.keys().map(String::as_str).collect();
                return Err(self.wrong(field, expected, format!("one with `{}`", keys.join("`, `"))));
            };
            if let Some(calls) = message.get("tool_calls").filter(|calls| !calls.is_null()) {
                let expected = "messages without tool calls, which are not supported";
                return Err(self.wrong(
                    field,
                    expected,
                    format!("`tool_calls`, {}", Cell::Json(calls).describe()),
                ));
            }
            let role = match role {
                "human" => "user",
                "gpt" => "assistant",
                role => role,
            };
            Ok(Message::new(role, self.content(field, content)?))
        });
        let chat: Vec<Message> = chat.collect::<Result<_, _>>()?;
        if !chat.iter().any(|message| message.role == "assistant") {
            let roles: Vec<&str> = chat.iter().map(|message| message.role.as_str()).collect();
            let found = match roles.as_slice() {
                [] => "no message".to_owned(),
                roles => format!("the roles `{}`", roles.join("`, `")),
            };
            return Err(self.wrong(field, "a chat with an assistant's message", found));
        }
        Ok(chat)
    }

    /// The text of a message, or the texts of its parts.
    fn content(&self, field: &str, content: &Value) -> Result<String, DataError> {
        let part = |part: &Map<String, Value>| match (part.get("type"), part.get("text")) {
            (Some(kind), Some(Value::String(text))) if kind == "text" => Some(text.clone()),
            _ => None,
        };
        let text = match content {
            Value::String(text) => Some(text.clone()),
            Value::Array(parts) => parts.iter().map(|value| part(value.as_object()?)).collect(),
            _ => None,
        };
        text.ok_or_else(|| self.wrong_type(field, "messages whose content is a text", Cell::Json(content)))
    }
}
