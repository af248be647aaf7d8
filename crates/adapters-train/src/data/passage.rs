//! What a language model learns from a record, in the layouts that data sets are published in.

use adapters_models::Message;
use adapters_store::check_unique;
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

/// The role that says how to answer, and its field next to ShareGPT's list.
const SYSTEM: &str = "system";

/// The field of the tools that a chat may use.
const TOOLS: &str = "tools";

/// Fields of Alpaca's layout: an instruction, what it is about, and the answer.
const INSTRUCTION: [&str; 3] = ["instruction", "input", "output"];

impl Record {
    /// The passage of a record. The first layout of which it has the fields counts:
    ///
    /// | Layout | Fields |
    /// |---|---|
    /// | completion | `fields.prompt` and `fields.completion`, texts, or lists of messages none of the first of which is an assistant's |
    /// | chat | `messages`, a list of objects with `role` and `content` or `tool_calls`; [`tools`](Self::tools) if present |
    /// | ShareGPT | `conversations`, a list of objects with `from` (`human`, `gpt`, `system`) and `value`; `system` if present, a text |
    /// | Alpaca | `instruction`, `output`, and `input` if present, which follows the instruction after an empty line |
    /// | text | `fields.text` |
    ///
    /// # Errors
    ///
    /// [`DataError::MissingField`] if it has none of them, [`DataError::WrongType`].
    pub fn passage(&self, fields: &Fields) -> Result<Passage, DataError> {
        let completion = |prompt, completion| Passage::Completion { prompt, completion };
        if let Some(Cell::Json(Value::Array(_))) = self.get(&fields.prompt) {
            return self.completed_chat(fields).map(Passage::Chat);
        }
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
        let json = |text: &str| {
            check_unique(text.as_bytes()).ok()?;
            serde_json::from_str(text).ok()
        };
        let tools = match cell {
            Cell::Json(Value::String(text)) => json(text),
            Cell::Text(text) => json(text),
            Cell::Json(value) => Some(value.clone()),
        };
        match tools {
            Some(Value::Array(tools)) if tools.iter().all(Value::is_object) => Ok(tools),
            _ => Err(self.wrong_type(TOOLS, "a list of JSON objects, one for each tool", cell)),
        }
    }

    /// The messages of a chat, whoever has the last word; `None` for a record of another layout.
    ///
    /// # Errors
    ///
    /// [`DataError::WrongType`].
    pub fn messages(&self) -> Result<Option<Vec<Message>>, DataError> {
        let field = CHATS.into_iter().find(|field| self.get(field).is_some());
        field.map(|field| self.messages_of(field)).transpose()
    }

    /// A chat whose first messages are the prompt, and the others what is learned.
    fn completed_chat(&self, fields: &Fields) -> Result<Vec<Message>, DataError> {
        let asked = self.messages_of(&fields.prompt)?;
        if asked.iter().any(|message| message.role == "assistant") {
            return Err(self.wrong(
                &fields.prompt,
                "messages without an assistant's, which would be learned too",
                "one of the role `assistant`",
            ));
        }
        Ok([asked, self.chat(&fields.completion)?].concat())
    }

    fn messages_of(&self, field: &str) -> Result<Vec<Message>, DataError> {
        let messages = match self.needed(field)? {
            Cell::Json(Value::Array(messages)) => messages,
            cell => return Err(self.wrong_type(field, "a list of messages", cell)),
        };
        let chat = messages.iter().map(|value| {
            let expected = "messages with `role` and `content`, or `from` and `value`";
            let message = value
                .as_object()
                .ok_or_else(|| self.wrong_type(field, expected, Cell::Json(value)))?;
            let role = ["role", "from"].into_iter().find_map(|key| message.get(key)?.as_str());
            let content = ["content", "value"].into_iter().find_map(|key| message.get(key));
            let calls = message.get("tool_calls");
            let calls = calls.filter(|calls| !calls.is_null() && !calls.as_array().is_some_and(Vec::is_empty));
            let wrong = || {
                let keys: Vec<&str> = message.keys().map(String::as_str).collect();
                let found = match keys.is_empty() {
                    true => "an empty one".to_owned(),
                    false => format!("one with `{}`", keys.join("`, `")),
                };
                self.wrong(field, expected, found)
            };
            let role = role.ok_or_else(wrong)?;
            let content = content.filter(|content| calls.is_none() || !content.is_null());
            if content.is_none() && calls.is_none() {
                return Err(wrong());
            }
            if let Some(calls) = calls.filter(|calls| !calls.as_array().is_some_and(|c| c.iter().all(Value::is_object)))
            {
                return Err(self.wrong_type(field, "`tool_calls` as a list of objects", Cell::Json(calls)));
            }
            let role = match role {
                "human" => "user",
                "gpt" => "assistant",
                role => role,
            };
            let known = ["role", "from", "content", "value"];
            let mut fields: Map<String, Value> = message.clone();
            fields.retain(|key, value| !known.contains(&key.as_str()) && !value.is_null());
            let text = match content {
                Some(content) => self.content(field, content)?,
                None => {
                    fields.insert("content".to_owned(), Value::Null);
                    String::new()
                }
            };
            Ok(Message {
                fields,
                ..Message::new(role, text)
            })
        });
        let mut chat: Vec<Message> = chat.collect::<Result<_, _>>()?;
        // Some files of ShareGPT's layout have it outside of the list.
        if field == CHATS[1]
            && chat.iter().all(|message| message.role != SYSTEM)
            && let Some(system) = self.optional_text(SYSTEM)?
        {
            chat.insert(0, Message::new(SYSTEM, system));
        }
        Ok(chat)
    }

    /// The messages of a chat that is learned.
    fn chat(&self, field: &str) -> Result<Vec<Message>, DataError> {
        let chat = self.messages_of(field)?;
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
