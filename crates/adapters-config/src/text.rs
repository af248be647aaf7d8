//! What the two text forms have in common, compositions and config strings: words, quoted text and values.
//!
//! ```text
//! value  = word | quoted | "[" [ value { "," value } [ "," ] ] "]"
//! word   = letters, digits and _ - . / @ : + #        a number, true, false, none, or text
//! quoted = text in quotes of either kind, with the escapes \" \' \\ \n \r \t \u{hex}
//! ```

use std::fmt::{self, Write as _};

use serde_json::{Number, Value};

/// Lists may nest this deep: nothing needs more, and reading recurses.
const MAX_DEPTH: usize = 8;

/// Whether text can hold this character without quotes.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_-./@:+#".contains(c)
}

/// The value that a word stands for.
fn meaning(word: &str) -> Value {
    match word {
        "true" | "True" => return Value::Bool(true),
        "false" | "False" => return Value::Bool(false),
        "none" | "None" | "null" => return Value::Null,
        _ => {}
    }
    if let Ok(integer) = word.parse::<i64>() {
        return integer.into();
    }
    if let Ok(integer) = word.parse::<u64>() {
        return integer.into();
    }
    match word.parse().ok().and_then(Number::from_f64) {
        Some(number) => number.into(),
        None => word.into(),
    }
}

/// Writes text so that it reads back: as it is if it is a word and `bare` allows that, else in these quotes.
pub(crate) fn write_text(f: &mut fmt::Formatter<'_>, text: &str, bare: bool, quote: char) -> fmt::Result {
    if bare && !text.is_empty() && text.chars().all(is_word) {
        return f.write_str(text);
    }
    f.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => f.write_str(r"\\")?,
            c if c == quote => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "{}", c.escape_unicode())?,
            c => f.write_char(c)?,
        }
    }
    f.write_char(quote)
}

/// Prints a value the way it is read. Text is in quotes where it would mean something else without.
pub(crate) struct Literal<'a>(pub(crate) &'a Value);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("none"),
            Value::String(text) => write_text(f, text, meaning(text).is_string(), '\''),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|item| Literal(item).to_string()).collect();
                write!(f, "[{}]", items.join(","))
            }
            other => write!(f, "{other}"),
        }
    }
}

/// A position where something else was expected.
#[derive(Debug)]
pub(crate) struct Unexpected {
    /// The column, counted in characters from 1.
    pub(crate) column: usize,
    /// What would have been right.
    pub(crate) expected: String,
    /// What is there.
    pub(crate) found: String,
}

/// A position in a text that is being read.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The next character that is not white space; it becomes the next one to read.
    pub(crate) fn peek(&mut self) -> Option<char> {
        self.at = self.text.len() - self.rest().trim_start().len();
        self.rest().chars().next()
    }

    /// Takes the next character if it is this one.
    pub(crate) fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    /// Takes the next character, which has to be this one.
    pub(crate) fn expect(&mut self, c: char, expected: &str) -> Result<(), Unexpected> {
        match self.eat(c) {
            true => Ok(()),
            false => Err(self.unexpected(expected)),
        }
    }

    /// Takes the word that comes next; empty if there is none.
    pub(crate) fn word(&mut self) -> &'a str {
        self.peek();
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    /// Whether a word, or quoted text, comes next.
    pub(crate) fn at_text(&mut self) -> bool {
        self.peek().is_some_and(|c| is_word(c) || "'\"".contains(c))
    }

    /// The column of the next character, from 1.
    pub(crate) fn column(&mut self) -> usize {
        self.peek();
        self.text[..self.at].chars().count() + 1
    }

    /// The error that something else was expected here.
    pub(crate) fn unexpected(&mut self, expected: &str) -> Unexpected {
        let column = self.column();
        let word: String = self.clone().word().chars().take(40).collect();
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(first) if word.is_empty() => format!("`{first}`"),
            Some(_) => format!("`{word}`"),
        };
        Unexpected {
            column,
            expected: expected.to_owned(),
            found,
        }
    }

    /// The value that comes next.
    pub(crate) fn value(&mut self) -> Result<Value, Unexpected> {
        self.value_inside(0)
    }

    fn value_inside(&mut self, depth: usize) -> Result<Value, Unexpected> {
        match self.peek() {
            Some('[') if depth < MAX_DEPTH => {
                self.eat('[');
                let mut items = Vec::new();
                while !self.eat(']') {
                    items.push(self.value_inside(depth + 1)?);
                    if !self.eat(',') && self.peek() != Some(']') {
                        return Err(self.unexpected("`,` or `]`"));
                    }
                }
                Ok(items.into())
            }
            Some('\'' | '"') => Ok(self.quoted()?.into()),
            Some(c) if is_word(c) => Ok(meaning(self.word())),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Quoted text; its opening quote, of either kind, is the next character.
    pub(crate) fn quoted(&mut self) -> Result<String, Unexpected> {
        let (text, start) = (self.text, self.at);
        let mut chars = self.rest().char_indices();
        let quote = chars.next().map(|(_, c)| c);
        let mut read = String::new();
        while let Some((offset, c)) = chars.next() {
            match c {
                c if Some(c) == quote => {
                    self.at = start + offset + c.len_utf8();
                    return Ok(read);
                }
                '\\' => {
                    let escape = chars.next().and_then(|(_, c)| match c {
                        'n' => Some('\n'),
                        'r' => Some('\r'),
                        't' => Some('\t'),
                        '"' | '\'' | '\\' => Some(c),
                        'u' => {
                            let (hex, _) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                            let code = u32::from_str_radix(hex, 16).ok()?;
                            // The digits are ASCII, or they would not have been read: one character a byte.
                            chars.nth(hex.len() + 1)?;
                            char::from_u32(code)
                        }
                        _ => None,
                    });
                    let Some(escape) = escape else {
                        return Err(Unexpected {
                            column: text[..start + offset].chars().count() + 1,
                            expected: r#"an escape: \" \' \\ \n \r \t or \u{hex}"#.to_owned(),
                            found: format!("`{}`", text[start + offset..].chars().take(2).collect::<String>()),
                        });
                    };
                    read.push(escape);
                }
                c => read.push(c),
            }
        }
        self.at = text.len();
        Err(self.unexpected("the closing quote"))
    }
}
