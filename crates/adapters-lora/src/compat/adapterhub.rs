//! AdapterHub's `LoRAConfig`, which has one class for the whole family.

use std::collections::BTreeSet;

use adapters_core::target::{ModulePattern, ModuleTarget};
use adapters_core::{ConfigError, Format, Host, Role, SiteInfo};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{BiasTraining, Dtype, Init, LoraConfig, Scaling};
use crate::places::{AttentionMatrix, LoraTarget, Places};
use crate::variants::{
    DoraConfig, DoraForm, Ia3Config, MtlLoraConfig, Projection, TaskMatrix, Variant, VeraConfig, VeraForm,
};

/// AdapterHub's `LoRAConfig`, field for field, and after it the fields we add for what it has no word for.
///
/// This is also the form of recipes and config strings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraWire {
    /// `lora` or `mtl_lora`.
    pub architecture: String,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Matrices of self-attention: `q`, `k`, `v`.
    pub attn_matrices: Vec<AttentionMatrix>,
    /// Adapt self-attention.
    pub selfattn_lora: bool,
    /// Adapt the first projection of the feed-forward block.
    pub intermediate_lora: bool,
    /// Adapt the second projection of the feed-forward block.
    pub output_lora: bool,
    /// Layers left alone.
    pub leave_out: Vec<usize>,
    /// `add` or `scale`.
    pub composition_mode: WireMode,
    /// Dropout probability.
    pub dropout: f64,
    /// Initial values.
    pub init_weights: Init,
    /// Seed of the initial values.
    pub init_weights_seed: Option<u64>,
    /// Gate in place of a constant scale.
    pub use_gating: bool,
    /// Element type.
    pub dtype: Option<Dtype>,
    /// DoRA.
    pub use_dora: bool,
    /// Initial value of VeRA's inner scaling; VeRA if set.
    pub vera_d: Option<f64>,
    /// Initial value of VeRA's outer scaling; VeRA if set.
    pub vera_b: Option<f64>,
    /// Ours: modules by path in place of the places above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<ModulePattern>,
    /// Ours: modules to leave alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<ModulePattern>,
    /// Ours: only these layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// Ours: ranks by module path.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub rank_pattern: IndexMap<String, usize>,
    /// Ours: alphas by module path.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub alpha_pattern: IndexMap<String, f64>,
    /// Ours: `alpha / sqrt(r)`.
    #[serde(skip_serializing_if = "is_default")]
    pub use_rslora: bool,
    /// Ours: `none`, `lora_only` or `all`.
    #[serde(skip_serializing_if = "is_default")]
    pub bias: BiasTraining,
    /// Ours: a bias of B.
    #[serde(skip_serializing_if = "is_default")]
    pub lora_bias: bool,
    /// Ours: modules trained as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules_to_save: Option<ModulePattern>,
    /// Ours: modules whose input (IA)3 scales.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feedforward_modules: Option<ModulePattern>,
    /// MTL-LoRA: number of B matrices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_up_projection: Option<usize>,
    /// MTL-LoRA: shape of the task's own matrix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_specific_matrix_type: Option<TaskMatrix>,
    /// MTL-LoRA: temperature of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_sharpness: Option<f64>,
    /// Fields this version does not know, kept and written back.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `composition_mode` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireMode {
    /// The delta is added.
    Add,
    /// The output is scaled.
    Scale,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for LoraWire {
    fn default() -> Self {
        Variant::Lora(LoraConfig::default()).into()
    }
}

/// The name of MTL-LoRA in files.
const MTL: &str = "mtl_lora";

impl TryFrom<LoraWire> for Variant {
    type Error = ConfigError;

    fn try_from(wire: LoraWire) -> Result<Self, ConfigError> {
        if ![MTL, "lora"].contains(&wire.architecture.as_str()) {
            return Err(ConfigError::Unsupported {
                field: "architecture",
                found: wire.architecture,
            });
        }
        if wire.composition_mode == WireMode::Scale {
            return ia3(wire).map(Self::Ia3);
        }
        if wire.feedforward_modules.is_some() {
            return Err(ConfigError::Unsupported {
                field: "feedforward_modules",
                found: "set with composition_mode = \"add\"".to_owned(),
            });
        }
        let vera = wire.vera_d.is_some() || wire.vera_b.is_some();
        let (d, b) = (wire.vera_d.unwrap_or(1.0), wire.vera_b.unwrap_or(1.0));
        let mtl = (
            wire.n_up_projection,
            wire.task_specific_matrix_type,
            wire.weights_sharpness,
        );
        let (is_mtl, use_dora) = (wire.architecture == MTL, wire.use_dora);
        let lora = low_rank(wire)?;
        let vera_config = |lora| VeraConfig {
            lora,
            d,
            b,
            form: VeraForm::Matrices,
            projection: Projection::Stored(0),
        };
        Ok(match (is_mtl, vera, use_dora) {
            (true, false, false) => {
                let default = MtlLoraConfig::default();
                Self::MtlLora(MtlLoraConfig {
                    lora,
                    up_projections: mtl.0.unwrap_or(default.up_projections),
                    matrix: mtl.1.unwrap_or(default.matrix),
                    sharpness: mtl.2.unwrap_or(default.sharpness),
                })
            }
            (true, ..) => {
                return Err(ConfigError::Unsupported {
                    field: "architecture",
                    found: "mtl_lora with use_dora, vera_d or vera_b".to_owned(),
                });
            }
            (false, true, false) => Self::Vera(vera_config(lora)),
            (false, true, true) => Self::Dvora(vera_config(lora)),
            (false, false, true) => Self::Dora(DoraConfig {
                lora,
                form: DoraForm::AdapterHub,
            }),
            (false, false, false) => Self::Lora(lora),
        })
    }
}

