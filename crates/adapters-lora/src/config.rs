//! The configuration of LoRA, and its checks.

use adapters_core::target::{ModulePattern, ModuleTarget, pattern_value};
use adapters_core::{ConfigError, Error};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::compat::LoraWire;
use crate::inject::Lora;
use crate::places::{LoraTarget, Places};
use crate::variants::Variant;

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
/// | `bias` | none | which biases of the base train along | |
/// | `up_bias` | false | whether B has a bias of its own: `s (B A x + c)` | |
/// | `modules_to_save` | none | modules trained as a whole, copied | |
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
    /// Which biases of the base train along.
    pub bias: BiasTraining,
    /// Whether B has a bias of its own.
    pub up_bias: bool,
    /// Names of modules trained as a whole.
    pub modules_to_save: Option<ModulePattern>,
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
    RankStabilized,
    /// A learned gate in place of a constant: the mean over all positions (padding included, as in the reference)
    /// of `sigmoid(w x + c)`. UniPELT, Mao et al., 2022, <https://arxiv.org/abs/2110.07577>.
    Gated,
}

/// Which biases of the base train along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasTraining {
    /// None.
    #[default]
    None,
    /// Those of the adapted layers.
    LoraOnly,
    /// Those of every linear layer and normalization.
    All,
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
    /// A and B uniform in `+-sqrt(6 / fan_in)` (Kaiming), as VeRA's frozen matrices.
    Vera,
    /// A normal with standard deviation `1 / r`, B zero.
    Gaussian,
    /// The `r` largest singular triplets of the weight, taken out of it: *PiSSA: Principal Singular Values and Singular
    /// Vectors Adaptation of Large Language Models*, Meng et al., 2024, <https://arxiv.org/abs/2404.02948>.
    Pissa,
    /// The first `r` columns and rows of the weight's QR decomposition, taken out of it: *OLoRA: Orthonormal Low-Rank
    /// Adaptation of Large Language Models*, Büyükakyüz, 2024, <https://arxiv.org/abs/2406.01775>.
    Olora,
}

impl Init {
    /// Whether the initial product is taken out of the frozen weight, so that a new adapter is the identity.
    pub fn takes_from_base(self) -> bool {
        matches!(self, Self::Pissa | Self::Olora)
    }
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
            bias: BiasTraining::None,
            up_bias: false,
            modules_to_save: None,
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
    /// [`ConfigError::OutOfRange`] naming the first field outside its range.
    pub fn check(self) -> Result<Lora, ConfigError> {
        Variant::Lora(self).check()
    }

    /// Refuses the first field outside its range.
    pub(crate) fn check_fields(&self) -> Result<(), ConfigError> {
        ConfigError::unless(self.rank > 0, "r", "at least 1", self.rank)?;
        ConfigError::unless(self.alpha.is_finite(), "alpha", "a finite number", self.alpha)?;
        check_dropout(self.dropout)?;
        let zero = self.rank_pattern.iter().find(|(_, r)| **r == 0);
        ConfigError::unless(
            zero.is_none(),
            "rank_pattern",
            "ranks of at least 1",
            zero.map_or(String::new(), |(path, _)| format!("0 for `{path}`")),
        )?;
        let endless = self.alpha_pattern.iter().find(|(_, a)| !a.is_finite());
        ConfigError::unless(
            endless.is_none(),
            "alpha_pattern",
            "finite numbers",
            endless.map_or(String::new(), |(path, alpha)| format!("{alpha} for `{path}`")),
        )?;
        ConfigError::unless(
            !matches!(self.init, Init::Ia3),
            "init_weights",
            "an initialization of a low-rank product",
            "ia3",
        )?;
        self.target.check()
    }

    /// Rank and scale at a path.
    ///
    /// # Errors
    ///
    /// [`Error::TargetPattern`] for a pattern that is not a regular expression.
    pub(crate) fn rank_and_scale(&self, path: &str) -> Result<(usize, f64), Error> {
        let ranks = self.rank_pattern.iter().map(|(k, v)| (k.as_str(), *v));
        let alphas = self.alpha_pattern.iter().map(|(k, v)| (k.as_str(), *v));
        let rank = pattern_value(ranks, path)?.unwrap_or(self.rank);
        let alpha = pattern_value(alphas, path)?.unwrap_or(self.alpha);
        let scale = match self.scaling {
            Scaling::Standard | Scaling::Gated => alpha / rank as f64,
            Scaling::RankStabilized => alpha / (rank as f64).sqrt(),
        };
        Ok((rank, scale))
    }
}

pub(crate) fn check_dropout(dropout: f64) -> Result<(), ConfigError> {
    ConfigError::unless((0.0..1.0).contains(&dropout), "dropout", "0 <= dropout < 1", dropout)
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

    #[test]
    fn the_scale_follows_patterns_and_rslora() {
        let mut config = LoraConfig::new(4).with_alpha(8.0);
        config.rank_pattern.insert("query".into(), 16);
        config.alpha_pattern.insert("value".into(), 2.0);
        let lora = &config;
        assert_eq!(lora.rank_and_scale("a.query").unwrap(), (16, 0.5));
        assert_eq!(lora.rank_and_scale("a.value").unwrap(), (4, 0.5));
        let lora = config.with_scaling(Scaling::RankStabilized);
        assert_eq!(lora.rank_and_scale("a.key").unwrap(), (4, 4.0));
    }
}
