//! Prompt tuning as AdapterHub defines it: vectors among the embedded tokens.

use adapters_core::config::{published_seed, read_architecture, write_architecture};
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AnyMethod, Build, Capabilities, Codec, ConfigError, EditsEmbeddings, Encode, Erased, Error, Host,
    Inserted, Method, NeedsTokenizer, Peft, Role, SiteInfo, SiteKind, SiteLayer, StoredConfig,
};
use adapters_nn::draw;
use burn::module::Param;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::layer::PromptLayer;
use crate::start::{Start, Starting, not_tokenized, starting, token_rows};

/// Prompt tuning: learned vectors inserted among the embedded tokens, after position embeddings and layer norm.
///
/// "The Power of Scale for Parameter-Efficient Prompt Tuning", Lester et al. (2021),
/// <https://arxiv.org/abs/2104.08691>.
///
/// The fields are those of the `config` object in AdapterHub's `adapter_config.json`, and `random_uniform_scale`, which its
/// files leave out. A field that a file leaves out has the default given below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptTuningConfig {
    /// Where the vectors are inserted. Default in front of the row.
    pub combine: Combine,
    /// Seed of the initialization; zero counts as none. Default none.
    pub init_weights_seed: Option<i64>,
    /// What the vectors begin as. Default random.
    pub prompt_init: PromptInit,
    /// The text of `from_string`, not empty. Default none.
    pub prompt_init_text: Option<String>,
    /// Number of vectors, at least 1. Default 10.
    pub prompt_length: usize,
    /// Bound of `random_uniform`, at least 0. Default 0.5.
    pub random_uniform_scale: Option<f64>,
    /// Whether the vectors begin as `prompt_init` describes; in no file.
    #[serde(skip)]
    pub start: Start,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the vectors of a prompt begin as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptInit {
    /// Uniform in plus and minus `random_uniform_scale`.
    #[default]
    RandomUniform,
    /// The embeddings of a text's tokens, repeated or cut to the prompt's length.
    FromString,
}

/// Where the prompt is inserted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// In front of the whole row.
    #[default]
    Prefix,
    /// After the first token.
    PrefixAfterBos,
}

/// The field with the text.
const TEXT: &str = "prompt_init_text";

impl Default for PromptTuningConfig {
    fn default() -> Self {
        Self {
            combine: Combine::Prefix,
            init_weights_seed: None,
            prompt_init: PromptInit::RandomUniform,
            prompt_init_text: None,
            prompt_length: 10,
            random_uniform_scale: None,
            start: Start::Configured,
            extra: Map::new(),
        }
    }
}

impl PromptTuningConfig {
    fn scale(&self) -> f64 {
        self.random_uniform_scale.unwrap_or(0.5)
    }

    /// Position of the text before which the vectors are inserted.
    fn position(&self) -> usize {
        match self.combine {
            Combine::Prefix => 0,
            Combine::PrefixAfterBos => 1,
        }
    }
}

starting!(PromptTuningConfig);

impl Method for PromptTuningConfig {
    const NAME: &'static str = "prompt_tuning";
    const DESCRIPTION: &'static str = "Trained vectors among the embedded tokens, as in AdapterHub.";

    fn check(&self) -> Result<(), ConfigError> {
        let length = self.prompt_length;
        ConfigError::size("prompt_length", length)?;
        let scale = self.scale();
        ConfigError::finite("random_uniform_scale", scale)?;
        ConfigError::unless(scale >= 0.0, "random_uniform_scale", "at least 0", scale)?;
        let text = self.prompt_init_text.as_deref().unwrap_or_default();
        let fits = self.prompt_init != PromptInit::FromString || !text.is_empty();
        ConfigError::unless(fits, TEXT, "a text where `prompt_init` is from_string", "empty")
    }

    fn target(&self) -> Target {
        Target::First(Role::Embedding)
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let SiteKind::Embedding { d_model } = site.kind else {
            return Err(Self::refuse(site, "it adapts the embeddings of a model only"));
        };
        let shape = [self.prompt_length, d_model];
        let vectors = match (&self.start, self.prompt_init) {
            (Start::Tokens(tokens), _) => token_rows(Self::NAME, TEXT, tokens, self.prompt_length, build)?,
            (Start::Configured, PromptInit::FromString) => {
                return Err(Error::config(Self::NAME, not_tokenized(TEXT)));
            }
            (Start::Stored, PromptInit::FromString) => Param::from_data(draw::constant(shape, 0.0), build.device),
            (_, PromptInit::RandomUniform) => {
                let mut rng = build.rng(published_seed(self.init_weights_seed), site.site);
                Param::from_data(draw::uniform(&mut rng, shape, self.scale() as f32), build.device)
            }
        };
        let layer = PromptLayer {
            vectors,
            position: self.position(),
        };
        Ok(SiteLayer::Embedding(Erased::new(layer)))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            embeddings: Some(self),
            tokenizer: Some(self),
            ..Capabilities::default()
        }
    }
}

/// The vectors have no positions of their own.
impl EditsEmbeddings for PromptTuningConfig {
    fn inserts(&self) -> Option<Inserted> {
        Some(Inserted {
            at: self.position(),
            count: self.prompt_length,
        })
    }

    fn positions(&self) -> usize {
        0
    }
}

impl NeedsTokenizer for PromptTuningConfig {
    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        let (PromptInit::FromString, Some(text)) = (self.prompt_init, &self.prompt_init_text) else {
            return Ok(None);
        };
        let start = Error::in_config(Self::NAME, Start::tokenized(TEXT, text, encode))?;
        self.with_start(Some(start))
    }
}

impl Codec<AdapterHub> for PromptTuningConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        read_architecture(Self::NAME, stored.fields).map(Self::stored)
    }

    fn write(&self, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        Ok(write_architecture(Self::NAME, self, &["random_uniform_scale"]))
    }

    fn key(&self, _site: &SiteInfo, adapter: &str, param: &str) -> String {
        format!("prompt_tuning.prompt_tunings.{adapter}.{param}")
    }
}

/// Peft inserts its prompt before the position embeddings: see [`PeftPromptTuningConfig`](crate::PeftPromptTuningConfig).
impl Codec<Peft> for PromptTuningConfig {}