impl TryFrom<LoraWire> for LoraConfig {
    type Error = ConfigError;

    fn try_from(wire: LoraWire) -> Result<Self, ConfigError> {
        match Variant::try_from(wire)? {
            Variant::Lora(config) => Ok(config),
            other => Err(ConfigError::Unsupported {
                field: "architecture",
                found: format!("{}: it has a type of its own", other.identifier()),
            }),
        }
    }
}

impl From<LoraConfig> for LoraWire {
    fn from(config: LoraConfig) -> Self {
        Variant::Lora(config).into()
    }
}

fn target(wire: &mut LoraWire) -> LoraTarget {
    match wire.target_modules.take() {
        Some(modules) => LoraTarget::Modules(ModuleTarget {
            modules,
            exclude: wire.exclude_modules.take(),
            layers: wire.layers.take(),
        }),
        None => LoraTarget::Places(Places {
            attention: std::mem::take(&mut wire.attn_matrices),
            self_attention: wire.selfattn_lora,
            intermediate: wire.intermediate_lora,
            output: wire.output_lora,
            leave_out: std::mem::take(&mut wire.leave_out),
        }),
    }
}

fn low_rank(mut wire: LoraWire) -> Result<LoraConfig, ConfigError> {
    let scaling = match (wire.use_gating, wire.use_rslora) {
        (false, false) => Scaling::Standard,
        (false, true) => Scaling::RankStabilized,
        (true, false) => Scaling::Gated,
        (true, true) => {
            return Err(ConfigError::OutOfRange {
                field: "use_rslora",
                expected: "false with use_gating, which replaces the scale",
                found: "true".to_owned(),
            });
        }
    };
    Ok(LoraConfig {
        rank: wire.r,
        alpha: wire.alpha,
        scaling,
        dropout: wire.dropout,
        target: target(&mut wire),
        init: wire.init_weights,
        rank_pattern: wire.rank_pattern,
        alpha_pattern: wire.alpha_pattern,
        bias: wire.bias,
        up_bias: wire.lora_bias,
        modules_to_save: wire.modules_to_save,
        seed: wire.init_weights_seed,
        dtype: wire.dtype,
        extra: wire.extra,
    })
}

fn ia3(mut wire: LoraWire) -> Result<Ia3Config, ConfigError> {
    let scale = "with composition_mode = \"scale\"";
    let refuse = |field, found: &str| {
        Err(ConfigError::Unsupported {
            field,
            found: format!("{found} {scale}"),
        })
    };
    if wire.use_dora {
        return refuse("use_dora", "true");
    }
    if wire.use_rslora || wire.lora_bias || wire.modules_to_save.is_some() || wire.bias != BiasTraining::None {
        return refuse("use_rslora, lora_bias, modules_to_save, bias", "set");
    }
    ConfigError::unless(
        wire.r == 1 && wire.rank_pattern.is_empty(),
        "r",
        "1 with composition_mode = \"scale\"",
        wire.r,
    )?;
    ConfigError::unless(
        wire.dropout == 0.0,
        "dropout",
        "0 with composition_mode = \"scale\"",
        wire.dropout,
    )?;
    Ok(Ia3Config {
        alpha: wire.alpha,
        gated: wire.use_gating,
        target: target(&mut wire),
        feedforward: wire.feedforward_modules,
        init: wire.init_weights,
        seed: wire.init_weights_seed,
        dtype: wire.dtype,
        extra: wire.extra,
    })
}

impl From<Variant> for LoraWire {
    fn from(variant: Variant) -> Self {
        let mut wire = match variant.low_rank().cloned() {
            Some(lora) => from_low_rank(lora),
            None => from_low_rank(LoraConfig::default()),
        };
        match variant {
            Variant::Lora(_) => {}
            Variant::Dora(_) => wire.use_dora = true,
            Variant::Vera(config) => (wire.vera_d, wire.vera_b) = (Some(config.d), Some(config.b)),
            Variant::Dvora(config) => {
                wire.use_dora = true;
                (wire.vera_d, wire.vera_b) = (Some(config.d), Some(config.b));
            }
            Variant::MtlLora(config) => {
                wire.architecture = MTL.to_owned();
                wire.n_up_projection = Some(config.up_projections);
                wire.task_specific_matrix_type = Some(config.matrix);
                wire.weights_sharpness = Some(config.sharpness);
            }
            Variant::Ia3(config) => {
                wire = Self {
                    r: 1,
                    alpha: config.alpha,
                    composition_mode: WireMode::Scale,
                    init_weights: config.init,
                    init_weights_seed: config.seed,
                    use_gating: config.gated,
                    dtype: config.dtype,
                    feedforward_modules: config.feedforward,
                    extra: config.extra,
                    ..from_low_rank(LoraConfig {
                        target: config.target,
                        ..LoraConfig::default()
                    })
                };
            }
        }
        wire
    }
}

