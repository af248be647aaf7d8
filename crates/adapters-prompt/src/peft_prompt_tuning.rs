//! Prompt tuning as peft defines it: rows in front of those of the token table, which get positions.

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AnyMethod, Build, Capabilities, Codec, ConfigError, Encode, Error, Host, Method, NeedsTokenizer, Peft,
    Shared, SharedParameters, SiteInfo, SiteLayer, StoredConfig,
};
use adapters_nn::draw;
use burn::module::Param;
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::layer::PromptRows;
use crate::peft_file;
use crate::start::{Start, Starting, entries, not_tokenized, starting, token_rows};
use crate::virtual_tokens::{PROMPT, VirtualTokens};

/// Prompt tuning with virtual tokens: learned rows in front of those of the token table, which get positions and whatever
/// else a model adds to embeddings.
///
/// *The Power of Scale for Parameter-Efficient Prompt Tuning*, Lester et al., 2021, <https://arxiv.org/abs/2104.08691>, as
/// peft 0.21.2 computes it. The fields are those of its `adapter_config.json`; one that a file leaves out, or that is null,
/// has the default given below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeftPromptTuningConfig {
    /// How many rows there are.
    #[serde(flatten)]
    pub tokens: VirtualTokens,
    /// What the rows begin as. Default `RANDOM`.
    pub prompt_tuning_init: PeftPromptInit,
    /// The text of `TEXT`, not empty. Default none.
    pub prompt_tuning_init_text: Option<String>,
    /// Name of the tokenizer, which peft requires with `TEXT`; here it is only kept. Default none.
    pub tokenizer_name_or_path: Option<String>,
    /// Whether the rows begin as `prompt_tuning_init` describes; in no file.
    #[serde(skip)]
    pub start: Start,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the rows begin as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PeftPromptInit {
    /// Normal with standard deviation one.
    #[default]
    Random,
    /// The embeddings of a text's tokens, repeated or cut to their number.
    Text,
    /// The embeddings of tokens drawn from the vocabulary.
    SampleVocab,
}

const PEFT_TYPE: &str = "PROMPT_TUNING";
/// The field with the text.
const TEXT: &str = "prompt_tuning_init_text";

impl Default for PeftPromptTuningConfig {
    fn default() -> Self {
        Self {
            tokens: VirtualTokens::default(),
            prompt_tuning_init: PeftPromptInit::Random,
            prompt_tuning_init_text: None,
            tokenizer_name_or_path: None,
            start: Start::Configured,
            extra: Map::new(),
        }
    }
}

starting!(PeftPromptTuningConfig);

impl Method for PeftPromptTuningConfig {
    const NAME: &'static str = "peft_prompt_tuning";
    const DESCRIPTION: &'static str =
        "Trained vectors in front of the embedded text, with positions of their own, as in PEFT.";

    fn check(&self) -> Result<(), ConfigError> {
        self.tokens.check()?;
        if self.prompt_tuning_init != PeftPromptInit::Text {
            return Ok(());
        }
        let given = |field, value: &Option<String>| {
            let fits = value.as_ref().is_some_and(|value| !value.is_empty());
            ConfigError::unless(fits, field, "a text where `prompt_tuning_init` is TEXT", "empty")
        };
        given(TEXT, &self.prompt_tuning_init_text)?;
        given("tokenizer_name_or_path", &self.tokenizer_name_or_path)
    }

    fn target(&self) -> Target {
        VirtualTokens::target()
    }

    fn build(&self, site: &SiteInfo, _build: &Build<'_>) -> Result<SiteLayer, Error> {
        self.tokens.layer::<Self>(site)
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            embeddings: Some(&self.tokens),
            tokenizer: Some(self),
            ..Capabilities::default()
        }
    }
}

impl PeftPromptTuningConfig {
    /// The rows as they begin, `[rows, width]`.
    pub(crate) fn vectors(
        &self,
        [rows, width]: [usize; 2],
        rng: &mut ChaCha8Rng,
        build: &Build<'_>,
    ) -> Result<Param<Tensor<2>>, Error> {
        match (&self.start, self.prompt_tuning_init) {
            (Start::Stored, _) => Ok(Param::from_data(draw::constant([rows, width], 0.0), build.device)),
            (Start::Tokens(tokens), _) => token_rows(Self::NAME, TEXT, tokens, rows, build),
            (Start::Configured, PeftPromptInit::Random) => {
                Ok(Param::from_data(draw::normal(rng, [rows, width], 1.0), build.device))
            }
            (Start::Configured, PeftPromptInit::Text) => Err(Error::config(Self::NAME, not_tokenized(TEXT))),
            (Start::Configured, PeftPromptInit::SampleVocab) => {
                let entries = entries(Self::NAME, build)?.max(1) as u64;
                let drawn: Vec<u32> = (0..rows).map(|_| (rng.next_u64() % entries) as u32).collect();
                token_rows(Self::NAME, "prompt_tuning_init", &drawn, rows, build)
            }
        }
    }

    /// What the rows begin as where the configuration has a text; `None` where it has none.
    pub(crate) fn tokenized(&self, encode: &Encode<'_>) -> Result<Option<Start>, Error> {
        let (PeftPromptInit::Text, Some(text)) = (self.prompt_tuning_init, &self.prompt_tuning_init_text) else {
            return Ok(None);
        };
        Error::in_config(Self::NAME, Start::tokenized(TEXT, text, encode)).map(Some)
    }
}

impl SharedParameters for PeftPromptTuningConfig {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let Some([rows, width]) = self.tokens.shape(build.host)? else {
            return Ok(Shared::new());
        };
        let vectors = self.vectors([rows, width], &mut build.shared_rng(None), build)?;
        Ok(Shared::of(PromptRows::Rows(vectors)))
    }

    fn owns(&self, param: &str) -> bool {
        param == PROMPT
    }
}

impl NeedsTokenizer for PeftPromptTuningConfig {
    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        self.with_start(self.tokenized(encode)?)
    }
}

/// AdapterHub inserts its prompt after the position embeddings: see [`PromptTuningConfig`](crate::PromptTuningConfig).
impl Codec<AdapterHub> for PeftPromptTuningConfig {}

impl Codec<Peft> for PeftPromptTuningConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        peft_file::read(PEFT_TYPE, stored).map(Self::stored)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        Ok(peft_file::write(PEFT_TYPE, self, sites, host))
    }

    fn shared_key(&self, _adapter: &str, param: &str) -> String {
        param.to_owned()
    }
}
