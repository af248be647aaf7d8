//! One message of a chat.

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::{Map, Value as Json};

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: String,
    /// What else the template is given, by name: `tool_calls`, `name`, `tool_call_id` and their like. A `content` here is in place of
    /// the text: null, where a message has none.
    pub fields: Map<String, Json>,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            fields: Map::new(),
        }
    }

    /// The message as a template sees it.
    pub(super) fn value(&self) -> Value {
        let known = [("role", &self.role), ("content", &self.content)];
        let known = known.map(|(name, text)| (name, Value::from(text.as_str())));
        let more = self
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        Value::from_pairs(known.into_iter().chain(more))
    }
}
