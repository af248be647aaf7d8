//! The configuration of LoRA, and its checks.

use adapters_core::Role;
use adapters_core::target::{ModulePattern, ModuleTarget};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::compat::LoraWire;
use crate::error::LoraError;
use crate::inject::Lora;

/// Low-rank adaptation of linear layers: `y = W x + b + s B A dropout(x)`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `rank` | 8 | width of the bottleneck between A and B | >= 1 |
/// | `alpha` | 8 | numerator of the scale `s` | finite |
/// | `scaling` | [`Standard`](Scaling::Standard) | how `alpha` and `rank` make `s` | |
/// | `dropout` | 0 | dropout on the input of A, in training | `0 <= p < 1` |
/// | `target` | query and value of self-attention | which layers are adapted | |
/// | `init` | [`Lora`](Init::Lora) | initial values of A and B | |
/// | `mode` | [`Add`](Mode::Add) | whether the delta is added or the output scaled | `Scale` needs rank 1 |
/// | `rank_pattern` | empty | ranks by module path | >= 1 |
/// | `alpha_pattern` | empty | alphas by module path | finite |
/// | `seed` | none | seed of the initial values, before the run's own | |
/// | `dtype` | none | element type of A and B, else the device's default | |
///
/// Paper: *LoRA: Low-Rank Adaptation of Large Language Models*, Hu et al., 2021, <https://arxiv.org/abs/2106.09685>.
///
/// In files the fields have the reference's names; see [`LoraWire`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "LoraWire", into = "LoraWire")]
pub struct LoraConfig {
    /// Width of the bottleneck between A and B.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// How `alpha` and `rank` make the scale.
    pub scaling: Scaling,
    /// Dropout probability on the input of A, in training.
    pub dropout: f64,
    /// Which layers are adapted.
    pub target: LoraTarget,
    /// Initial values.
    pub init: Init,
    /// Whether the delta is added or the output scaled.
    pub mode: Mode,
    /// Ranks by module path: the first key that matches the end of a path as a regular expression.
    pub rank_pattern: IndexMap<String, usize>,
    /// Alphas by module path, like `rank_pattern`.
    pub alpha_pattern: IndexMap<String, f64>,
    /// Seed of the initial values; without it the run's.
    pub seed: Option<u64>,
    /// Element type of A and B; without it the device's default.
    pub dtype: Option<Dtype>,
    /// Fields of a file this version does not know, kept and written back.
    pub extra: Map<String, Value>,
}

/// How the scale `s` of the delta is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scaling {
    /// `alpha / rank`.
    #[default]
    Standard,
    /// `alpha / sqrt(rank)`: *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, Kalajdzievski, 2023,
    /// <https://arxiv.org/abs/2312.03732>.
    RankStabilised,
    /// A learned gate in place of a constant: the mean over all positions (padding included, as in the reference)
    /// of `sigmoid(w x + c)`. UniPELT, Mao et al., 2022, <https://arxiv.org/abs/2110.07577>.
    Gated,
}

/// Whether LoRA adds to the output or scales it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `W x + b + s B A x`.
    #[default]
    Add,
    /// `(W x + b) * (l alpha)` with a learned vector `l`; needs rank 1. *Few-Shot Parameter-Efficient Fine-Tuning is
    /// Better and Cheaper than In-Context Learning*, Liu et al., 2022, <https://arxiv.org/abs/2205.05638>.
    Scale,
}

/// Initial values of A and B, under the reference's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// A uniform in `+-1/sqrt(d_in)` (Kaiming, a = sqrt 5), B zero: the adapter begins as the identity.
    #[default]
    Lora,
    /// A and B normal with standard deviation 0.02.
    Bert,
    /// Ones.
    Ia3,
}

/// Element type of the adapter's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits.
    Float32,
    /// 16 bits, IEEE.
    Float16,
    /// 16 bits, brain float.
    Bfloat16,
}

/// Which layers LoRA adapts.
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

impl Default for LoraConfig {
    fn default() -> Self {
        Self::new(8)
    }
}

