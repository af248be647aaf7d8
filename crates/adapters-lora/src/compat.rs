//! The published forms of the configuration: AdapterHub's `LoRAConfig` and peft's `LoraConfig`.

use std::collections::BTreeSet;

use adapters_core::store::Grammar;
use adapters_core::target::{ModulePattern, ModuleTarget, Target};
use adapters_core::{Host, Role, SiteInfo};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{AttentionMatrix, Dtype, Init, LoraConfig, LoraTarget, Mode, Places, Scaling};
use crate::error::LoraError;

/// AdapterHub's `LoRAConfig`, field for field, and after it the fields we add for what it has no word for.
///
/// This is also the form of recipes and config strings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraWire {
    /// Always `lora`.
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
    pub init_weights: WireInit,
    /// Seed of the initial values.
    pub init_weights_seed: Option<u64>,
    /// Gate in place of a constant scale.
    pub use_gating: bool,
    /// Element type.
    pub dtype: Option<Dtype>,
    /// DoRA; not supported yet.
    pub use_dora: bool,
    /// VeRA's d; not supported yet.
    pub vera_d: Option<f64>,
    /// VeRA's b; not supported yet.
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
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_rslora: bool,
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

/// `init_weights` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireInit {
    /// See [`Init::Lora`].
    Lora,
    /// See [`Init::Bert`].
    Bert,
    /// See [`Init::Ia3`].
    Ia3,
    /// VeRA's frozen matrices; not supported yet.
    Vera,
}

impl Default for LoraWire {
    fn default() -> Self {
        LoraConfig::default().into()
    }
}

impl TryFrom<LoraWire> for LoraConfig {
    type Error = LoraError;

    fn try_from(wire: LoraWire) -> Result<Self, LoraError> {
        let unsupported = |field, found: String| Err(LoraError::Unsupported { field, found });
        if wire.architecture != "lora" {
            return unsupported("architecture", wire.architecture);
        }
        if wire.use_dora {
            return unsupported("use_dora", "true".to_owned());
        }
        if let Some(d) = wire.vera_d {
            return unsupported("vera_d", d.to_string());
        }
        if let Some(b) = wire.vera_b {
            return unsupported("vera_b", b.to_string());
        }
        let scaling = match (wire.use_gating, wire.use_rslora) {
            (false, false) => Scaling::Standard,
            (false, true) => Scaling::RankStabilised,
            (true, false) => Scaling::Gated,
            (true, true) => {
                return Err(LoraError::OutOfRange {
                    field: "use_rslora",
                    expected: "false with use_gating, which replaces the scale",
                    found: "true".to_owned(),
                });
            }
        };
        Ok(Self {
            rank: wire.r,
            alpha: wire.alpha,
            scaling,
            dropout: wire.dropout,
            target: match wire.target_modules {
                Some(modules) => LoraTarget::Modules(ModuleTarget {
                    modules,
                    exclude: wire.exclude_modules,
                    layers: wire.layers,
                }),
                None => LoraTarget::Places(Places {
                    attention: wire.attn_matrices,
                    self_attention: wire.selfattn_lora,
                    intermediate: wire.intermediate_lora,
                    output: wire.output_lora,
                    leave_out: wire.leave_out,
                }),
            },
            init: match wire.init_weights {
                WireInit::Lora => Init::Lora,
                WireInit::Bert => Init::Bert,
                WireInit::Ia3 => Init::Ia3,
                WireInit::Vera => return unsupported("init_weights", "vera".to_owned()),
            },
            mode: match wire.composition_mode {
                WireMode::Add => Mode::Add,
                WireMode::Scale => Mode::Scale,
            },
            rank_pattern: wire.rank_pattern,
            alpha_pattern: wire.alpha_pattern,
            seed: wire.init_weights_seed,
            dtype: wire.dtype,
            extra: wire.extra,
        })
    }
}

impl From<LoraConfig> for LoraWire {
    fn from(config: LoraConfig) -> Self {
        let (places, modules) = match config.target {
            LoraTarget::Places(places) => (places, None),
            LoraTarget::Modules(modules) => (Places::default(), Some(modules)),
        };
        let (target_modules, exclude_modules, layers) = match modules {
            Some(m) => (Some(m.modules), m.exclude, m.layers),
            None => (None, None, None),
        };
        Self {
            architecture: "lora".to_owned(),
            r: config.rank,
            alpha: config.alpha,
            attn_matrices: places.attention,
            selfattn_lora: places.self_attention,
            intermediate_lora: places.intermediate,
            output_lora: places.output,
            leave_out: places.leave_out,
            composition_mode: match config.mode {
                Mode::Add => WireMode::Add,
                Mode::Scale => WireMode::Scale,
            },
            dropout: config.dropout,
            init_weights: match config.init {
                Init::Lora => WireInit::Lora,
                Init::Bert => WireInit::Bert,
                Init::Ia3 => WireInit::Ia3,
            },
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
            use_rslora: config.scaling == Scaling::RankStabilised,
            extra: config.extra,
        }
    }
}

