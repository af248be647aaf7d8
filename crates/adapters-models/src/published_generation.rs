//! What the files of a checkpoint say of how its texts are written: `generation_config.json`, or else `config.json`.

use std::path::{Path, PathBuf};

use adapters_store::{read_json, read_json_if_there};
use serde_json::{Map, Value};

use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::generate::{Generation, TokenRules};
use crate::kind::ModelKind;
use crate::pretrained::Pretrained;

const FILE: &str = "generation_config.json";
const END: &str = "eos_token_id";
const START: &str = "decoder_start_token_id";

/// How texts are written with a checkpoint, as its files say. What it says of the search for the likeliest text and of drawing tokens is
/// up to the program.
#[derive(Clone, Debug)]
pub struct PublishedGeneration {
    /// The file, which need not exist.
    pub path: PathBuf,
    /// Tokens that end a text ([`Pretrained::stop_tokens`]).
    pub stop: Vec<u32>,
    /// What the answer of an encoder-decoder begins with.
    pub start: Option<u32>,
    /// [`Generation::repetition_penalty`].
    pub repetition_penalty: f64,
    /// Tokens that may not, or must, come next.
    pub rules: TokenRules,
    /// Fields with another value than greedy decoding has, which are options of a program: `do_sample`, `num_beams` and those that
    /// belong to them.
    pub search: Map<String, Value>,
    /// Fields that change what transformers writes and are not supported.
    pub unsupported: Map<String, Value>,
}

/// Switches of how a text is searched for or drawn, and the fields that matter with them.
const SEARCHES: [(&str, &[&str]); 2] = [
    ("do_sample", &["temperature", "top_k", "top_p"]),
    ("num_beams", &["length_penalty", "early_stopping"]),
];

/// Fields that are not supported, next to those of drawing, and the number that is as good as none.
const UNSUPPORTED: [(&str, Option<f64>); 19] = [
    ("constraints", None),
    ("diversity_penalty", Some(0.0)),
    ("dola_layers", None),
    ("encoder_no_repeat_ngram_size", Some(0.0)),
    ("encoder_repetition_penalty", Some(1.0)),
    ("exponential_decay_length_penalty", None),
    ("force_words_ids", None),
    ("guidance_scale", Some(1.0)),
    ("max_time", None),
    ("num_beam_groups", Some(1.0)),
    ("num_return_sequences", Some(1.0)),
    ("penalty_alpha", Some(0.0)),
    ("prompt_lookup_num_tokens", None),
    ("return_timestamps", None),
    ("sequence_bias", None),
    ("stop_strings", None),
    ("token_healing", None),
    ("watermarking_config", None),
    ("forced_decoder_ids", None),
];

/// Fields of drawing that are not supported.
const DRAWING: [(&str, Option<f64>); 4] = [
    ("min_p", Some(0.0)),
    ("typical_p", Some(1.0)),
    ("epsilon_cutoff", Some(0.0)),
    ("eta_cutoff", Some(0.0)),
];

impl PublishedGeneration {
    /// Greedy decoding by these rules.
    pub fn generation(self) -> Generation {
        Generation {
            stop: self.stop,
            start: self.start,
            repetition_penalty: self.repetition_penalty,
            rules: self.rules,
            ..Generation::default()
        }
    }
}

