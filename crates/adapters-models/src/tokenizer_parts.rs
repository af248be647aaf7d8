//! What the tokenizer library takes for granted in a `tokenizer.json`, and panics without.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The parts of a tokenizer that are checked; its vocabulary is not.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    post_processor: Value,
}

/// What is wrong with the template of special tokens or the table of characters of a tokenizer, if anything is.
pub(crate) fn check(tokenizer: &[u8]) -> Result<(), String> {
    // What is not JSON is refused by the library.
    let parts: Parts = serde_json::from_slice(tokenizer).map_err(|error| error.to_string())?;
    check_part(&parts.normalizer)?;
    check_part(&parts.post_processor)
}

/// A part, or a sequence of them.
fn check_part(part: &Value) -> Result<(), String> {
    match part {
        Value::Array(parts) => parts.iter().try_for_each(check_part),
        Value::Object(part) => {
            match part.get("type").and_then(Value::as_str) {
                Some("TemplateProcessing") => check_template(part)?,
                Some("Precompiled") => check_characters(part)?,
                _ => {}
            }
            part.values().try_for_each(check_part)
        }
        _ => Ok(()),
    }
}

/// That the special tokens of a template are there, and that a single text has no second one.
fn check_template(part: &Map<String, Value>) -> Result<(), String> {
    let tokens = part.get("special_tokens").and_then(Value::as_object);
    for key in ["single", "pair"] {
        for piece in part.get(key).and_then(Value::as_array).into_iter().flatten() {
            let id = |kind: &str| {
                piece
                    .get(kind)
                    .and_then(|piece| piece.get("id"))
                    .and_then(Value::as_str)
            };
            if let Some(token) = id("SpecialToken")
                && !tokens.is_some_and(|tokens| tokens.contains_key(token))
            {
                return Err(format!(
                    "`{key}` of the post-processor has the token `{token}`, which its `special_tokens` lacks"
                ));
            }
            if key == "single" && id("Sequence") == Some("B") {
                return Err("`single` of the post-processor has the text B, expected A alone".to_owned());
            }
        }
    }
    Ok(())
}

/// That SentencePiece's table of characters, a trie of numbers and the texts that they point to, can be searched.
fn check_characters(part: &Map<String, Value>) -> Result<(), String> {
    let damaged = || "`precompiled_charsmap` of the normalizer is damaged".to_owned();
    let text = part
        .get("precompiled_charsmap")
        .and_then(Value::as_str)
        .ok_or_else(damaged)?;
    let bytes = STANDARD.decode(text).map_err(|_| damaged())?;
    let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
    let size = u32::from_le_bytes(*size) as usize / 4 * 4;
    let (trie, texts) = rest.split_at_checked(size).ok_or_else(damaged)?;
    let (numbers, _) = trie.as_chunks::<4>();
    let trie: Vec<usize> = numbers
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes) as usize)
        .collect();
    let texts = std::str::from_utf8(texts).map_err(|_| damaged())?;
    match can_be_searched(&trie, texts) {
        true => Ok(()),
        false => Err(damaged()),
    }
}

/// Whether no search from the root leaves the double-array trie, and all that are found are positions in `texts`.
fn can_be_searched(trie: &[usize], texts: &str) -> bool {
    const VALUE: usize = (1 << 31) - 1;
    const LABEL: usize = 1 << 31 | 0xff;
    let offset = |unit: usize| (unit >> 10) << ((unit & 1 << 9) >> 6);
    let Some(root) = trie.first() else {
        return false;
    };
    let (mut open, mut seen) = (vec![offset(*root)], HashSet::from([offset(*root)]));
    while let Some(node) = open.pop() {
        for byte in 1..=0xff {
            let Some(unit) = trie.get(node ^ byte) else {
                return false;
            };
            if unit & LABEL != byte {
                continue;
            }
            let next = node ^ byte ^ offset(*unit);
            let has_leaf = unit >> 8 & 1 == 1;
            if has_leaf && !trie.get(next).is_some_and(|leaf| texts.is_char_boundary(leaf & VALUE)) {
                return false;
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokenizers::Tokenizer;

    use super::*;

    /// A trie in which `a` is the text at `place`, in 256 numbers or fewer.
    fn characters(place: u32, numbers: usize) -> String {
        let mut trie = vec![0u32; numbers];
        // The root is followed by its letters themselves; `a` by its leaf at 1.
        trie[0] = 0;
        trie[1] = place;
        trie[usize::from(b'a')] = u32::from(b'a') | 1 << 8 | u32::from(b'a' ^ 1) << 10;
        let mut bytes = (4 * numbers as u32).to_le_bytes().to_vec();
        bytes.extend(trie.iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend("\u{e9}\0".bytes());
        STANDARD.encode(bytes)
    }

    fn tokenizer(normalizer: &Value, post_processor: &Value) -> Vec<u8> {
        let model = json!({"type": "WordLevel", "vocab": {"a": 0, "\u{e9}": 1}, "unk_token": "a"});
        json!({"version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": null,
            "post_processor": post_processor, "decoder": null, "truncation": null, "padding": null, "model": model})
        .to_string()
        .into_bytes()
    }

    #[test]
    fn a_table_of_characters_is_searched_or_refused() {
        let of = |charsmap: &str| {
            let normalizer =
                json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": charsmap}]});
            tokenizer(&normalizer, &Value::Null)
        };
        let right = of(&characters(0, 256));
        check(&right).unwrap();
        let encoded = Tokenizer::from_bytes(&right).unwrap().encode("a", false).unwrap();
        assert_eq!(encoded.get_ids(), [1]);
        for wrong in [
            String::new(),
            "AAAA".to_owned(),
            "not base64".to_owned(),
            // Letters beyond the trie, a place inside a character, and one behind the texts.
            characters(0, 128),
            characters(1, 256),
            characters(9, 256),
        ] {
            let error = check(&of(&wrong)).unwrap_err();
            assert!(error.contains("precompiled_charsmap"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_template_has_its_tokens() {
        let template = |single: Value, tokens: Value| {
            let processor =
                json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens});
            check(&tokenizer(
                &Value::Null,
                &json!({"type": "Sequence", "processors": [processor]}),
            ))
        };
        let (text, token) = (
            json!({"Sequence": {"id": "A", "type_id": 0}}),
            json!({"SpecialToken": {"id": "a", "type_id": 0}}),
        );
        template(
            json!([token, text]),
            json!({"a": {"id": "a", "ids": [0], "tokens": ["a"]}}),
        )
        .unwrap();
        assert!(
            template(json!([token, text]), json!({}))
                .unwrap_err()
                .contains("the token `a`")
        );
        let second = json!({"Sequence": {"id": "B", "type_id": 0}});
        assert!(
            template(json!([text, second]), json!({}))
                .unwrap_err()
                .contains("the text B")
        );
    }
}
