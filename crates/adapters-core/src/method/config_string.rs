//! Config strings: `lora[r=8,alpha=16]`, joined by `|`.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Number, Value};

use crate::error::Error;

/// A parsed config string: one or more configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigString {
    /// The configurations, in order. Never empty.
    pub parts: Vec<ConfigPart>,
}

/// One configuration of a config string.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigPart {
    /// The name before the bracket.
    pub identifier: String,
    /// The fields in the bracket, in order.
    pub fields: Map<String, Value>,
}

impl FromStr for ConfigString {
    type Err = Error;

    /// Format: `part ("|" part)*`, `part = name ("[" (key "=" value ("," ..)*)? "]")?`; a value is a number, `true`,
    /// `false`, `none`, a quoted or bare word, or a list in brackets.
    fn from_str(input: &str) -> Result<Self, Error> {
        let mut parser = Parser { input, at: 0 };
        let mut parts = vec![parser.part()?];
        while parser.eat('|') {
            parts.push(parser.part()?);
        }
        match parser.peek() {
            None => Ok(Self { parts }),
            Some(_) => Err(parser.error("`|` or the end")),
        }
    }
}

impl fmt::Display for ConfigPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identifier)?;
        if self.fields.is_empty() {
            return Ok(());
        }
        let fields: Vec<String> = self.fields.iter().map(|(k, v)| format!("{k}={}", Word(v))).collect();
        write!(f, "[{}]", fields.join(","))
    }
}

impl fmt::Display for ConfigString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts.iter().map(ConfigPart::to_string).collect();
        f.write_str(&parts.join("|"))
    }
}

/// Prints a value the way the format reads it.
struct Word<'a>(&'a Value);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("none"),
            Value::String(s) if is_bare(s) => f.write_str(s),
            Value::String(s) => write!(f, "'{}'", s.replace('\\', r"\\").replace('\'', r"\'")),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|v| Word(v).to_string()).collect();
                write!(f, "[{}]", items.join(","))
            }
            other => write!(f, "{other}"),
        }
    }
}

/// Whether a word needs no quotes: it is read back as the same string.
fn is_bare(s: &str) -> bool {
    !s.is_empty() && s.chars().all(is_word) && matches!(bare(s), Value::String(_))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '.' | '/' | ':')
}

fn bare(word: &str) -> Value {
    match word {
        "true" | "True" => Value::Bool(true),
        "false" | "False" => Value::Bool(false),
        "none" | "None" | "null" => Value::Null,
        _ => {
            if let Ok(integer) = word.parse::<i64>() {
                Value::from(integer)
            } else if let Some(number) = word.parse::<f64>().ok().and_then(Number::from_f64) {
                Value::Number(number)
            } else {
                Value::from(word)
            }
        }
    }
}

struct Parser<'a> {
    input: &'a str,
    at: usize,
}

/// Lists may nest this deep: no configuration needs more, and the parser recurses.
const MAX_DEPTH: usize = 8;

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        let rest = &self.input[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.input[self.at..].chars().next()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char, expected: &'static str) -> Result<(), Error> {
        if self.eat(wanted) {
            Ok(())
        } else {
            Err(self.error(expected))
        }
    }

    fn error(&mut self, expected: &'static str) -> Error {
        let found = match self.peek() {
            Some(c) => format!("`{c}`"),
            None => "the end".to_owned(),
        };
        Error::ConfigString {
            input: self.input.to_owned(),
            column: self.input[..self.at].chars().count() + 1,
            expected,
            found,
        }
    }

    fn word(&mut self, expected: &'static str) -> Result<&str, Error> {
        self.peek();
        let rest = &self.input[self.at..];
        let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if len == 0 {
            return Err(self.error(expected));
        }
        self.at += len;
        Ok(&self.input[self.at - len..self.at])
    }

    fn part(&mut self) -> Result<ConfigPart, Error> {
        let identifier = self.word("the name of a configuration")?.to_owned();
        let mut fields = Map::new();
        if self.eat('[') && !self.eat(']') {
            loop {
                let key = self.word("the name of a field")?.to_owned();
                self.expect('=', "`=`")?;
                let value = self.value(0)?;
                if fields.insert(key, value).is_some() {
                    return Err(self.error("every field once: a field is there twice"));
                }
                if !self.eat(',') {
                    break;
                }
            }
            self.expect(']', "`,` or `]`")?;
        }
        Ok(ConfigPart { identifier, fields })
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        match self.peek() {
            Some('[') if depth < MAX_DEPTH => {
                self.at += 1;
                let mut items = Vec::new();
                if !self.eat(']') {
                    loop {
                        items.push(self.value(depth + 1)?);
                        if !self.eat(',') {
                            break;
                        }
                    }
                    self.expect(']', "`,` or `]`")?;
                }
                Ok(Value::Array(items))
            }
            Some(quote @ ('\'' | '"')) => self.quoted(quote),
            _ => Ok(bare(self.word("a value")?)),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Value, Error> {
        let mut text = String::new();
        let mut chars = self.input[self.at + 1..].char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += 1 + offset + c.len_utf8();
                    return Ok(Value::String(text));
                }
                '\\' => text.extend(chars.next().map(|(_, c)| c)),
                c => text.push(c),
            }
        }
        self.at = self.input.len();
        Err(self.error("the closing quote"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_every_kind() {
        let text = r#"lora[r=16, alpha=2.5, use_gating=True, leave_out=[0,1], attn_matrices=['q', v], seed=none, t='a|b']|par_bn"#;
        let parsed: ConfigString = text.parse().unwrap();
        assert_eq!(parsed.parts[0].identifier, "lora");
        assert_eq!(
            Value::Object(parsed.parts[0].fields.clone()),
            json!({"r": 16, "alpha": 2.5, "use_gating": true, "leave_out": [0, 1], "attn_matrices": ["q", "v"],
                   "seed": null, "t": "a|b"})
        );
        assert_eq!(parsed.parts[1].identifier, "par_bn");
    }

    #[test]
    fn errors_name_the_column() {
        for (text, column) in [
            ("lora[r=8", 9),
            ("lora[=8]", 6),
            ("", 1),
            ("lora]", 5),
            ("lora[t='x]", 11),
        ] {
            let error = text.parse::<ConfigString>().unwrap_err().to_string();
            assert!(error.contains(&format!("column {column}:")), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<ConfigString>();
        }

        #[test]
        fn printing_and_parsing_are_inverse(word in "\\PC{0,12}", number in any::<i32>(), fraction in -1e6f64..1e6) {
            let fields = json!({"a": word, "b": number, "c": [fraction, true, null, word]});
            let Value::Object(fields) = fields else { unreachable!() };
            let config = ConfigString { parts: vec![ConfigPart { identifier: "x".into(), fields }] };
            prop_assert_eq!(config.to_string().parse::<ConfigString>().unwrap(), config);
        }
    }
}