impl LoraConfig {
    /// LoRA of `rank` on query and value, with the reference's defaults.
    pub fn new(rank: usize) -> Self {
        Self {
            rank,
            alpha: 8.0,
            scaling: Scaling::Standard,
            dropout: 0.0,
            target: LoraTarget::Places(Places::default()),
            init: Init::Lora,
            mode: Mode::Add,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            seed: None,
            dtype: None,
            extra: Map::new(),
        }
    }

    /// Sets `alpha`.
    #[must_use]
    pub fn with_alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Sets how the scale is made.
    #[must_use]
    pub fn with_scaling(mut self, scaling: Scaling) -> Self {
        self.scaling = scaling;
        self
    }

    /// Sets the dropout probability.
    #[must_use]
    pub fn with_dropout(mut self, dropout: f64) -> Self {
        self.dropout = dropout;
        self
    }

    /// Adapts places in the transformer layers.
    #[must_use]
    pub fn with_places(mut self, places: Places) -> Self {
        self.target = LoraTarget::Places(places);
        self
    }

    /// Adapts the modules whose path ends in one of `names`.
    #[must_use]
    pub fn with_modules<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        self.target = LoraTarget::Modules(ModuleTarget::new(ModulePattern::Names(names)));
        self
    }

    /// Adapts every linear layer.
    #[must_use]
    pub fn with_all_linear(mut self) -> Self {
        self.target = LoraTarget::Modules(ModuleTarget::new(ModulePattern::AllLinear));
        self
    }

    /// Sets the initial values.
    #[must_use]
    pub fn with_init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// Sets the seed of the initial values.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The checked form, which can be attached.
    ///
    /// # Errors
    ///
    /// [`LoraError::OutOfRange`] naming the first field outside its range.
    pub fn check(self) -> Result<Lora, LoraError> {
        let out_of_range = |field, expected, found: String| Err(LoraError::OutOfRange { field, expected, found });
        if self.rank == 0 {
            return out_of_range("r", "at least 1", self.rank.to_string());
        }
        if !self.alpha.is_finite() {
            return out_of_range("alpha", "a finite number", self.alpha.to_string());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return out_of_range("dropout", "0 <= dropout < 1", self.dropout.to_string());
        }
        if let Some((path, _)) = self.rank_pattern.iter().find(|(_, r)| **r == 0) {
            return out_of_range("rank_pattern", "ranks of at least 1", format!("0 for `{path}`"));
        }
        if let Some((path, alpha)) = self.alpha_pattern.iter().find(|(_, a)| !a.is_finite()) {
            return out_of_range("alpha_pattern", "finite numbers", format!("{alpha} for `{path}`"));
        }
        if let LoraTarget::Places(places) = &self.target
            && places.roles().is_empty()
        {
            return out_of_range(
                "attn_matrices, selfattn_lora, intermediate_lora, output_lora",
                "at least one place",
                "none".to_owned(),
            );
        }
        if self.mode == Mode::Scale {
            if self.rank != 1 || !self.rank_pattern.is_empty() {
                return out_of_range("r", "1 with composition_mode = \"scale\"", self.rank.to_string());
            }
            if self.dropout > 0.0 {
                return out_of_range(
                    "dropout",
                    "0 with composition_mode = \"scale\"",
                    self.dropout.to_string(),
                );
            }
        } else if self.init == Init::Ia3 {
            return out_of_range(
                "init_weights",
                "`lora` or `bert` with composition_mode = \"add\"",
                "ia3".to_owned(),
            );
        }
        Ok(Lora::from_checked(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_by_name() {
        for (config, field) in [
            (LoraConfig::new(0), "`r` is 0"),
            (LoraConfig::new(8).with_alpha(f64::NAN), "`alpha` is NaN"),
            (LoraConfig::new(8).with_dropout(1.0), "`dropout` is 1"),
            (LoraConfig::new(8).with_init(Init::Ia3), "`init_weights` is ia3"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        let none = Places {
            self_attention: false,
            ..Places::default()
        };
        assert!(LoraConfig::new(8).with_places(none).check().is_err());
    }
}
