//! What prompt tuning and P-tuning have in common as peft defines them: virtual tokens in front of the text.

use adapters_core::target::Target;
use adapters_core::{
    ConfigError, EditsEmbeddings, Erased, Error, Host, Inserted, Method, Role, SiteInfo, SiteKind, SiteLayer,
};
use serde::{Deserialize, Serialize};

use crate::layer::VirtualTokensLayer;

/// Name of the vectors, in files too.
pub(crate) const PROMPT: &str = "prompt_embeddings";

/// How many virtual tokens there are, and for which kind of model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VirtualTokens {
    /// Rows in front of the text, at least 1. Default 20.
    pub num_virtual_tokens: usize,
    /// Stacks of the model that a file has rows for: 2 in peft's files for an encoder-decoder model, whose second half of
    /// the rows is never read. Default 1.
    pub num_transformer_submodules: usize,
    /// Peft's kind of model, e.g. `CAUSAL_LM`. Default `FEATURE_EXTRACTION`.
    pub task_type: Option<String>,
}

impl Default for VirtualTokens {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            num_transformer_submodules: 1,
            task_type: None,
        }
    }
}

impl VirtualTokens {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        at_least_one("num_virtual_tokens", self.num_virtual_tokens)?;
        let submodules = self.num_transformer_submodules;
        let fits = (1..=2).contains(&submodules);
        ConfigError::unless(fits, "num_transformer_submodules", "1 or 2", submodules)
    }

    /// Of an encoder-decoder model the encoder alone, as in peft, which stores rows for the decoder and never reads them.
    pub(crate) fn target() -> Target {
        Target::First(Role::EmbeddedTokens)
    }

    /// The layer of method `M`.
    pub(crate) fn layer<M: Method>(&self, site: &SiteInfo) -> Result<SiteLayer, Error> {
        match site.kind {
            SiteKind::Embedding { .. } => Ok(SiteLayer::Embedding(Erased::new(VirtualTokensLayer {
                rows: self.num_virtual_tokens,
            }))),
            _ => Err(M::refuse(site, "it adapts the rows of the token table only")),
        }
    }

    /// Rows and width of the parameter for a model; `None` for one without token embeddings.
    pub(crate) fn shape(&self, host: &dyn Host) -> Result<Option<[usize; 2]>, Error> {
        let rows = self.num_virtual_tokens * self.num_transformer_submodules;
        let width = embedding_width(&Self::target().select(host)?.sites);
        Ok(width.map(|width| [rows, width]))
    }
}

impl EditsEmbeddings for VirtualTokens {
    fn inserts(&self) -> Option<Inserted> {
        let count = self.num_virtual_tokens;
        Some(Inserted { at: 0, count })
    }

    fn positions(&self) -> usize {
        self.num_virtual_tokens
    }
}

/// Width of the embeddings at the first of these sites that has any.
pub(crate) fn embedding_width<'a>(sites: impl IntoIterator<Item = &'a SiteInfo>) -> Option<usize> {
    sites.into_iter().find_map(|info| match info.kind {
        SiteKind::Embedding { d_model } => Some(d_model),
        _ => None,
    })
}

/// Refuses zero.
pub(crate) fn at_least_one(field: &'static str, value: usize) -> Result<(), ConfigError> {
    ConfigError::unless(value >= 1, field, "a number of at least 1", value)
}
