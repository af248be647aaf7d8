//! Errors as the user sees them: message, causes, and help where there is some.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use adapters::store::StoreError;
use adapters::store::atomic::AtomicWriteError;
use miette::Diagnostic;

use crate::output::escaped;

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

/// A message with words in place of the types of numbers that a parser expected.
fn plain(message: &str) -> String {
    const TYPES: [(&str, &[&str]); 3] = [
        ("a whole number, not below 0", &["usize", "u64", "u32", "u16", "u8"]),
        ("a whole number", &["isize", "i64", "i32"]),
        ("a number", &["f64", "f32"]),
    ];
    let Some((before, after)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
    let end = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(after.len());
    let (found, rest) = after.split_at(end);
    match TYPES.iter().find(|(_, names)| names.contains(&found)) {
        Some((words, _)) => format!("{before}, expected {words}{rest}"),
        None => message.to_owned(),
    }
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
        if let Some(adapters::models::ModelError::NotACheckpoint { .. }) = error.downcast_ref() {
            return Some(
                "a checkpoint folder has config.json, model.safetensors and tokenizer.json, as published".to_owned(),
            );
        }
        if let Some(write) = error.downcast_ref::<AtomicWriteError>() {
            return write.help().map(str::to_owned);
        }
        next = error.source();
    }
    None
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.message))
    }
}

/// A message that a terminal can show: names from files may hold control characters, or be megabytes long. A long name is cut in its
/// middle, so that what is said of it is still there.
fn printable(message: &str) -> String {
    const LONGEST: usize = 2000;
    let mut shown = String::new();
    for line in message.lines() {
        let words: Vec<String> = line.split(' ').map(|word| shortened(word).into_owned()).collect();
        let line = words.join(" ");
        if !shown.is_empty() {
            shown.push('\n');
        }
        let end = line.char_indices().nth(LONGEST).map_or(line.len(), |(at, _)| at);
        shown.push_str(&escaped(&line[..end], ""));
        let cut = line[end..].chars().count();
        if cut > 0 {
            shown.push_str(&format!(".. ({cut} characters more)"));
        }
    }
    shown
}

/// A word without the middle, if it is longer than any that is read.
fn shortened(word: &str) -> Cow<'_, str> {
    const LONGEST: usize = 400;
    const KEPT: usize = 100;
    // A letter has one byte at least.
    if word.len() <= LONGEST || word.chars().count() <= LONGEST {
        return word.into();
    }
    let (mut starts, mut ends) = (word.char_indices().skip(KEPT), word.char_indices().rev());
    let (Some((start, _)), Some((end, _))) = (starts.next(), ends.nth(KEPT - 1)) else {
        return word.into();
    };
    let cut = word[start..end].chars().count();
    format!("{}..({cut} characters more)..{}", &word[..start], &word[end..]).into()
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

impl Diagnostic for Failure {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.help.as_deref().map(printable);
        help.map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_leaves_the_rest_of_a_message() {
        let name = "é".repeat(100_000);
        let shown = printable(&format!("unknown label `{name}` in a.csv, expected a name"));
        assert!(
            shown.starts_with("unknown label `é") && shown.ends_with("é` in a.csv, expected a name"),
            "{shown}"
        );
        assert!(shown.contains("..(99802 characters more).."), "{shown}");
        assert_eq!(printable("a\u{1b}[31m b\n  c"), "a\\u{1b}[31m b\n  c");
        let path = format!("cannot read {}", "folder/".repeat(40));
        assert_eq!(printable(&path), path);
        assert!(printable(&"word ".repeat(10_000)).ends_with(".. (48000 characters more)"));
    }
}