/// The part of peft's `LoraConfig` that plain LoRA reads. The other fields are kept in `extra`, and those that
/// would change the computation are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeftLoraWire {
    /// Always `LORA`.
    pub peft_type: String,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Dropout probability.
    pub lora_dropout: f64,
    /// Names, a regular expression, or `all-linear`.
    pub target_modules: Option<ModulePattern>,
    /// Modules to leave alone.
    pub exclude_modules: Option<ModulePattern>,
    /// Only these layers.
    pub layers_to_transform: Option<OneOrMany>,
    /// Ranks by module path.
    pub rank_pattern: IndexMap<String, usize>,
    /// Alphas by module path.
    pub alpha_pattern: IndexMap<String, f64>,
    /// `alpha / sqrt(r)`.
    pub use_rslora: bool,
    /// Every other field, kept and written back.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One number or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(usize),
    /// A list.
    Many(Vec<usize>),
}

impl Default for PeftLoraWire {
    fn default() -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            use_rslora: false,
            extra: Map::new(),
        }
    }
}

/// Fields of peft's configuration that change what LoRA computes or stores, and the values at which they do not.
const PEFT_REFUSED: &[(&str, &[Value])] = &[
    ("use_dora", &[Value::Bool(false), Value::Null]),
    ("use_qalora", &[Value::Bool(false), Value::Null]),
    ("use_bdlora", &[Value::Bool(false), Value::Null]),
    ("lora_bias", &[Value::Bool(false), Value::Null]),
    ("modules_to_save", &[Value::Null]),
    ("trainable_token_indices", &[Value::Null]),
    ("target_parameters", &[Value::Null]),
    ("layer_replication", &[Value::Null]),
    ("megatron_config", &[Value::Null]),
    ("alora_invocation_tokens", &[Value::Null]),
    ("arrow_config", &[Value::Null]),
    ("kasa_config", &[Value::Null]),
    ("monteclora_config", &[Value::Null]),
    ("velora_config", &[Value::Null]),
    ("layers_pattern", &[Value::Null]),
];

impl TryFrom<PeftLoraWire> for LoraConfig {
    type Error = LoraError;

    fn try_from(mut wire: PeftLoraWire) -> Result<Self, LoraError> {
        for (field, neutral) in PEFT_REFUSED {
            if let Some(value) = wire.extra.get(*field)
                && !neutral.contains(value)
            {
                return Err(LoraError::Unsupported {
                    field,
                    found: value.to_string(),
                });
            }
        }
        // Other initial values (PiSSA, OLoRA, LoftQ, ..) change the base weights too.
        if let Some(init) = wire.extra.get("init_lora_weights")
            && !(init.is_boolean() || init == "gaussian")
        {
            return Err(LoraError::Unsupported {
                field: "init_lora_weights",
                found: init.to_string(),
            });
        }
        if let Some(bias) = wire.extra.get("bias")
            && bias != "none"
        {
            return Err(LoraError::Unsupported {
                field: "bias",
                found: bias.to_string(),
            });
        }
        let modules = wire.target_modules.take().ok_or(LoraError::OutOfRange {
            field: "target_modules",
            expected: "names, a regular expression or \"all-linear\"",
            found: "null".to_owned(),
        })?;
        Ok(Self {
            rank: wire.r,
            alpha: wire.lora_alpha,
            scaling: if wire.use_rslora {
                Scaling::RankStabilised
            } else {
                Scaling::Standard
            },
            dropout: wire.lora_dropout,
            target: LoraTarget::Modules(ModuleTarget {
                modules,
                exclude: wire.exclude_modules,
                layers: wire.layers_to_transform.map(|layers| match layers {
                    OneOrMany::One(layer) => vec![layer],
                    OneOrMany::Many(layers) => layers,
                }),
            }),
            rank_pattern: wire.rank_pattern,
            alpha_pattern: wire.alpha_pattern,
            extra: wire.extra,
            ..Self::default()
        })
    }
}

/// The AdapterHub form of a configuration whose adapter sits at `sites`.
pub(crate) fn to_adapterhub(config: &LoraConfig, sites: &[&SiteInfo], host: &dyn Host) -> Result<LoraWire, LoraError> {
    let refuse = |what| {
        Err(LoraError::NotExpressible {
            grammar: Grammar::AdapterHub,
            what,
        })
    };
    if !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty() {
        return refuse("ranks or alphas by module path");
    }
    let mut config = config.clone();
    if config.scaling == Scaling::RankStabilised {
        // alpha / sqrt(r) = (alpha sqrt(r)) / r.
        config.alpha *= (config.rank as f64).sqrt();
        config.scaling = Scaling::Standard;
    }
    if let LoraTarget::Modules(_) = &config.target {
        match places_of(sites, host) {
            Some(places) => config.target = LoraTarget::Places(places),
            None => return refuse("this choice of modules"),
        }
        // What peft's file said beyond plain LoRA has no place in this grammar.
        config.extra.clear();
    }
    Ok(config.into())
}

