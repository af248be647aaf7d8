//! JSON whose objects have every key once. JSON readers take the last of several; a file with two is damaged or ambiguous.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Refuses JSON in which an object has a key twice, JSON that does not parse, and text in another encoding.
///
/// # Errors
///
/// The reader's error, with the key, line and column; the mark of an encoding other than UTF-8 without one.
pub fn check_unique(json: &[u8]) -> Result<(), serde_json::Error> {
    let mark = match json {
        [0xEF, 0xBB, 0xBF, ..] => Some("a byte order mark"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("the byte order mark of UTF-16 or UTF-32"),
        _ => None,
    };
    if let Some(mark) = mark {
        let reason = format!("it begins with {mark}, expected UTF-8 without one: save it as that");
        return Err(serde_json::Error::custom(reason));
    }
    serde_json::from_slice::<Unique>(json).map(|_| ())
}

/// Any value, looked through and dropped.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if keys.contains(&key) {
                return Err(A::Error::custom(format!("duplicate key `{key}`")));
            }
            keys.insert(key);
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_named() {
        check_unique(br#"{"a": [1, -2, 0.5, "x", null, true, {"a": {}}], "b": {"a": 1}}"#).unwrap();
        for json in [r#"{"a": 1, "b": 2, "a": 3}"#, r#"[{"x": {"a": 1, "a": 1}}]"#] {
            let error = check_unique(json.as_bytes()).unwrap_err().to_string();
            assert!(
                error.contains("duplicate key `a`") && error.contains("line 1"),
                "{error}"
            );
        }
        assert!(check_unique(b"{\"a\": ").is_err());
    }
}
