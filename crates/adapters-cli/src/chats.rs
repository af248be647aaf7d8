//! Chats and tools in files that arguments name.

use std::path::Path;

use adapters::models::Message;
use adapters::store::{check_unique, read_file};
use adapters::train::{Fields, Records};
use serde_json::Value;

use crate::failure::Failure;

/// The messages of a chat, and the tools that it may use.
pub(crate) type Chat = (Vec<Message>, Vec<Value>);

/// The chats of a data file.
pub(crate) fn read(path: &Path) -> Result<Vec<Chat>, Failure> {
    let records = Records::read(path, &Fields::default())?;
    let chat = |record: &adapters::train::Record| match record.messages()? {
        Some(messages) => Ok((messages, record.tools()?)),
        None => Err(Failure::new(
            format!("there are no messages at {}", record.location()),
            "name a file of objects with `messages`, a list of objects with `role` and `content`",
        )),
    };
    records.records.iter().map(chat).collect()
}

/// The tools in a JSON file: a list of objects, as models are told of functions; none without a file.
pub(crate) fn tools(path: Option<&Path>) -> Result<Vec<Value>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let refuse = |found: String| {
        Failure::new(
            format!(
                "{} has {found}, expected a JSON list of objects, one for each tool",
                path.display()
            ),
            "write a tool as {\"type\": \"function\", \"function\": {\"name\": .., \"description\": .., \"parameters\": ..}}",
        )
    };
    let bytes = read_file(path)?;
    match check_unique(&bytes).and_then(|()| serde_json::from_slice(&bytes)) {
        Ok(Value::Array(tools)) if tools.iter().all(Value::is_object) => Ok(tools),
        Ok(Value::Array(tools)) => {
            let other = tools.iter().position(|tool| !tool.is_object()).unwrap_or_default();
            Err(refuse(format!("no object as item {}", other + 1)))
        }
        Ok(_) => Err(refuse("no list".to_owned())),
        Err(error) => Err(refuse(format!("no JSON ({error})"))),
    }
}
