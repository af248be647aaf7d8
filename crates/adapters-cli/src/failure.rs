//! Errors as the user sees them: message, causes, and help where there is some.

use std::error::Error;
use std::fmt;

use adapters::store::StoreError;
use adapters::store::atomic::AtomicWriteError;
use miette::Diagnostic;

use crate::output::printable;

/// An error on its way to the terminal.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    help: Option<String>,
}

impl Failure {
    /// A mistake the command itself found.
    pub(crate) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
            help: Some(help.into()),
        }
    }

    /// The message and its causes in a line.
    pub(crate) fn to_line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(source) = cause {
            line.push_str(&format!(": {source}"));
            cause = source.source();
        }
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The same with another help.
    pub(crate) fn with_help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }
}

/// Marks the error types that become a [`Failure`] by `?`.
macro_rules! from_errors {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self {
                    message: plain(&error.to_string()),
                    help: help(&error),
                    source: boxed_source(error),
                }
            }
        }
    )*};
}

from_errors!(
    adapters::DeviceError,
    adapters::Error,
    adapters::models::ModelError,
    adapters::train::CurveError,
    adapters::train::DataError,
    adapters::train::RunFileError,
    adapters::train::TrainError,
    adapters_hub::HubError,
    AtomicWriteError,
    StoreError,
);

/// A message with words in place of the types that a parser expected and found.
fn plain(message: &str) -> String {
    const EXPECTED: [(&str, &[&str]); 4] = [
        ("a whole number, not below 0", &["usize", "u64", "u32", "u16", "u8"]),
        ("a whole number", &["isize", "i64", "i32"]),
        ("a number", &["f64", "f32"]),
        ("true or false", &["bool"]),
    ];
    let message = message
        .replace(
            "invalid type: unit variant, expected string only",
            "invalid type, expected a name in quotes",
        )
        .replace("invalid type: map,", "invalid type: an object,")
        .replace("invalid type: sequence,", "invalid type: a list,");
    if let Some((before, after)) = message.split_once("data did not match any variant of untagged enum ") {
        let after = after.trim_start_matches(char::is_alphanumeric);
        return format!("{before}a value is of no kind that is read{after}");
    }
    let Some((before, after)) = message.split_once(", expected ") else {
        return message;
    };
    let until = |text: &str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        end.unwrap_or(text.len())
    };
    let (words, rest) = match after
        .strip_prefix("struct ")
        .or_else(|| after.strip_prefix("internally tagged enum "))
    {
        Some(named) => ("an object", &named[until(named)..]),
        None => match ["a map", "a sequence"]
            .iter()
            .position(|found| after.starts_with(found))
        {
            Some(0) => ("an object", &after["a map".len()..]),
            Some(_) => ("a list", &after["a sequence".len()..]),
            None => {
                let (found, rest) = after.split_at(until(after));
                match EXPECTED.iter().find(|(_, names)| names.contains(&found)) {
                    Some((words, _)) => (*words, rest),
                    None => return message,
                }
            }
        },
    };
    format!("{before}, expected {words}{rest}")
}

/// Keeps the causes under an error, whose own message is already taken.
fn boxed_source(error: impl Error + Send + Sync + 'static) -> Option<Box<dyn Error + Send + Sync>> {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(plain(&cause.to_string()));
        source = cause.source();
    }
    causes.into_iter().rev().fold(None, |inner, message| {
        Some(Box::new(Failure {
            message,
            source: inner,
            help: None,
        }) as Box<dyn Error + Send + Sync>)
    })
}

/// Fields of generation, and the options that set them.
const GENERATION: [(&str, &str); 7] = [
    ("max_new_tokens", "--max-tokens"),
    ("temperature", "--temperature"),
    ("top_k", "--top-k"),
    ("top_p", "--top-p"),
    ("repetition_penalty", "--repetition-penalty"),
    ("beams", "--beams"),
    ("length_penalty", "--length-penalty"),
];

/// What to do about it, where that is known: looked for along the causes.
fn help(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(StoreError::PickleNotAllowed { .. }) = error.downcast_ref() {
            return Some("run again with --allow-bin".to_owned());
        }
        if let Some(hub) = error.downcast_ref::<adapters_hub::HubError>() {
            return hub.help().map(str::to_owned);
        }
        let adapter = match error.downcast_ref() {
            Some(adapters::train::TrainError::Adapter(error)) => Some(error),
            _ => error.downcast_ref::<adapters::Error>(),
        };
        if let Some(adapters::Error::UnknownName(unknown)) = adapter
            && unknown.found.eq_ignore_ascii_case("qlora")
        {
            return Some("QLoRA is `lora` over a quantized base model: set `model.precision = \"int8\"`".to_owned());
        }
        if let Some(StoreError::NotAnAdapter { .. }) = error.downcast_ref() {
            return Some("an adapter folder is what `adapters train` or the Python libraries write".to_owned());
        }
        if let Some(adapters::models::ModelError::Generation { field, .. }) = error.downcast_ref()
            && let Some((_, option)) = GENERATION.iter().find(|(of, _)| of == field)
        {
            return Some(format!("{option} sets it"));
        }
        if let Some(adapters::models::ModelError::NotACheckpoint { .. }) = error.downcast_ref() {
            return Some(
                "a checkpoint folder has config.json, model.safetensors and tokenizer.json, as published".to_owned(),
            );
        }
        next = error.source();
    }
    None
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.message, ""))
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

impl Diagnostic for Failure {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.help.as_deref().map(|help| printable(help, ""));
        help.map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_the_program_are_said_in_words() {
        for (message, words) in [
            (
                "invalid type: null, expected struct Manifest at line 1",
                "invalid type: null, expected an object at line 1",
            ),
            (
                "`a`: invalid type: map, expected usize",
                "`a`: invalid type: an object, expected a whole number, not below 0",
            ),
            (
                "invalid type: sequence, expected a map",
                "invalid type: a list, expected an object",
            ),
            ("`b` is 3, expected a sequence", "`b` is 3, expected a list"),
            (
                "invalid type: unit variant, expected string only in `d`",
                "invalid type, expected a name in quotes in `d`",
            ),
            (
                "x: data did not match any variant of untagged enum DecoderWrapper at line 2",
                "x: a value is of no kind that is read at line 2",
            ),
            ("`c` is 3, expected one of `x`", "`c` is 3, expected one of `x`"),
        ] {
            assert_eq!(plain(message), words);
        }
    }
}
