//! [`PromptTuningConfig`] and the choices it is made of.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::PromptError;
use crate::compat::{self, PromptTuningWire};

/// How the prompt's vectors start.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptInit {
    /// Uniform in [-scale, scale].
    RandomUniform {
        /// Half the width of the interval (`random_uniform_scale`). The reference does not save it; here it is
        /// written where it is not 0.5.
        scale: f64,
    },
    /// The embeddings of a text's tokens, repeated or cut to the prompt's length (`from_string`).
    FromString {
        /// The text (`prompt_init_text`).
        text: String,
    },
}

/// Where the prompt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// In front of the whole row.
    Prefix,
    /// After the first token.
    PrefixAfterBos,
}

/// Prompt tuning: learned vectors put in among the embedded tokens.
///
/// "The Power of Scale for Parameter-Efficient Prompt Tuning", Lester et al. (2021),
/// <https://arxiv.org/abs/2104.08691>. Defaults are those of the reference implementation, AdapterHub `adapters` 1.3.0.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `prompt_length` | 10 | number of vectors | >= 1 |
/// | `init` | uniform, scale 0.5 | how they start | scale finite, >= 0; text not empty |
/// | `combine` | prefix | where they go | |
/// | `init_seed` | none | seed of the initialization; 0 counts as none | |
/// | `extra` | empty | keys of a file without a meaning here | no field's name |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PromptTuningWire", into = "PromptTuningWire")]
pub struct PromptTuningConfig {
    /// Number of vectors.
    pub prompt_length: usize,
    /// How the vectors start (`prompt_init`).
    pub init: PromptInit,
    /// Where the vectors go.
    pub combine: Combine,
    /// Seed of the initialization (`init_weights_seed`). The reference takes 0 for none.
    pub init_seed: Option<i64>,
    /// Keys of a file that have no meaning here: unknown ones, and known ones that do not apply (the text of a random
    /// start). They are written back unchanged.
    pub extra: Map<String, Value>,
}

impl Default for PromptTuningConfig {
    fn default() -> Self {
        Self::prompt_tuning()
    }
}

macro_rules! setters {
    ($($doc:literal $name:ident($field:ident: $type:ty);)*) => {$(
        #[doc = $doc]
        #[must_use]
        pub fn $name(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
    )*};
}

impl PromptTuningConfig {
    /// [`prompt_tuning`](Self::prompt_tuning) of another length.
    pub fn new(prompt_length: usize) -> Self {
        Self {
            prompt_length,
            ..Self::prompt_tuning()
        }
    }

    /// Ten vectors in front of the row, uniform in [-0.5, 0.5] at the start.
    pub fn prompt_tuning() -> Self {
        Self {
            prompt_length: 10,
            init: PromptInit::RandomUniform { scale: 0.5 },
            combine: Combine::Prefix,
            init_seed: None,
            extra: Map::new(),
        }
    }

    /// The preset of an identifier of the reference.
    ///
    /// # Errors
    /// The identifier is not `prompt_tuning`.
    pub fn preset(identifier: &str) -> Result<Self, PromptError> {
        match identifier {
            "prompt_tuning" => Ok(Self::prompt_tuning()),
            _ => Err(PromptError::Unknown {
                field: "identifier",
                expected: "prompt_tuning".to_owned(),
                found: identifier.to_owned(),
            }),
        }
    }

    setters! {
        "Sets how the vectors start." with_init(init: PromptInit);
        "Sets where the vectors go." with_combine(combine: Combine);
        "Sets the seed of the initialization." with_init_seed(init_seed: Option<i64>);
    }

    /// Checks every range. A configuration read from a file has passed this already.
    ///
    /// # Errors
    /// Names the first field that cannot be honored, what was expected and what was found.
    pub fn check(&self) -> Result<(), PromptError> {
        let out_of_range = |field, expected, found: String| PromptError::OutOfRange { field, expected, found };
        if self.prompt_length == 0 {
            return Err(out_of_range(
                "prompt_length",
                "a whole number >= 1",
                self.prompt_length.to_string(),
            ));
        }
        match &self.init {
            PromptInit::RandomUniform { scale } if !(scale.is_finite() && *scale >= 0.0) => Err(out_of_range(
                "random_uniform_scale",
                "a finite number >= 0",
                scale.to_string(),
            )),
            PromptInit::FromString { text } if text.is_empty() => {
                let expected = "a text, as prompt_init is from_string";
                Err(PromptError::Missing {
                    field: "prompt_init_text",
                    expected,
                })
            }
            _ => compat::check_extra(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_by_name() {
        let base = PromptTuningConfig::prompt_tuning;
        let mut reserved = base();
        reserved.extra.insert("combine".to_owned(), "prefix".into());
        for (config, field) in [
            (PromptTuningConfig::new(0), "prompt_length"),
            (
                base().with_init(PromptInit::RandomUniform { scale: f64::NAN }),
                "random_uniform_scale",
            ),
            (
                base().with_init(PromptInit::FromString { text: String::new() }),
                "prompt_init_text",
            ),
            (reserved, "combine"),
        ] {
            let error = config.check().expect_err(field).to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
        assert!(PromptTuningConfig::preset("prompt").is_err());
    }
}