fn from_low_rank(config: LoraConfig) -> LoraWire {
    let (places, modules) = match config.target {
        LoraTarget::Places(places) => (places, None),
        LoraTarget::Modules(modules) => (Places::default(), Some(modules)),
    };
    let (target_modules, exclude_modules, layers) = match modules {
        Some(m) => (Some(m.modules), m.exclude, m.layers),
        None => (None, None, None),
    };
    LoraWire {
        architecture: "lora".to_owned(),
        r: config.rank,
        alpha: config.alpha,
        attn_matrices: places.attention,
        selfattn_lora: places.self_attention,
        intermediate_lora: places.intermediate,
        output_lora: places.output,
        leave_out: places.leave_out,
        composition_mode: WireMode::Add,
        dropout: config.dropout,
        init_weights: config.init,
        init_weights_seed: config.seed,
        use_gating: config.scaling == Scaling::Gated,
        dtype: config.dtype,
        use_dora: false,
        vera_d: None,
        vera_b: None,
        target_modules,
        exclude_modules,
        layers,
        rank_pattern: config.rank_pattern,
        alpha_pattern: config.alpha_pattern,
        use_rslora: config.scaling == Scaling::RankStabilized,
        bias: config.bias,
        lora_bias: config.up_bias,
        modules_to_save: config.modules_to_save,
        feedforward_modules: None,
        n_up_projection: None,
        task_specific_matrix_type: None,
        weights_sharpness: None,
        extra: config.extra,
    }
}

/// The AdapterHub form of a configuration whose adapter sits at `sites`.
pub(crate) fn to_adapterhub(variant: &Variant, sites: &[&SiteInfo], host: &dyn Host) -> Result<LoraWire, ConfigError> {
    let refuse = |what| {
        Err(ConfigError::NotExpressible {
            format: Format::AdapterHub,
            what,
        })
    };
    match variant {
        Variant::Dora(config) if config.form == DoraForm::Peft => return refuse("peft's definition of DoRA"),
        Variant::Vera(config) if config.form == VeraForm::Vectors => return refuse("peft's form of VeRA"),
        Variant::Ia3(config) if config.feedforward.is_some() => return refuse("(IA)3 on a layer's input"),
        _ => {}
    }
    let mut wire: LoraWire = variant.clone().into();
    if !wire.rank_pattern.is_empty() || !wire.alpha_pattern.is_empty() {
        return refuse("ranks or alphas by module path");
    }
    if wire.bias != BiasTraining::None || wire.lora_bias || wire.modules_to_save.is_some() {
        return refuse("trained biases and modules");
    }
    if wire.init_weights == Init::Gaussian {
        // How an adapter began says nothing about what it computes.
        wire.init_weights = Init::Lora;
    }
    if wire.use_rslora {
        // alpha / sqrt(r) = (alpha sqrt(r)) / r.
        wire.alpha *= (wire.r as f64).sqrt();
        wire.use_rslora = false;
    }
    if wire.target_modules.take().is_some() {
        let Some(places) = places_of(sites, host) else {
            return refuse("this choice of modules");
        };
        (wire.exclude_modules, wire.layers) = (None, None);
        wire.attn_matrices = places.attention;
        wire.selfattn_lora = places.self_attention;
        wire.intermediate_lora = places.intermediate;
        wire.output_lora = places.output;
        wire.leave_out = places.leave_out;
        // What peft's file said beyond the family's fields has no place in this format.
        wire.extra.clear();
    }
    Ok(wire)
}

/// The places that name exactly these sites, if there are such.
fn places_of(sites: &[&SiteInfo], host: &dyn Host) -> Option<Places> {
    let has = |role| sites.iter().any(|s| s.hub_role == role);
    let layers = |infos: &mut dyn Iterator<Item = Option<usize>>| infos.flatten().collect::<BTreeSet<_>>();
    let used = layers(&mut sites.iter().map(|s| s.site.layer));
    let all = layers(&mut host.sites().iter().map(|s| s.site.layer));
    let attention: Vec<_> = [
        (Role::Query, AttentionMatrix::Query),
        (Role::Key, AttentionMatrix::Key),
        (Role::Value, AttentionMatrix::Value),
    ]
    .into_iter()
    .filter(|(role, _)| has(*role))
    .map(|(_, matrix)| matrix)
    .collect();
    let places = Places {
        self_attention: !attention.is_empty(),
        attention,
        intermediate: has(Role::FfnUp),
        output: has(Role::FfnDown),
        leave_out: all.difference(&used).copied().collect(),
    };
    let target = LoraTarget::Places(places.clone()).to_target();
    let named: BTreeSet<_> = target.select(host).ok()?.sites.iter().map(|s| s.site).collect();
    (named == sites.iter().map(|s| s.site).collect()).then_some(places)
}