/// The places that name exactly these sites, if there are such.
fn places_of(sites: &[&SiteInfo], host: &dyn Host) -> Option<Places> {
    let has = |role| sites.iter().any(|s| s.site.role == role);
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
    let target = Target::Roles {
        roles: places.roles(),
        leave_out: places.leave_out.clone(),
    };
    let named: BTreeSet<_> = target.select(host).ok()?.sites.iter().map(|s| s.site).collect();
    (named == sites.iter().map(|s| s.site).collect()).then_some(places)
}

/// The peft form of a configuration whose adapter sits at `sites`.
pub(crate) fn to_peft(config: &LoraConfig, sites: &[&SiteInfo], host: &dyn Host) -> Result<PeftLoraWire, LoraError> {
    let refuse = |what| {
        Err(LoraError::NotExpressible {
            grammar: Grammar::Peft,
            what,
        })
    };
    if config.scaling == Scaling::Gated {
        return refuse("a gated scale");
    }
    if config.mode == Mode::Scale {
        return refuse("LoRA in scale mode");
    }
    let (target, mut extra) = match &config.target {
        LoraTarget::Modules(target) => (target.clone(), config.extra.clone()),
        LoraTarget::Places(_) => (ModuleTarget::new(modules_of(sites, host)), Map::new()),
    };
    for (field, value) in [
        ("bias", Value::from("none")),
        ("task_type", Value::Null),
        ("inference_mode", Value::Bool(true)),
        ("init_lora_weights", Value::Bool(true)),
        ("fan_in_fan_out", Value::Bool(false)),
    ] {
        extra.entry(field).or_insert(value);
    }
    Ok(PeftLoraWire {
        r: config.rank,
        lora_alpha: config.alpha,
        lora_dropout: config.dropout,
        target_modules: Some(target.modules),
        exclude_modules: target.exclude,
        layers_to_transform: target.layers.map(OneOrMany::Many),
        rank_pattern: config.rank_pattern.clone(),
        alpha_pattern: config.alpha_pattern.clone(),
        use_rslora: config.scaling == Scaling::RankStabilised,
        extra,
        ..PeftLoraWire::default()
    })
}

/// Names that select exactly these sites: last components where they suffice, else whole paths.
fn modules_of(sites: &[&SiteInfo], host: &dyn Host) -> ModulePattern {
    let mut names: Vec<String> = Vec::new();
    for site in sites {
        let last = site.path.rsplit('.').next().unwrap_or(&site.path).to_owned();
        if !names.contains(&last) {
            names.push(last);
        }
    }
    let short = ModulePattern::Names(names);
    let selected = Target::Modules(ModuleTarget::new(short.clone())).select(host);
    let chosen: BTreeSet<_> = sites.iter().map(|s| s.site).collect();
    match selected {
        Ok(selection) if selection.sites.iter().map(|s| s.site).collect::<BTreeSet<_>>() == chosen => short,
        _ => ModulePattern::Names(sites.iter().map(|s| s.path.clone()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_and_toml_round_trip_with_unknown_fields() {
        let written = json!({"r": 4, "alpha": 6, "attn_matrices": ["q", "k"], "later": {"x": [1]}});
        let config: LoraConfig = serde_json::from_value(written).unwrap();
        assert_eq!((config.rank, config.alpha), (4, 6.0));
        let back: LoraConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
        assert_eq!(back.extra["later"], json!({"x": [1]}));
        let config = LoraConfig {
            extra: Map::new(),
            ..config
        };
        let back: LoraConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
        let toml_extra: LoraConfig = toml::from_str("r = 2\nlater = 1").unwrap();
        assert_eq!(toml_extra.extra["later"], json!(1));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (json, field) in [
            (json!({"use_dora": true}), "use_dora"),
            (json!({"vera_d": 0.1}), "vera_d"),
            (
                json!({"init_weights": "vera"}),
                "`init_weights` = vera is not supported yet",
            ),
            (json!({"use_gating": true, "use_rslora": true}), "use_rslora"),
        ] {
            let error = serde_json::from_value::<LoraConfig>(json).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        let peft: PeftLoraWire = serde_json::from_value(json!({"target_modules": ["q"], "use_dora": true})).unwrap();
        assert!(LoraConfig::try_from(peft).is_err());
        let pissa = json!({"target_modules": ["q"], "init_lora_weights": "pissa"});
        let pissa: PeftLoraWire = serde_json::from_value(pissa).unwrap();
        let error = LoraConfig::try_from(pissa).unwrap_err().to_string();
        assert!(error.contains("init_lora_weights"), "{error}");
    }
}
