//! [`VirtualTokensConfig`]: prompt tuning and P-tuning as peft has them, and its `adapter_config.json`, key for key.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::PromptError;

/// Where the vectors of a prompt come from, while it trains.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// They train themselves (`PROMPT_TUNING`), and begin normal with standard deviation one (`RANDOM`).
    Random,
    /// They train themselves, and begin as the tokens of a text, repeated or cut to their number (`TEXT`).
    Text {
        /// The text (`prompt_tuning_init_text`).
        text: String,
        /// Name of the tokenizer (`tokenizer_name_or_path`), which peft asks for; here it is only kept.
        tokenizer: String,
    },
    /// They train themselves, and begin as tokens drawn from the vocabulary (`SAMPLE_VOCAB`).
    SampleVocabulary,
    /// A network makes them (`P_TUNING`); only what it makes is stored.
    Network(Reparameterisation),
}

/// A network that makes a prompt's vectors while it trains.
#[derive(Debug, Clone, PartialEq)]
pub enum Reparameterisation {
    /// Three linear layers with rectifiers between (`MLP`).
    Mlp {
        /// Width between the layers (`encoder_hidden_size`).
        hidden_size: usize,
    },
    /// A bidirectional LSTM over the vectors, and two linear layers (`LSTM`).
    Lstm {
        /// Width of a direction (`encoder_hidden_size`).
        hidden_size: usize,
        /// Recurrent layers (`encoder_num_layers`).
        layers: usize,
        /// Dropout between them (`encoder_dropout`).
        dropout: f64,
    },
}

impl Reparameterisation {
    /// Width inside.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Mlp { hidden_size } | Self::Lstm { hidden_size, .. } => *hidden_size,
        }
    }
}

/// Virtual tokens: learned rows in front of those of the token table, which get positions and whatever else a model adds.
///
/// Prompt tuning: *The Power of Scale for Parameter-Efficient Prompt Tuning*, Lester et al., 2021,
/// <https://arxiv.org/abs/2104.08691>. P-tuning: *GPT Understands, Too*, Liu et al., 2021,
/// <https://arxiv.org/abs/2103.10385>. Both as peft 0.21.2 computes them.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `num_virtual_tokens` | 20 | rows in front | >= 1 |
/// | `submodules` | 1 | 2 in an encoder-decoder, whose second half of the rows is never read | 1 or 2 |
/// | `source` | random rows, or a perceptron of width 128 | where the rows come from | |
/// | `extra` | empty | keys of a file without a meaning here | |
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualTokensConfig {
    /// Rows in front.
    pub num_virtual_tokens: usize,
    /// Parts of the model that peft keeps rows for (`num_transformer_submodules`).
    pub submodules: usize,
    /// Where the rows come from.
    pub source: Source,
    /// Keys of a file that have no meaning here. They are written back unchanged.
    pub extra: Map<String, Value>,
}

impl VirtualTokensConfig {
    /// Rows that train themselves, drawn at random.
    pub fn new(num_virtual_tokens: usize) -> Self {
        Self {
            num_virtual_tokens,
            submodules: 1,
            source: Source::Random,
            extra: Map::new(),
        }
    }

    /// Sets where the rows come from.
    #[must_use]
    pub fn with_source(self, source: Source) -> Self {
        Self { source, ..self }
    }

    /// Rows that are stored.
    pub fn rows(&self) -> usize {
        self.num_virtual_tokens * self.submodules
    }