impl Pretrained {
    /// How texts are written, as the files say: `generation_config.json`, or, where there is none, the same fields of `config.json`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for a file that does not parse; [`ModelError::Config`] for a value of another type, out of its range, or a
    /// token that is not in the vocabulary.
    pub fn generation(&self) -> Result<PublishedGeneration, ModelError> {
        let fields = Fields::read(self)?;
        let stop = self.stop_tokens()?;
        let check = fields.check();
        let start = fields.token(START)?;
        let repetition_penalty = fields.number("repetition_penalty", 1.0)?;
        let holds = repetition_penalty > 0.0 && repetition_penalty.is_finite();
        check.require(holds, "repetition_penalty", "a number above 0", repetition_penalty)?;
        // A padding token of -1 means none.
        if fields.get("pad_token_id").and_then(Value::as_i64) != Some(-1) {
            fields.tokens("pad_token_id")?;
        }
        let rules = TokenRules {
            no_repeat_ngram: fields.count("no_repeat_ngram_size")?,
            bad_words: fields.words()?,
            min_length: fields.count("min_length")?,
            min_new_tokens: fields.count("min_new_tokens")?,
            forced_first: fields.token("forced_bos_token_id")?,
            forced_last: fields.tokens("forced_eos_token_id")?,
            suppressed: fields.tokens("suppress_tokens")?,
            suppressed_first: fields.tokens("begin_suppress_tokens")?,
            renormalize: fields.switch("renormalize_logits")?,
        };
        let mut unsupported = fields.set(&UNSUPPORTED);
        if self.kind() == ModelKind::SpeechToText {
            unsupported.remove("forced_decoder_ids");
        }
        let mut search = Map::new();
        for (switch, more) in SEARCHES {
            let is_on = |value: &&Value| value.as_bool() == Some(true) || value.as_u64().is_some_and(|beams| beams > 1);
            if fields.get(switch).filter(is_on).is_some() {
                let named = [switch].into_iter().chain(more.iter().copied());
                search.extend(named.filter_map(|field| Some((field.to_owned(), fields.get(field)?.clone()))));
            }
        }
        if search.contains_key("do_sample") {
            unsupported.extend(fields.set(&DRAWING));
        }
        Ok(PublishedGeneration {
            path: fields.path,
            stop,
            start,
            repetition_penalty,
            rules,
            search,
            unsupported,
        })
    }

    /// Ids that end a text: `eos_token_id` of `generation_config.json`, else of `config.json`, else the `eos_token` of the tokenizer. The
    /// `eos_token` of an adapter's own tokenizer is another one.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] if the first does not parse; [`ModelError::Config`] for what is no token id of the vocabulary.
    pub fn stop_tokens(&self) -> Result<Vec<u32>, ModelError> {
        let mut stop = self.published_stop_tokens()?;
        if self.has_own_tokenizer() {
            let own = self.tokenizers_end()?.filter(|own| !stop.contains(own));
            stop.extend(own);
        }
        Ok(stop)
    }

    /// Writes the [`stop_tokens`](Self::stop_tokens) into a checkpoint that was saved of this one, where an adapter's tokenizer has one
    /// that the files of the base do not name.
    ///
    /// # Errors
    ///
    /// As [`stop_tokens`](Self::stop_tokens), and those of writing.
    pub fn save_stop_tokens(&self, out: &Path) -> Result<(), ModelError> {
        let stop = self.stop_tokens()?;
        if stop == self.published_stop_tokens()? {
            return Ok(());
        }
        let files = [FILE, "config.json"].map(|name| out.join(name));
        for path in files.iter().filter(|path| path.exists()) {
            let mut config: Map<String, Value> = read_json(path)?;
            config.insert(END.to_owned(), stop.clone().into());
            adapters_store::write_json(path, &config)?;
        }
        Ok(())
    }

    fn published_stop_tokens(&self) -> Result<Vec<u32>, ModelError> {
        for fields in [Fields::read(self)?, Fields::of_model(self)] {
            if fields.get(END).is_some() {
                return fields.tokens(END);
            }
        }
        Ok(self.tokenizers_end()?.into_iter().collect())
    }
}

/// The fields of one of the files.
struct Fields {
    path: PathBuf,
    fields: Map<String, Value>,
    /// Tokens of the model, where its configuration says how many.
    vocabulary: Option<u64>,
}

impl Fields {
    /// Those of `generation_config.json`, or else of `config.json`.
    fn read(pretrained: &Pretrained) -> Result<Self, ModelError> {
        let path = pretrained.dir().join(FILE);
        Ok(match read_json_if_there(&path)? {
            Some(fields) => Self {
                fields,
                path,
                vocabulary: pretrained.vocabulary_size(),
            },
            None => Self::of_model(pretrained),
        })
    }

