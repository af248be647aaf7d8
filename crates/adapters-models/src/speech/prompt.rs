//! What a text that is heard begins with, and which tokens it cannot have.

use std::path::Path;

use adapters_nn::nearest;
use adapters_store::read_json_if_there;
use serde_json::{Map, Value};

use super::languages;
use crate::config_check::ConfigCheck;
use crate::error::ModelError;

/// The first tokens of a text that Whisper writes, and the tokens that are left out, as `generation_config.json` (or else
/// `config.json`) of a checkpoint says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpeechPrompt {
    /// The start token, then the language, the task and that there are no timestamps, as far as the model knows them.
    pub tokens: Vec<u32>,
    /// Tokens that are never written.
    pub suppressed: Vec<u32>,
    /// Tokens that a text does not begin with.
    pub suppressed_first: Vec<u32>,
}

impl SpeechPrompt {
    /// Reads the files of a checkpoint folder. `language` is a code such as `en`, or the name of a language; without it the one in the
    /// files holds (`language`, or else `forced_decoder_ids`). `translate` asks for a text in English in position of one in the language
    /// that is spoken, as the `task` of the files may do.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for files, [`ModelError::Config`] for values that are no token ids, for a language the model does not
    /// know, and where neither `language` nor the files name one.
    pub fn load(dir: &Path, language: Option<&str>, translate: bool) -> Result<Self, ModelError> {
        let paths = ["generation_config.json", "config.json"].map(|name| dir.join(name));
        let read = |path: &Path| read_json_if_there::<Map<String, Value>>(path).map(Option::unwrap_or_default);
        let [generation, config] = [read(&paths[0])?, read(&paths[1])?];
        let check = ConfigCheck::new(if generation.is_empty() { &paths[1] } else { &paths[0] });
        let get = |field: &str| {
            let found = generation.get(field).or_else(|| config.get(field));
            found.filter(|value| !value.is_null())
        };
        let id = |field: &'static str, value: &Value| {
            let found = value.as_u64().and_then(|id| u32::try_from(id).ok());
            found.ok_or_else(|| check.refusal(field, "a token id", value))
        };
        let list = |field: &'static str| {
            let ids = get(field).and_then(Value::as_array).into_iter().flatten();
            ids.map(|value| id(field, value)).collect::<Result<Vec<u32>, _>>()
        };
        const START: &str = "decoder_start_token_id";
        let start = get(START).ok_or_else(|| check.refusal(START, "a token id", "absent"))?;
        let mut tokens = vec![id(START, start)?];
        let forced = get("forced_decoder_ids").and_then(Value::as_array);
        let forced = |position: u64| {
            let pair = forced.into_iter().flatten().find(|pair| pair[0] == position);
            pair.map(|pair| &pair[1]).filter(|token| !token.is_null())
        };
        const FORCED: &str = "forced_decoder_ids";
        let languages = get("lang_to_id").and_then(Value::as_object);
        let published = match (languages, get("language")) {
            (Some(_), Some(found)) => {
                let named = found.as_str();
                Some(named.ok_or_else(|| check.refusal("language", "the code or the name of a language", found))?)
            }
            _ => None,
        };
        let language = language.or(published).map(languages::code);
        match (languages, language.as_deref()) {
            (Some(languages), Some(code)) => {
                let found = languages.get(&format!("<|{code}|>"));
                let Some(found) = found else {
                    let codes = languages.keys().map(|key| key.trim_matches(['<', '|', '>']));
                    let near = nearest(code, codes).map_or(String::new(), |near| format!("; did you mean {near}?"));
                    return Err(check.refusal(
                        "lang_to_id",
                        "the code of a language, e.g. en",
                        format!("without {code}{near}"),
                    ));
                };
                tokens.push(id("lang_to_id", found)?);
            }
            (Some(_), None) => match forced(1) {
                Some(token) => tokens.push(id(FORCED, token)?),
                None => {
                    let expected = "a language in `forced_decoder_ids`, or one that is named (--language)";
                    return Err(check.refusal(FORCED, expected, "without one"));
                }
            },
            (None, Some(code)) => {
                let expected = "languages: this model knows one alone, and none is to be named";
                return Err(check.refusal("lang_to_id", expected, format!("absent, and {code} is asked for")));
            }
            (None, None) => tokens.extend(forced(1).map(|token| id(FORCED, token)).transpose()?),
        }
        let translate = translate || get("task").is_some_and(|task| task == "translate");
        let task = if translate { "translate" } else { "transcribe" };
        match get("task_to_id").and_then(|tasks| tasks.get(task)) {
            Some(token) => tokens.push(id("task_to_id", token)?),
            None if translate => return Err(check.refusal("task_to_id", "one with `translate`", "without it")),
            None => tokens.extend(forced(2).map(|token| id(FORCED, token)).transpose()?),
        }
        let no_timestamps = get("no_timestamps_token_id").or_else(|| forced(3));
        if let Some(token) = no_timestamps {
            let token = id("no_timestamps_token_id", token)?;
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        Ok(Self {
            tokens,
            suppressed: list("suppress_tokens")?,
            suppressed_first: list("begin_suppress_tokens")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn load(generation: Value, language: Option<&str>, translate: bool) -> Result<SpeechPrompt, String> {
        let dir = tempfile::tempdir().unwrap();
        adapters_store::write_json(&dir.path().join("generation_config.json"), &generation).unwrap();
        SpeechPrompt::load(dir.path(), language, translate).map_err(|e| e.to_string())
    }

    #[test]
    fn published_settings_make_the_first_tokens() {
        // Of whisper-tiny and whisper-tiny.en, shortened.
        let many = json!({
            "decoder_start_token_id": 50258, "forced_decoder_ids": [[1, null], [2, 50359]], "is_multilingual": true,
            "lang_to_id": {"<|en|>": 50259, "<|de|>": 50261}, "task_to_id": {"transcribe": 50359, "translate": 50358},
            "no_timestamps_token_id": 50363, "suppress_tokens": [1, 2], "begin_suppress_tokens": [220, 50257],
        });
        let german = load(many.clone(), Some("de"), false).unwrap();
        assert_eq!(german.tokens, [50258, 50261, 50359, 50363]);
        assert_eq!(
            (german.suppressed.as_slice(), german.suppressed_first.as_slice()),
            (&[1, 2][..], &[220, 50257][..])
        );
        assert_eq!(
            load(many.clone(), Some("de"), true).unwrap().tokens,
            [50258, 50261, 50358, 50363]
        );
        assert!(load(many.clone(), None, false).unwrap_err().contains("--language"));
        let with = |field: &str, value: Value| {
            let mut settings = many.clone();
            settings[field] = value;
            settings
        };
        // As a model that was trained further has it.
        let trained = with("language", json!("german"));
        assert_eq!(load(trained.clone(), None, false).unwrap(), german);
        assert_eq!(load(trained, Some("English"), false).unwrap().tokens[1], 50259);
        assert!(
            load(with("language", json!(["de"])), None, false)
                .unwrap_err()
                .contains("`language`")
        );
        let translates = load(with("task", json!("translate")), Some("<|de|>"), false).unwrap();
        assert_eq!(translates.tokens, [50258, 50261, 50358, 50363]);
        assert!(load(many, Some("dee"), false).unwrap_err().contains("did you mean de?"));
        let english = json!({
            "decoder_start_token_id": 50257, "forced_decoder_ids": [[1, 50362]], "no_timestamps_token_id": 50362,
        });
        assert_eq!(load(english.clone(), None, false).unwrap().tokens, [50257, 50362]);
        assert!(load(english.clone(), Some("de"), false).is_err());
        assert!(load(english, None, true).is_err());
    }
}
