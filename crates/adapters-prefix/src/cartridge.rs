//! Cartridges: a cache of keys and values that trains, as peft stores it.

use adapters_core::config::from_fields;
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AnyMethod, Attached, Build, Capabilities, Codec, ConfigError, ConvertsForStorage, EditsEmbeddings,
    Error, Format, Host, Method, Peft, Shared, SharedParameters, SiteInfo, SiteLayer, StoredConfig, Tensors,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::prefix_tuning::{Definition, PrefixTuningConfig};
use crate::vectors::{FLAT_PEFT, SharedVectors, TRAINED};

/// A cartridge: keys and values of a long text, distilled into a few that train. It computes what
/// [`PrefixTuningConfig`] with peft's definition and `flat` computes, and the first of its vectors are never trained.
///
/// *Cartridges: Lightweight and General-Purpose Long Context Representations via Self-Study*, Eyuboglu et al., 2025,
/// <https://arxiv.org/abs/2506.06266>, as peft 0.21.2 computes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CartridgeConfig {
    /// Vectors in each layer, at least 1. Default 30.
    pub num_virtual_tokens: usize,
    /// How many of them are never trained, fewer than all. Default 1.
    pub num_frozen_tokens: usize,
    /// Whether the vectors are one matrix, as a file holds them; in no file.
    #[serde(skip)]
    pub one_matrix: bool,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

const PEFT_TYPE: &str = "CARTRIDGE";
/// The field that is this method's own.
const FROZEN: &str = "num_frozen_tokens";

impl Default for CartridgeConfig {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 30,
            num_frozen_tokens: 1,
            one_matrix: false,
            extra: Map::new(),
        }
    }
}

impl CartridgeConfig {
    /// The prefix that it is.
    fn prefix(&self) -> PrefixTuningConfig {
        PrefixTuningConfig {
            definition: Definition::Peft,
            prefix_length: self.num_virtual_tokens,
            extra: self.extra.clone(),
            ..PrefixTuningConfig::prefix_tuning_flat()
        }
    }

    /// The adapter with its vectors as one matrix, or in two parts.
    fn rearranged(&self, adapter: &Attached, one_matrix: bool) -> Option<Attached> {
        let shared: &SharedVectors = adapter.shared().get()?;
        let stacks = shared.stacks.iter().map(|stack| match one_matrix {
            true => stack.joined(),
            false => stack.split(self.num_frozen_tokens),
        });
        let method = AnyMethod::new(Self {
            one_matrix,
            ..self.clone()
        });
        let rearranged = adapter.reformed(method.ok()?, adapter.layers().cloned().collect());
        Some(rearranged.with_shared(Shared::of(SharedVectors {
            stacks: stacks.collect(),
        })))
    }
}

impl Method for CartridgeConfig {
    const NAME: &'static str = "cartridge";
    const DESCRIPTION: &'static str = "A trained cache of keys and values in front of the text, as PEFT stores it.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("num_virtual_tokens", self.num_virtual_tokens)?;
        let fits = self.num_frozen_tokens < self.num_virtual_tokens;
        ConfigError::unless(fits, FROZEN, "fewer than `num_virtual_tokens`", self.num_frozen_tokens)
    }

    fn target(&self) -> Target {
        Method::target(&self.prefix())
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        Method::build(&self.prefix(), site, build)
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            embeddings: Some(self),
            storage: Some(self),
            ..Capabilities::default()
        }
    }
}

impl SharedParameters for CartridgeConfig {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let mut rng = build.shared_rng(None);
        let vectors = self.prefix().vectors(build.host)?;
        let stacks = vectors.iter().map(|vectors| {
            let drawn = vectors.draw(&mut rng, build.device);
            match self.one_matrix {
                true => drawn,
                false => drawn.split(self.num_frozen_tokens),
            }
        });
        Ok(Shared::of(SharedVectors {
            stacks: stacks.collect(),
        }))
    }

    fn owns(&self, param: &str) -> bool {
        self.prefix().owns(param)
    }
}

/// The tokens' positions begin after the vectors.
impl EditsEmbeddings for CartridgeConfig {
    fn first_position(&self) -> usize {
        self.num_virtual_tokens
    }

    fn positions(&self) -> usize {
        self.num_virtual_tokens
    }
}

/// A file holds one matrix.
impl ConvertsForStorage for CartridgeConfig {
    fn to_storage(&self, _format: Format, adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        Ok(self.rearranged(adapter, true).filter(|_| !self.one_matrix))
    }

    fn restored(&self, adapter: &Attached) -> Option<Attached> {
        self.rearranged(adapter, false).filter(|_| self.one_matrix)
    }
}

impl Codec<AdapterHub> for CartridgeConfig {}

impl Codec<Peft> for CartridgeConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        stored.peft_fields(PEFT_TYPE).map(|mut fields| {
            // What describes the model is found in the model.
            for field in ["num_layers", "num_attention_heads", "token_dim"] {
                fields.shift_remove(field);
            }
            let config: Self = from_fields(fields)?;
            Ok(Self {
                one_matrix: true,
                ..config
            })
        })
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = Codec::<Peft>::write(&self.prefix(), sites, host)?;
        fields.insert("peft_type".to_owned(), PEFT_TYPE.into());
        fields.insert(FROZEN.to_owned(), self.num_frozen_tokens.into());
        for of_prefix in ["prefix_projection", "encoder_hidden_size"] {
            fields.shift_remove(of_prefix);
        }
        Ok(fields)
    }

    fn shared_key(&self, _adapter: &str, param: &str) -> String {
        param.to_owned()
    }

    /// The matrix is not read where its parts are.
    fn is_duplicate(&self, key: &str) -> bool {
        key == FLAT_PEFT && !self.one_matrix
    }

    /// A file that holds the parts, too.
    fn adjusted_to(&self, tensors: &Tensors) -> Option<Self> {
        tensors.contains_key(TRAINED).then(|| Self {
            one_matrix: false,
            ..self.clone()
        })
    }
}