    /// Those of `config.json`, the ones of a decoder or text model in it, and those that the classes of transformers have.
    fn of_model(pretrained: &Pretrained) -> Self {
        let config = pretrained.folder().config();
        let mut fields = Map::new();
        const FORCED: &str = "forced_eos_token_id";
        if matches!(pretrained.model_type(), "bart" | "mbart" | "plbart") && !config.contains_key(FORCED) {
            fields.insert(FORCED.to_owned(), 2.into());
        }
        let parts = ["decoder", "text_config"].map(|part| config.get(part).and_then(Value::as_object));
        for part in parts.into_iter().flatten().chain([config]) {
            let said = part.iter().filter(|(_, value)| !value.is_null());
            fields.extend(said.map(|(field, value)| (field.clone(), value.clone())));
        }
        Self {
            path: pretrained.dir().join("config.json"),
            fields,
            vocabulary: pretrained.vocabulary_size(),
        }
    }

    fn check(&self) -> ConfigCheck<'_> {
        ConfigCheck::new(&self.path)
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn number(&self, field: &'static str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        value
            .as_f64()
            .ok_or_else(|| self.check().refusal(field, "a number", value))
    }

    fn count(&self, field: &'static str) -> Result<usize, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(0);
        };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.check().refusal(field, "a number of tokens", value))
    }

    fn switch(&self, field: &'static str) -> Result<bool, ModelError> {
        let Some(value) = self.get(field) else {
            return Ok(false);
        };
        let is_on = value.as_bool();
        is_on.ok_or_else(|| self.check().refusal(field, "`true` or `false`", value))
    }

    fn id(&self, field: &'static str, expected: &str, value: &Value) -> Result<u32, ModelError> {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| self.check().refusal(field, expected, value))?;
        match self.vocabulary {
            Some(size) if u64::from(id) >= size => {
                let expected = format!("token ids below {size}, the size of the model's vocabulary");
                Err(self.check().refusal(field, expected, id))
            }
            _ => Ok(id),
        }
    }

    fn token(&self, field: &'static str) -> Result<Option<u32>, ModelError> {
        self.get(field)
            .map(|value| self.id(field, "a token id", value))
            .transpose()
    }

    /// One id, or a list of them.
    fn tokens(&self, field: &'static str) -> Result<Vec<u32>, ModelError> {
        const EXPECTED: &str = "a token id, or a list of token ids";
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(|id| self.id(field, EXPECTED, id)).collect(),
            Some(id) => Ok(vec![self.id(field, EXPECTED, id)?]),
        }
    }

    /// `bad_words_ids`.
    fn words(&self) -> Result<Vec<Vec<u32>>, ModelError> {
        const FIELD: &str = "bad_words_ids";
        const EXPECTED: &str = "a list of lists of token ids";
        let Some(value) = self.get(FIELD) else {
            return Ok(Vec::new());
        };
        let refusal = || self.check().refusal(FIELD, EXPECTED, value);
        let words = value.as_array().ok_or_else(refusal)?;
        let word = |word: &Value| {
            let ids = word.as_array().filter(|ids| !ids.is_empty()).ok_or_else(refusal)?;
            ids.iter().map(|id| self.id(FIELD, EXPECTED, id)).collect()
        };
        words.iter().map(word).collect()
    }

    /// Those of the named fields that have an effect.
    fn set(&self, named: &[(&str, Option<f64>)]) -> Map<String, Value> {
        let has_effect = |value: &Value, none: Option<f64>| match value {
            Value::Bool(is_on) => *is_on,
            Value::Array(list) => !list.is_empty(),
            value => none.is_none() || value.as_f64() != none,
        };
        let set = named.iter().filter_map(|(field, none)| {
            let value = self.get(field).filter(|value| has_effect(value, *none))?;
            Some(((*field).to_owned(), value.clone()))
        });
        set.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    /// What is read of a folder with these two files.
    fn read(config: &Value, generation: Option<&Value>) -> Result<PublishedGeneration, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        if let Some(generation) = generation {
            fs::write(dir.path().join(FILE), generation.to_string()).unwrap();
        }
        let read = Pretrained::open(dir.path()).and_then(|found| found.generation());
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn rules_are_those_of_one_file() {
        // Of bart-large-cnn, shortened.
        let config = json!({
            "model_type": "bart", "vocab_size": 100, "eos_token_id": 2, "forced_bos_token_id": 0, "no_repeat_ngram_size": 3,
            "min_length": 56, "num_beams": 4, "length_penalty": 2.0, "early_stopping": true, "decoder_start_token_id": 2,
            "pad_token_id": -1, "suppress_tokens": null, "bad_words_ids": [[5], [6, 7]], "guidance_scale": 1.0,
        });
        let found = read(&config, None).unwrap();
        let rules = TokenRules {
            forced_first: Some(0),
            forced_last: vec![2],
            no_repeat_ngram: 3,
            min_length: 56,
            bad_words: vec![vec![5], vec![6, 7]],
            ..TokenRules::default()
        };
        assert_eq!((found.rules, found.start, found.stop), (rules, Some(2), vec![2]));
        let search = json!({"num_beams": 4, "length_penalty": 2.0, "early_stopping": true});
        assert_eq!(Value::Object(found.search), search);
        assert!(found.unsupported.is_empty());

        let generation = json!({
            "suppress_tokens": [1, 2], "repetition_penalty": 1.2, "temperature": 0.5, "do_sample": true, "min_p": 0.1,
            "typical_p": 1.0, "stop_strings": ["x"], "num_beam_groups": 1, "force_words_ids": [], "token_healing": false,
        });
        let found = read(&config, Some(&generation)).unwrap();
        let rules = TokenRules {
            suppressed: vec![1, 2],
            ..TokenRules::default()
        };
        assert_eq!((found.rules, found.start, found.stop), (rules, None, vec![2]));
        assert_eq!(found.repetition_penalty, 1.2);
        assert_eq!(
            Value::Object(found.search),
            json!({"do_sample": true, "temperature": 0.5})
        );
        assert_eq!(
            Value::Object(found.unsupported),
            json!({"stop_strings": ["x"], "min_p": 0.1})
        );

        let drawn = json!({"temperature": 0.5, "min_p": 0.1, "num_beams": 1, "length_penalty": 2.0});
        let found = read(&config, Some(&drawn)).unwrap();
        assert!(found.search.is_empty() && found.unsupported.is_empty());
    }

    #[test]
    fn what_is_no_rule_is_refused_with_file_field_and_value() {
        let config = json!({"model_type": "t5", "vocab_size": 100});
        for (field, value, said) in [
            (
                "eos_token_id",
                json!(100),
                "below 100, the size of the model's vocabulary",
            ),
            ("eos_token_id", json!([1, 4294967296u64]), "a token id, or a list"),
            ("eos_token_id", json!("</s>"), "a token id, or a list"),
            ("pad_token_id", json!(100), "below 100"),
            ("decoder_start_token_id", json!(2000), "below 100"),
            ("decoder_start_token_id", json!([0]), "a token id"),
            ("forced_bos_token_id", json!(-1), "a token id"),
            ("forced_eos_token_id", json!([5, 500]), "below 100"),
            ("suppress_tokens", json!([5.5]), "a token id"),
            ("begin_suppress_tokens", json!([100]), "below 100"),
            ("bad_words_ids", json!([5]), "a list of lists"),
            ("bad_words_ids", json!([[]]), "a list of lists"),
            ("bad_words_ids", json!([[1, 100]]), "below 100"),
            ("no_repeat_ngram_size", json!(-3), "a number of tokens"),
            ("min_length", json!(1e300), "a number of tokens"),
            ("repetition_penalty", json!(0), "above 0"),
            ("repetition_penalty", json!("1.2"), "a number"),
            ("renormalize_logits", json!("yes"), "`true` or `false`"),
        ] {
            let error = read(&config, Some(&json!({field: value}))).unwrap_err();
            let named = error.contains(FILE) && error.contains(field) && error.contains(said);
            assert!(named, "{field} = {value}: {error}");
        }
        let error = read(
            &json!({"model_type": "t5", "vocab_size": 100, "eos_token_id": 100}),
            None,
        )
        .unwrap_err();
        assert!(
            error.contains("config.json") && error.contains("eos_token_id"),
            "{error}"
        );
    }
}
