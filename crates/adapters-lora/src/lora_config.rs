//! The configuration of LoRA, which its variants build on.

use std::sync::Arc;

use adapters_core::target::{ModulePattern, ModuleTarget, Target, pattern_value};
use adapters_core::{ConfigError, Error, SiteInfo, Tensors};
use burn::tensor::TensorData;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dtype::Dtype;
use crate::init::{CordaMethod, GaDirection, GaScale, Init, StartValues};
use crate::scaling::Scaling;
use crate::target::{LayerRoles, LoraTarget};

/// Low-rank adaptation: `y = W x + b + s (B A dropout(x) + c)`, on an embedding table `y_i = W_i + s B A_i`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `rank` (`r`) | 8 | width of the bottleneck between A and B | >= 1 |
/// | `alpha` | 8 | numerator of the scale `s` | finite |
/// | `scaling` (`use_rslora`, `use_gating`) | [`Standard`](Scaling::Standard) | how `alpha` and `rank` make `s` | |
/// | `dropout` | 0 | dropout on the input of A, in training | `0 <= p < 1` |
/// | `target` (`attn_matrices`, .., or `target_modules`, ..) | query and value of self-attention | which layers are adapted | |
/// | `init` (`init_weights`) | [`Lora`](Init::Lora) | initial values of A and B | |
/// | `eva_rho` | 2 | with [`Eva`](Init::Eva), how many times its rank a layer may get | >= 1 |
/// | `corda_method` | `ipm` | with [`Corda`](Init::Corda), the part of the weight | |
/// | `ga_direction` | `ArB2r` | with [`LoraGa`](Init::LoraGa), which directions of the gradient A and B get | |
/// | `ga_scale` | `stable` | with [`LoraGa`](Init::LoraGa), how large B begins | |
/// | `ga_gamma` | 16 | with [`Stable`](GaScale::Stable), the divisor | > 0 |
/// | `bias` | none | which biases of the base train along | |
/// | `up_bias` (`lora_bias`) | false | whether B has a bias `c` | |
/// | `modules_to_save` | none | modules trained as a whole, in copies | |
/// | `target_parameters` | none | bare parameters, and weights of linear layers, that are adapted besides | |
/// | `ensure_weight_tying` | false | whether what adapts an embedding table adapts a head whose weight it is alike | |
/// | `rank_pattern` | empty | ranks by module path | >= 1 |
/// | `alpha_pattern` | empty | alphas by module path | finite |
/// | `seed` (`init_weights_seed`) | none | seed of the initial values, before the run's own | |
/// | `dtype` | none | element type of A and B, else the device's default | |
///
/// Names in parentheses are those of config strings and files.
///
/// Paper: *LoRA: Low-Rank Adaptation of Large Language Models*, Hu et al., 2021, <https://arxiv.org/abs/2106.09685>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraConfig {
    /// Width of the bottleneck between A and B.
    #[serde(rename = "r")]
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Which layers are adapted.
    #[serde(flatten)]
    pub target: LoraTarget,
    /// Dropout probability on the input of A, in training.
    pub dropout: f64,
    /// Initial values.
    #[serde(rename = "init_weights")]
    pub init: Init,
    /// How many times its rank a layer may get from [`Init::Eva`].
    pub eva_rho: f64,
    /// Which part of the weight [`Init::Corda`] begins with.
    pub corda_method: CordaMethod,
    /// Which directions of the gradient A and B get from [`Init::LoraGa`].
    pub ga_direction: GaDirection,
    /// How large B begins with [`Init::LoraGa`].
    pub ga_scale: GaScale,
    /// The divisor of [`GaScale::Stable`].
    pub ga_gamma: f64,
    /// What follows from data, once it was computed; in no configuration.
    #[serde(skip)]
    pub start: Option<Arc<StartValues>>,
    /// Seed of the initial values; without it the run's.
    #[serde(rename = "init_weights_seed")]
    pub seed: Option<u64>,
    /// How `alpha` and `rank` make the scale.
    #[serde(flatten)]
    pub scaling: Scaling,
    /// Element type of A and B; without it the device's default.
    pub dtype: Option<Dtype>,
    /// Ranks by module path: the first key that matches the end of a path as a regular expression.
    pub rank_pattern: IndexMap<String, usize>,
    /// Alphas by module path, like `rank_pattern`.
    pub alpha_pattern: IndexMap<String, f64>,
    /// Which biases of the base train along.
    pub bias: BiasTraining,
    /// Whether B has a bias of its own.
    #[serde(rename = "lora_bias")]
    pub up_bias: bool,
    /// Names of modules trained as a whole.
    pub modules_to_save: Option<ModulePattern>,
    /// Ends of the paths of parameters that are adapted: those of experts that have no modules of their own, and weights of
    /// linear layers. There is no dropout on what they read.
    pub target_parameters: Option<Vec<String>>,
    /// Whether an embedding table and a head whose weight it is are adapted alike: A of the one is B of the other, and a copy is
    /// one for both. Nothing where the head has a weight of its own, nor, as in the reference, unless the last component of a name of
    /// `target_modules` or `modules_to_save` is `embed_tokens` or `lm_head`.
    pub ensure_weight_tying: bool,
    /// The ranges of layers that the model was made of before it was adapted, where some are used several times; none for any
    /// model. A file of an adapter of such a model has them.
    pub layer_replication: Option<Vec<[usize; 2]>>,
    /// Fields of a file this version does not know, kept and written back.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
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
            target: LoraTarget::Roles(LayerRoles::default()),
            init: Init::Lora,
            eva_rho: 2.0,
            corda_method: CordaMethod::Ipm,
            ga_direction: GaDirection::ArB2r,
            ga_scale: GaScale::Stable,
            ga_gamma: 16.0,
            start: None,
            bias: BiasTraining::None,
            up_bias: false,
            modules_to_save: None,
            target_parameters: None,
            ensure_weight_tying: false,
            layer_replication: None,
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

    /// Adapts projections of the transformer layers by role.
    #[must_use]
    pub fn with_roles(mut self, roles: LayerRoles) -> Self {
        self.target = LoraTarget::Roles(roles);
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

    /// Refuses the first field outside its range.
    pub(crate) fn check_fields(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.rank)?;
        ConfigError::finite("alpha", self.alpha)?;
        ConfigError::probability("dropout", self.dropout)?;
        let mut ranks = self.rank_pattern.values();
        ranks.try_for_each(|rank| ConfigError::size("rank_pattern", *rank))?;
        let mut alphas = self.alpha_pattern.values();
        alphas.try_for_each(|alpha| ConfigError::finite("alpha_pattern", *alpha))?;
        ConfigError::unless(
            !matches!(self.init, Init::Ia3),
            "init_weights",
            "an initialization for low-rank matrices",
            "ia3",
        )?;
        let rho = self.eva_rho;
        ConfigError::unless(rho >= 1.0 && rho.is_finite(), "eva_rho", "at least 1", rho)?;
        let gamma = self.ga_gamma;
        ConfigError::unless(gamma > 0.0 && gamma.is_finite(), "ga_gamma", "above 0", gamma)?;
        self.target.check()
    }

    /// [`check_for_variant`](Self::check_for_variant) for a variant that only peft has, whose files have neither gate nor type.
    pub(crate) fn check_for_peft_variant(&self) -> Result<(), ConfigError> {
        let gated = self.scaling == Scaling::Gated;
        ConfigError::unless(!gated, "use_gating", "false with a variant of LoRA", true)?;
        let typed = self.dtype.is_some();
        ConfigError::unless(!typed, "dtype", "none with a variant of LoRA", "a type")?;
        self.check_for_variant()
    }

    /// Refuses what only plain LoRA and DoRA compute, and the first field outside its range.
    pub(crate) fn check_for_variant(&self) -> Result<(), ConfigError> {
        let unsupported = |field, found: String| Err(ConfigError::Unsupported { field, found });
        if self.bias != BiasTraining::None {
            return unsupported("bias", format!("{:?} with a variant of LoRA", self.bias));
        }
        if self.modules_to_save.is_some() {
            return unsupported("modules_to_save", "set with a variant of LoRA".to_owned());
        }
        if self.ensure_weight_tying {
            return unsupported("ensure_weight_tying", "true with a variant of LoRA".to_owned());
        }
        self.check_for_dora()
    }

    /// Refuses what only plain LoRA computes, and the first field outside its range.
    pub(crate) fn check_for_dora(&self) -> Result<(), ConfigError> {
        self.check_fields()?;
        let unsupported = |field, found: String| Err(ConfigError::Unsupported { field, found });
        if self.up_bias {
            return unsupported("lora_bias", "true with a variant of LoRA".to_owned());
        }
        if self.parameters().is_some() {
            return unsupported("target_parameters", "set with a variant of LoRA".to_owned());
        }
        if self.layer_replication.is_some() {
            return unsupported("layer_replication", "set with a variant of LoRA".to_owned());
        }
        if self.ties_updates() {
            return unsupported("ensure_weight_tying", "true with a variant of LoRA".to_owned());
        }
        if self.init.is_computed() {
            return unsupported("init_weights", format!("{:?} with a variant of LoRA", self.init));
        }
        Ok(())
    }

    /// Rank and scale at a path.
    ///
    /// # Errors
    ///
    /// [`Error::TargetPattern`] for a pattern that is not a regular expression.
    pub(crate) fn rank_and_scale(&self, path: &str) -> Result<(usize, f64), Error> {
        let ranks = self.rank_pattern.iter().map(|(k, v)| (k.as_str(), *v));
        let rank = pattern_value(ranks, path)?.unwrap_or(self.rank);
        Ok((rank, self.scaling.scale(self.alpha_at(path)?, rank)))
    }

    /// Alpha at a path.
    pub(crate) fn alpha_at(&self, path: &str) -> Result<f64, Error> {
        let alphas = self.alpha_pattern.iter().map(|(k, v)| (k.as_str(), *v));
        Ok(pattern_value(alphas, path)?.unwrap_or(self.alpha))
    }

    /// Modules trained as a whole.
    pub(crate) fn saved_modules(&self) -> Option<Target> {
        let copied = match self.modules_to_save.clone()? {
            ModulePattern::Names(names) => Target::Endings(names),
            modules => Target::Modules(ModuleTarget::new(modules)),
        };
        Some(tied_if(self.ties_copies(), copied))
    }

    /// The modules with a low-rank update.
    pub(crate) fn updated_modules(&self) -> Target {
        tied_if(self.ties_updates(), self.target.to_target())
    }

    /// Whether a copy of a table is one for its head, too. As in the reference, that takes a name of table or head among those of
    /// the modules.
    pub(crate) fn ties_copies(&self) -> bool {
        self.ensure_weight_tying && self.modules_to_save.as_ref().is_some_and(names_table_or_head)
    }

    /// The configuration that names the head, if a file with these tensors has it tied to the table: with updates of its own, or the
    /// table's copy again.
    pub(crate) fn with_tied_head(&self, tensors: &Tensors) -> Option<Self> {
        let (has_update, mut config) = (tensors.keys().any(|key| key.contains("lm_head.lora_A")), self.clone());
        let head = tensors.iter().find(|(key, _)| key.ends_with("lm_head.weight"));
        let is_copy = |(key, data): (&String, &TensorData)| {
            let is_other = head.is_some_and(|(own, weight)| own != key && weight == data);
            is_other && !key.contains("original_module")
        };
        let modules = match (&mut config.modules_to_save, &mut config.target) {
            (Some(modules), _) if tensors.iter().any(is_copy) => modules,
            (None, LoraTarget::Modules(target)) if has_update => &mut target.modules,
            _ => return None,
        };
        let ModulePattern::Names(names) = modules else {
            return None;
        };
        names.push("lm_head".to_owned());
        Some(config)
    }

    /// The same of low-rank updates. What is copied and what is updated is not tied both: as in the reference, copies are.
    pub(crate) fn ties_updates(&self) -> bool {
        let named = match &self.target {
            LoraTarget::Modules(target) => names_table_or_head(&target.modules),
            LoraTarget::Roles(_) => false,
        };
        self.ensure_weight_tying && named && !self.ties_copies()
    }

    /// Parameters that are adapted besides.
    pub(crate) fn parameters(&self) -> Option<Target> {
        let names = self.target_parameters.clone().filter(|names| !names.is_empty());
        names.map(Target::Parameters)
    }

    /// Whether the site is adapted as a parameter, and not as a module.
    pub(crate) fn adapts_parameter(&self, site: &SiteInfo) -> Result<bool, Error> {
        self.parameters().map_or(Ok(false), |target| target.covers(site))
    }
}

/// The target, with tables and the heads whose weights they are together if that is so.
fn tied_if(is_tied: bool, target: Target) -> Target {
    match is_tied {
        true => Target::Tied(Box::new(target)),
        false => target,
    }
}

/// Whether modules are named that the reference takes for a token table or its head.
fn names_table_or_head(modules: &ModulePattern) -> bool {
    const KNOWN: [&str; 2] = ["embed_tokens", "lm_head"];
    match modules {
        ModulePattern::AllLinear => false,
        ModulePattern::Names(names) => {
            let last = |name: &String| name.rsplit('.').next().is_some_and(|last| KNOWN.contains(&last));
            names.iter().any(last)
        }
        ModulePattern::Regex(_) => KNOWN.iter().any(|known| modules.matches(known).unwrap_or(false)),
    }
}
