//! Which layers the LoRA family adapts.

use adapters_core::target::{ModuleTarget, Target};
use adapters_core::{ConfigError, Role, SiteInfo};
use serde::{Deserialize, Serialize};

use crate::fused::FusedParts;

/// Which layers are adapted.
#[derive(Clone, Debug, PartialEq)]
pub enum LoraTarget {
    /// Places in a transformer layer, as AdapterHub names them.
    Places(Places),
    /// Modules by path, as peft names them.
    Modules(ModuleTarget),
}

/// Places in a transformer layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Matrices of self-attention.
    pub attention: Vec<AttentionMatrix>,
    /// Whether self-attention is adapted at all.
    pub self_attention: bool,
    /// The first projection of the feed-forward block.
    pub intermediate: bool,
    /// The second projection of the feed-forward block.
    pub output: bool,
    /// Layers left alone.
    pub leave_out: Vec<usize>,
}

/// A projection of self-attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttentionMatrix {
    /// Query.
    #[serde(rename = "q")]
    Query,
    /// Key.
    #[serde(rename = "k")]
    Key,
    /// Value.
    #[serde(rename = "v")]
    Value,
}

impl Default for Places {
    /// Query and value of self-attention, in every layer.
    fn default() -> Self {
        Self {
            attention: vec![AttentionMatrix::Query, AttentionMatrix::Value],
            self_attention: true,
            intermediate: false,
            output: false,
            leave_out: Vec::new(),
        }
    }
}

impl Places {
    /// The roles these places name.
    pub fn roles(&self) -> Vec<Role> {
        let attention = self.attention.iter().map(|m| match m {
            AttentionMatrix::Query => Role::Query,
            AttentionMatrix::Key => Role::Key,
            AttentionMatrix::Value => Role::Value,
        });
        let mut roles: Vec<Role> = if self.self_attention {
            attention.collect()
        } else {
            Vec::new()
        };
        roles.extend(self.intermediate.then_some(Role::FfnUp));
        roles.extend(self.output.then_some(Role::FfnDown));
        roles
    }
}

impl LoraTarget {
    /// The parts of a fused projection that places name. Modules named by path are adapted as a whole.
    pub(crate) fn parts(&self, site: &SiteInfo) -> Option<FusedParts> {
        match self {
            Self::Places(places) => FusedParts::of(site, &places.roles()),
            Self::Modules(_) => None,
        }
    }

    /// Input and output features of what is adapted at a linear site.
    pub(crate) fn dims(&self, site: &SiteInfo) -> Option<(usize, usize)> {
        let (d_in, d_out) = site.linear_dims()?;
        Some((d_in, self.parts(site).map_or(d_out, |parts| parts.features())))
    }

    /// The target as core knows it.
    pub(crate) fn to_target(&self) -> Target {
        match self {
            Self::Places(places) => Target::Roles {
                roles: places.roles(),
                leave_out: places.leave_out.clone(),
            },
            Self::Modules(modules) => Target::Modules(modules.clone()),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let any = match self {
            Self::Places(places) => !places.roles().is_empty(),
            Self::Modules(_) => true,
        };
        ConfigError::unless(
            any,
            "attn_matrices, selfattn_lora, intermediate_lora, output_lora",
            "at least one place",
            "none",
        )
    }
}