    /// Checks every range. A configuration read from a file has passed this already.
    ///
    /// # Errors
    ///
    /// Names the first field that cannot be honored, what was expected and what was found.
    pub fn check(&self) -> Result<(), PromptError> {
        let at_least_one = |field, found: usize| match found {
            0 => Err(PromptError::OutOfRange {
                field,
                expected: "a whole number >= 1",
                found: found.to_string(),
            }),
            _ => Ok(()),
        };
        at_least_one("num_virtual_tokens", self.num_virtual_tokens)?;
        if !(1..=2).contains(&self.submodules) {
            return Err(PromptError::OutOfRange {
                field: "num_transformer_submodules",
                expected: "1 or 2",
                found: self.submodules.to_string(),
            });
        }
        match &self.source {
            Source::Network(network) => {
                at_least_one("encoder_hidden_size", network.hidden_size())?;
                let Reparameterisation::Lstm { layers, dropout, .. } = network else {
                    return Ok(());
                };
                at_least_one("encoder_num_layers", *layers)?;
                match (0.0..1.0).contains(dropout) {
                    true => Ok(()),
                    false => Err(PromptError::OutOfRange {
                        field: "encoder_dropout",
                        expected: "0 <= p < 1",
                        found: dropout.to_string(),
                    }),
                }
            }
            Source::Text { text, .. } if text.is_empty() => Err(PromptError::Missing {
                field: "prompt_tuning_init_text",
                expected: "a text, as prompt_tuning_init is TEXT",
            }),
            Source::Text { tokenizer, .. } if tokenizer.is_empty() => Err(PromptError::Missing {
                field: "tokenizer_name_or_path",
                expected: "the tokenizer's name, which peft asks for where prompt_tuning_init is TEXT",
            }),
            Source::Random | Source::Text { .. } | Source::SampleVocabulary => Ok(()),
        }
    }
}

/// An `adapter_config.json` of peft's `PROMPT_TUNING` or `P_TUNING`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VirtualTokensWire {
    /// `PROMPT_TUNING` or `P_TUNING`.
    pub peft_type: String,
    /// Rows in front.
    #[serde(default = "twenty")]
    pub num_virtual_tokens: usize,
    /// Parts of the model that rows are kept for.
    #[serde(default)]
    pub num_transformer_submodules: Option<usize>,
    /// `RANDOM`, `TEXT` or `SAMPLE_VOCAB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tuning_init: Option<String>,
    /// Text for `TEXT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tuning_init_text: Option<String>,
    /// Tokenizer for `TEXT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_name_or_path: Option<String>,
    /// `MLP` or `LSTM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_reparameterization_type: Option<String>,
    /// Width of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_hidden_size: Option<usize>,
    /// Recurrent layers of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_num_layers: Option<usize>,
    /// Dropout between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_dropout: Option<f64>,
    /// Every other key.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn twenty() -> usize {
    20
}

/// Peft's names of the two methods.
pub(crate) const PROMPT_TUNING: &str = "PROMPT_TUNING";
pub(crate) const P_TUNING: &str = "P_TUNING";
/// Recurrent layers, where nothing is said.
const LAYERS: usize = 2;
/// Width of a network, where nothing is said: peft has no default.
const HIDDEN: usize = 128;

impl TryFrom<VirtualTokensWire> for VirtualTokensConfig {
    type Error = PromptError;

    fn try_from(wire: VirtualTokensWire) -> Result<Self, PromptError> {
        let unknown = |field, expected: &str, found: String| {
            Err(PromptError::Unknown {
                field,
                expected: expected.to_owned(),
                found,
            })
        };
        let hidden_size = wire.encoder_hidden_size.unwrap_or(HIDDEN);
        let source = match wire.peft_type.as_str() {
            PROMPT_TUNING => match wire.prompt_tuning_init.as_deref().unwrap_or("RANDOM") {
                "RANDOM" => Source::Random,
                "SAMPLE_VOCAB" => Source::SampleVocabulary,
                "TEXT" => Source::Text {
                    text: wire.prompt_tuning_init_text.unwrap_or_default(),
                    tokenizer: wire.tokenizer_name_or_path.unwrap_or_default(),
                },
                other => return unknown("prompt_tuning_init", "RANDOM, TEXT, SAMPLE_VOCAB", other.to_owned()),
            },
            P_TUNING => Source::Network(match wire.encoder_reparameterization_type.as_deref().unwrap_or("MLP") {
                // Peft ignores what is said of layers and dropout.
                "MLP" => Reparameterisation::Mlp { hidden_size },
                "LSTM" => Reparameterisation::Lstm {
                    hidden_size,
                    layers: wire.encoder_num_layers.unwrap_or(LAYERS),
                    dropout: wire.encoder_dropout.unwrap_or(0.0),
                },
                other => return unknown("encoder_reparameterization_type", "MLP, LSTM", other.to_owned()),
            }),
            _ => return unknown("peft_type", "PROMPT_TUNING, P_TUNING", wire.peft_type),
        };
        let config = Self {
            num_virtual_tokens: wire.num_virtual_tokens,
            submodules: wire.num_transformer_submodules.unwrap_or(1),
            source,
            extra: wire.extra,
        };
        config.check()?;
        Ok(config)
    }
}

