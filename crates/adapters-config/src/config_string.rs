//! Config strings: `lora[r=8,alpha=16]`, joined by `|`.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::text::{Cursor, Literal, Unexpected};

/// A parsed config string: one or more configurations.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigString {
    /// The configurations, in order. Never empty.
    pub members: Vec<MemberConfig>,
}

/// One configuration of a config string.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberConfig {
    /// The name before the bracket.
    pub identifier: String,
    /// The fields in the bracket, in order.
    pub fields: Map<String, Value>,
}

/// A config string that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config string `{input}`, column {column}: expected {expected}, found {found}")]
pub struct ConfigStringError {
    /// The whole string.
    pub input: String,
    /// Column from one.
    pub column: usize,
    /// What may stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl FromStr for ConfigString {
    type Err = ConfigStringError;

    /// Format: `member ("|" member)*`, `member = name ("[" (key "=" value ("," ..)*)? "]")?`; a value is a number, `true`,
    /// `false`, `none`, a quoted or bare word, or a list in brackets.
    fn from_str(input: &str) -> Result<Self, ConfigStringError> {
        members(&mut Cursor::new(input))
            .map(|members| Self { members })
            .map_err(
                |Unexpected {
                     column,
                     expected,
                     found,
                 }| ConfigStringError {
                    input: input.to_owned(),
                    column,
                    expected,
                    found,
                },
            )
    }
}

fn members(cursor: &mut Cursor<'_>) -> Result<Vec<MemberConfig>, Unexpected> {
    let mut members = vec![member(cursor)?];
    while cursor.eat('|') {
        members.push(member(cursor)?);
    }
    match cursor.peek() {
        None => Ok(members),
        Some(_) => Err(cursor.unexpected("`|` or the end")),
    }
}

fn member(cursor: &mut Cursor<'_>) -> Result<MemberConfig, Unexpected> {
    let identifier = word(cursor, "the name of a configuration")?;
    let mut fields = Map::new();
    if cursor.eat('[') && !cursor.eat(']') {
        loop {
            let at = cursor.unexpected("each field once");
            let key = word(cursor, "the name of a field")?;
            if fields.contains_key(&key) {
                return Err(Unexpected {
                    found: format!("`{key}` twice"),
                    ..at
                });
            }
            cursor.expect('=', "`=`")?;
            let value = cursor.value()?;
            fields.insert(key, value);
            if !cursor.eat(',') {
                break;
            }
        }
        cursor.expect(']', "`,` or `]`")?;
    }
    Ok(MemberConfig { identifier, fields })
}

fn word(cursor: &mut Cursor<'_>, expected: &str) -> Result<String, Unexpected> {
    match cursor.word() {
        "" => Err(cursor.unexpected(expected)),
        word => Ok(word.to_owned()),
    }
}

impl fmt::Display for MemberConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identifier)?;
        if self.fields.is_empty() {
            return Ok(());
        }
        let fields: Vec<String> = self.fields.iter().map(|(k, v)| format!("{k}={}", Literal(v))).collect();
        write!(f, "[{}]", fields.join(","))
    }
}

impl fmt::Display for ConfigString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<String> = self.members.iter().map(MemberConfig::to_string).collect();
        f.write_str(&members.join("|"))
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
        assert_eq!(parsed.members[0].identifier, "lora");
        assert_eq!(
            Value::Object(parsed.members[0].fields.clone()),
            json!({"r": 16, "alpha": 2.5, "use_gating": true, "leave_out": [0, 1], "attn_matrices": ["q", "v"],
                   "seed": null, "t": "a|b"})
        );
        assert_eq!(parsed.members[1].identifier, "par_bn");
    }

    #[test]
    fn errors_name_the_column() {
        for (text, column) in [
            ("lora[r=8", 9),
            ("lora[=8]", 6),
            ("", 1),
            ("lora]", 5),
            ("lora[t='x]", 11),
            ("lora[r=8,r=9]", 10),
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
            let config = ConfigString { members: vec![MemberConfig { identifier: "x".into(), fields }] };
            prop_assert_eq!(config.to_string().parse::<ConfigString>().unwrap(), config);
        }
    }
}
