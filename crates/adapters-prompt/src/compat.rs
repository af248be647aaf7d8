//! The `config` object of the reference's `adapter_config.json`, key for key, and the way to and from
//! [`PromptTuningConfig`].

use adapters_core::config::{keep, kept};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::PromptError;
use crate::config::{Combine, PromptInit, PromptTuningConfig};

const ARCHITECTURE: &str = "prompt_tuning";
const SCALE: f64 = 0.5;

/// A prompt tuning `config` object as AdapterHub `adapters` 1.3.0 writes it, and `random_uniform_scale`, which it
/// forgets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptTuningWire {
    /// `prompt_tuning`.
    pub architecture: String,
    /// `prefix` or `prefix_after_bos`.
    pub combine: String,
    /// Seed of the initialization.
    pub init_weights_seed: Option<i64>,
    /// `random_uniform` or `from_string`.
    pub prompt_init: String,
    /// Text for `from_string`.
    pub prompt_init_text: Option<String>,
    /// Number of vectors.
    pub prompt_length: i64,
    /// Scale of `random_uniform`; absent from the reference's files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_uniform_scale: Option<f64>,
    /// Every other key.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for PromptTuningWire {
    fn default() -> Self {
        Self::from(&PromptTuningConfig::prompt_tuning())
    }
}

fn index(field: &'static str, found: i64) -> Result<usize, PromptError> {
    usize::try_from(found).map_err(|_| PromptError::OutOfRange {
        field,
        expected: "a whole number >= 0",
        found: found.to_string(),
    })
}

/// Refuses keys in `extra` that the configuration writes itself.
pub(crate) fn check_extra(config: &PromptTuningConfig) -> Result<(), PromptError> {
    let mut wire = PromptTuningWire::from(config);
    let extra = std::mem::take(&mut wire.extra);
    let known = serde_json::to_value(&wire).unwrap_or_default();
    match extra.keys().find(|key| known.get(key).is_some()) {
        Some(key) => Err(PromptError::Reserved { key: key.clone() }),
        None => Ok(()),
    }
}

impl TryFrom<PromptTuningWire> for PromptTuningConfig {
    type Error = PromptError;

    fn try_from(wire: PromptTuningWire) -> Result<Self, PromptError> {
        if wire.architecture != ARCHITECTURE {
            let expected = ARCHITECTURE.to_owned();
            return Err(PromptError::Unknown {
                field: "architecture",
                expected,
                found: wire.architecture,
            });
        }
        let unknown = |field, expected: &str, found| {
            Err(PromptError::Unknown {
                field,
                expected: expected.to_owned(),
                found,
            })
        };
        let mut extra = wire.extra;
        let init = match wire.prompt_init.as_str() {
            "random_uniform" => {
                keep(
                    &mut extra,
                    "prompt_init_text",
                    wire.prompt_init_text.into(),
                    Value::Null,
                );
                PromptInit::RandomUniform {
                    scale: wire.random_uniform_scale.unwrap_or(SCALE),
                }
            }
            "from_string" => {
                keep(
                    &mut extra,
                    "random_uniform_scale",
                    wire.random_uniform_scale.into(),
                    Value::Null,
                );
                // `check` refuses the empty text, as the reference does an absent one.
                PromptInit::FromString {
                    text: wire.prompt_init_text.unwrap_or_default(),
                }
            }
            _ => {
                return unknown("prompt_init", "random_uniform, from_string", wire.prompt_init);
            }
        };
        let combine = match wire.combine.as_str() {
            "prefix" => Combine::Prefix,
            "prefix_after_bos" => Combine::PrefixAfterBos,
            _ => return unknown("combine", "prefix, prefix_after_bos", wire.combine),
        };
        let prompt_length = index("prompt_length", wire.prompt_length)?;
        let config = Self {
            prompt_length,
            init,
            combine,
            init_seed: wire.init_weights_seed,
            extra,
        };
        config.check()?;
        Ok(config)
    }
}

impl From<&PromptTuningConfig> for PromptTuningWire {
    fn from(config: &PromptTuningConfig) -> Self {
        let mut extra = config.extra.clone();
        let (prompt_init, prompt_init_text, random_uniform_scale) = match &config.init {
            PromptInit::RandomUniform { scale } => (
                "random_uniform",
                kept(&mut extra, "prompt_init_text", None),
                Some(*scale).filter(|s| *s != SCALE),
            ),
            PromptInit::FromString { text } => (
                "from_string",
                Some(text.clone()),
                kept(&mut extra, "random_uniform_scale", None),
            ),
        };
        let combine = match config.combine {
            Combine::Prefix => "prefix",
            Combine::PrefixAfterBos => "prefix_after_bos",
        };
        Self {
            architecture: ARCHITECTURE.to_owned(),
            combine: combine.to_owned(),
            init_weights_seed: config.init_seed,
            prompt_init: prompt_init.to_owned(),
            prompt_init_text,
            prompt_length: config.prompt_length as i64,
            random_uniform_scale,
            extra,
        }
    }
}

impl From<PromptTuningConfig> for PromptTuningWire {
    fn from(config: PromptTuningConfig) -> Self {
        Self::from(&config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `PromptTuningConfig().to_dict()` of the reference.
    const DEFAULT: &str = r#"{"architecture": "prompt_tuning", "combine": "prefix", "init_weights_seed": null,
        "prompt_init": "random_uniform", "prompt_init_text": null, "prompt_length": 10}"#;

    /// `DEFAULT` with some keys changed or added.
    fn changed(changes: Value) -> Value {
        let mut all: Value = serde_json::from_str(DEFAULT).expect("literal");
        for (key, value) in changes.as_object().expect("an object") {
            all[key] = value.clone();
        }
        all
    }

    fn read(value: &Value) -> PromptTuningConfig {
        serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
    }

    fn round_trip(value: &Value) {
        assert_eq!(serde_json::to_value(read(value)).expect("plain data"), *value);
    }

    #[test]
    fn presets_equal_the_reference() {
        let config = PromptTuningConfig::preset("prompt_tuning").expect("a preset");
        assert_eq!(serde_json::to_value(&config).expect("plain data"), changed(json!({})));
        assert_eq!(
            (read(&changed(json!({}))), read(&json!({}))),
            (config.clone(), config.clone())
        );
        let text = toml::to_string(&config).expect("plain data");
        assert_eq!(toml::from_str::<PromptTuningConfig>(&text).expect(&text), config);
    }

    #[test]
    fn written_back_as_read() {
        for changes in [
            json!({"prompt_length": 4, "combine": "prefix_after_bos", "init_weights_seed": 42}),
            json!({"prompt_init": "from_string", "prompt_init_text": "Is this review positive?"}),
            json!({"prompt_init": "from_string", "prompt_init_text": "x", "random_uniform_scale": 0.5}),
            json!({"prompt_init_text": "not used", "random_uniform_scale": 0.25}),
            json!({"unknown": {"kept": [1, null]}}),
        ] {
            round_trip(&changed(changes));
        }
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        for (key, bad) in [
            ("architecture", json!("lora")),
            ("prompt_length", json!(-4)),
            ("prompt_length", json!(0)),
            ("prompt_init", json!("random")),
            ("random_uniform_scale", json!(-0.5)),
            ("combine", json!("suffix")),
        ] {
            let error = serde_json::from_value::<PromptTuningConfig>(changed(json!({key: bad}))).expect_err(key);
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
        let textless = changed(json!({"prompt_init": "from_string"}));
        let error = serde_json::from_value::<PromptTuningConfig>(textless).expect_err("no text");
        assert!(error.to_string().contains("`prompt_init_text`"), "{error}");
    }
}