impl From<&VirtualTokensConfig> for VirtualTokensWire {
    fn from(config: &VirtualTokensConfig) -> Self {
        let mut wire = Self {
            peft_type: PROMPT_TUNING.to_owned(),
            num_virtual_tokens: config.num_virtual_tokens,
            num_transformer_submodules: Some(config.submodules),
            prompt_tuning_init: None,
            prompt_tuning_init_text: None,
            tokenizer_name_or_path: None,
            encoder_reparameterization_type: None,
            encoder_hidden_size: None,
            encoder_num_layers: None,
            encoder_dropout: None,
            extra: config.extra.clone(),
        };
        match &config.source {
            Source::Random => wire.prompt_tuning_init = Some("RANDOM".to_owned()),
            Source::SampleVocabulary => wire.prompt_tuning_init = Some("SAMPLE_VOCAB".to_owned()),
            Source::Text { text, tokenizer } => {
                wire.prompt_tuning_init = Some("TEXT".to_owned());
                wire.prompt_tuning_init_text = Some(text.clone());
                wire.tokenizer_name_or_path = Some(tokenizer.clone());
            }
            Source::Network(network) => {
                wire.peft_type = P_TUNING.to_owned();
                wire.encoder_hidden_size = Some(network.hidden_size());
                let (name, layers, dropout) = match network {
                    Reparameterisation::Mlp { .. } => ("MLP", LAYERS, 0.0),
                    Reparameterisation::Lstm { layers, dropout, .. } => ("LSTM", *layers, *dropout),
                };
                wire.encoder_reparameterization_type = Some(name.to_owned());
                wire.encoder_num_layers = Some(layers);
                wire.encoder_dropout = Some(dropout);
            }
        }
        wire
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<VirtualTokensConfig, String> {
        let wire: VirtualTokensWire = serde_json::from_value(value).map_err(|e| e.to_string())?;
        VirtualTokensConfig::try_from(wire).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_read_is_written() {
        for file in [
            json!({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "num_transformer_submodules": 2,
                "prompt_tuning_init": "RANDOM", "task_type": "SEQ_2_SEQ_LM"}),
            json!({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "num_transformer_submodules": 1,
                "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a film", "tokenizer_name_or_path": "bert"}),
            json!({"peft_type": "P_TUNING", "num_virtual_tokens": 3, "num_transformer_submodules": 1,
                "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 12, "encoder_num_layers": 1,
                "encoder_dropout": 0.1, "unknown": [1]}),
        ] {
            let config = read(file.clone()).unwrap();
            assert_eq!(serde_json::to_value(VirtualTokensWire::from(&config)).unwrap(), file);
        }
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        let prompt = |more: Value| {
            let mut file = json!({"peft_type": "PROMPT_TUNING"});
            file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            file
        };
        for (file, field) in [
            (prompt(json!({"num_virtual_tokens": 0})), "num_virtual_tokens"),
            (
                prompt(json!({"num_transformer_submodules": 3})),
                "num_transformer_submodules",
            ),
            (prompt(json!({"prompt_tuning_init": "WORDS"})), "prompt_tuning_init"),
            (prompt(json!({"prompt_tuning_init": "TEXT"})), "prompt_tuning_init_text"),
            (
                prompt(json!({"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a"})),
                "tokenizer_name_or_path",
            ),
            (
                json!({"peft_type": "P_TUNING", "encoder_hidden_size": 0}),
                "encoder_hidden_size",
            ),
            (
                json!({"peft_type": "P_TUNING", "encoder_reparameterization_type": "GRU"}),
                "encoder_reparameterization_type",
            ),
            (
                json!({"peft_type": "P_TUNING", "encoder_reparameterization_type": "LSTM", "encoder_dropout": 1.0}),
                "encoder_dropout",
            ),
        ] {
            let error = read(file).unwrap_err();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
    }
}
