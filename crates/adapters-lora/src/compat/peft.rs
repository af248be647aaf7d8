//! Peft's `LoraConfig`, `IA3Config` and `VeraConfig`.

use adapters_core::config::{from_fields, to_fields};
use adapters_core::target::{ModuleFields, ModulePattern, ModuleTarget};
use adapters_core::{ConfigError, Format, Host, SiteInfo};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{BiasTraining, Init, LoraConfig, Scaling};
use crate::places::LoraTarget;
use crate::variants::{DoraConfig, DoraForm, Ia3Config, Projection, Variant, VeraConfig, VeraForm};

/// The part of peft's `LoraConfig` that is read. The other fields are kept, and those that would change the computation
/// are refused.
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
    /// Ranks by module path.
    pub rank_pattern: IndexMap<String, usize>,
    /// Alphas by module path.
    pub alpha_pattern: IndexMap<String, f64>,
    /// `alpha / sqrt(r)`.
    pub use_rslora: bool,
    /// DoRA.
    pub use_dora: bool,
    /// A bias of B.
    pub lora_bias: bool,
    /// `none`, `lora_only` or `all`.
    pub bias: BiasTraining,
    /// Modules trained as a whole.
    pub modules_to_save: Option<ModulePattern>,
    /// Which modules.
    #[serde(flatten)]
    pub target: ModuleFields,
}

/// Peft's `IA3Config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeftIa3Wire {
    /// Always `IA3`.
    pub peft_type: String,
    /// Modules whose input is scaled.
    pub feedforward_modules: Option<ModulePattern>,
    /// Which modules.
    #[serde(flatten)]
    pub target: ModuleFields,
}

/// Peft's `VeraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeftVeraWire {
    /// Always `VERA`.
    pub peft_type: String,
    /// Rank.
    pub r: usize,
    /// Dropout probability.
    pub vera_dropout: f64,
    /// Initial value of the inner scaling.
    pub d_initial: f64,
    /// Whether the shared matrices are in the file.
    pub save_projection: bool,
    /// Seed of the shared matrices in PyTorch's generator.
    pub projection_prng_key: u64,
    /// Which modules.
    #[serde(flatten)]
    pub target: ModuleFields,
}

impl Default for PeftLoraWire {
    fn default() -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            rank_pattern: IndexMap::new(),
            alpha_pattern: IndexMap::new(),
            use_rslora: false,
            use_dora: false,
            lora_bias: false,
            bias: BiasTraining::None,
            modules_to_save: None,
            target: ModuleFields::default(),
        }
    }
}

impl Default for PeftIa3Wire {
    fn default() -> Self {
        Self {
            peft_type: "IA3".to_owned(),
            feedforward_modules: None,
            target: ModuleFields::default(),
        }
    }
}

impl Default for PeftVeraWire {
    fn default() -> Self {
        Self {
            peft_type: "VERA".to_owned(),
            r: 256,
            vera_dropout: 0.0,
            d_initial: 0.1,
            save_projection: true,
            projection_prng_key: 0,
            target: ModuleFields::default(),
        }
    }
}

/// Fields of peft's configurations that change what is computed or stored, once they say something.
const REFUSED: &[&str] = &[
    "use_qalora",
    "use_bdlora",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "layers_pattern",
];

/// The target, and what was kept beside it, once nothing in that would change the computation.
fn split(fields: ModuleFields) -> Result<(LoraTarget, Map<String, Value>), ConfigError> {
    fields.refuse(REFUSED)?;
    match fields.target() {
        Some(target) => Ok((LoraTarget::Modules(target), fields.extra)),
        None => Err(ConfigError::OutOfRange {
            field: "target_modules",
            expected: "names, a regular expression or \"all-linear\"",
            found: "null".to_owned(),
        }),
    }
}

/// The fields for an adapter that sits at `sites`; with what a file said beside them, if it was peft's.
fn join(target: &LoraTarget, extra: &Map<String, Value>, sites: &[&SiteInfo], host: &dyn Host) -> ModuleFields {
    match target {
        LoraTarget::Modules(target) => ModuleFields::of(target.clone(), extra.clone()),
        LoraTarget::Places(_) => ModuleFields::of(ModuleTarget::new(ModulePattern::naming(sites, host)), Map::new()),
    }
}

/// Reads a configuration of peft; `None` for one that is not of this family.
pub(crate) fn from_peft(fields: &Map<String, Value>) -> Option<Result<Variant, ConfigError>> {
    let fields = fields.clone();
    Some(match fields.get("peft_type")?.as_str()? {
        "LORA" => from_fields::<PeftLoraWire>(fields).and_then(lora),
        "IA3" => from_fields::<PeftIa3Wire>(fields).and_then(ia3),
        "VERA" => from_fields::<PeftVeraWire>(fields).and_then(vera),
        _ => return None,
    })
}

fn lora(wire: PeftLoraWire) -> Result<Variant, ConfigError> {
    let init = match wire.target.extra.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Init::Lora,
        Some(Value::String(name)) if name == "gaussian" => Init::Gaussian,
        // The others change the base weights too: a file that still says so was not converted.
        Some(other) => {
            return Err(ConfigError::Unsupported {
                field: "init_lora_weights",
                found: format!("{other}: the base it was trained on is changed; convert it with peft"),
            });
        }
    };
    let (target, extra) = split(wire.target)?;
    let lora = LoraConfig {
        rank: wire.r,
        alpha: wire.lora_alpha,
        scaling: if wire.use_rslora {
            Scaling::RankStabilized
        } else {
            Scaling::Standard
        },
        dropout: wire.lora_dropout,
        target,
        init,
        rank_pattern: wire.rank_pattern,
        alpha_pattern: wire.alpha_pattern,
        bias: wire.bias,
        up_bias: wire.lora_bias,
        modules_to_save: wire.modules_to_save,
        extra,
        ..LoraConfig::default()
    };
    Ok(match wire.use_dora {
        false => Variant::Lora(lora),
        true => Variant::Dora(DoraConfig {
            lora,
            form: DoraForm::Peft,
        }),
    })
}

fn ia3(wire: PeftIa3Wire) -> Result<Variant, ConfigError> {
    let (target, extra) = split(wire.target)?;
    Ok(Variant::Ia3(Ia3Config {
        target,
        feedforward: wire.feedforward_modules,
        extra,
        ..Ia3Config::default()
    }))
}

fn vera(wire: PeftVeraWire) -> Result<Variant, ConfigError> {
    let key = wire.projection_prng_key;
    let seed = u32::try_from(key).unwrap_or_default();
    ConfigError::unless(u64::from(seed) == key, "projection_prng_key", "below 2^32", key)?;
    let (target, extra) = split(wire.target)?;
    Ok(Variant::Vera(VeraConfig {
        lora: LoraConfig {
            rank: wire.r,
            dropout: wire.vera_dropout,
            target,
            init: Init::Vera,
            extra,
            ..LoraConfig::default()
        },
        d: wire.d_initial,
        b: 0.0,
        form: VeraForm::Vectors,
        projection: match wire.save_projection {
            true => Projection::Stored(seed),
            false => Projection::Drawn(seed),
        },
    }))
}

/// The peft form of a configuration whose adapter sits at `sites`.
pub(crate) fn to_peft(
    variant: &Variant,
    sites: &[&SiteInfo],
    host: &dyn Host,
) -> Result<Map<String, Value>, ConfigError> {
    let refuse = |what| {
        Err(ConfigError::NotExpressible {
            format: Format::Peft,
            what,
        })
    };
    if sites.iter().any(|site| variant.target().parts(site).is_some()) {
        return refuse("parts of a fused projection");
    }
    let mut fields = match variant {
        Variant::Lora(config) => lora_fields(config, false, sites, host)?,
        Variant::Dora(config) if config.form == DoraForm::Peft => lora_fields(&config.lora, true, sites, host)?,
        Variant::Dora(_) => return refuse("AdapterHub's definition of DoRA"),
        Variant::Vera(config) if config.form == VeraForm::Vectors => {
            let (save_projection, key) = match config.projection {
                Projection::Stored(key) => (true, key),
                Projection::Drawn(key) => (false, key),
            };
            let wire = PeftVeraWire {
                save_projection,
                projection_prng_key: key.into(),
                r: config.lora.rank,
                vera_dropout: config.lora.dropout,
                d_initial: config.d,
                target: join(&config.lora.target, &config.lora.extra, sites, host),
                ..PeftVeraWire::default()
            };
            to_fields(&wire, &[])
        }
        Variant::Vera(_) => return refuse("AdapterHub's form of VeRA"),
        Variant::Dvora(_) => return refuse("DVoRA"),
        Variant::MtlLora(_) => return refuse("MTL-LoRA"),
        Variant::Ia3(config) if config.gated => return refuse("a gated scale"),
        Variant::Ia3(config) if config.alpha != 1.0 => return refuse("(IA)3 with a constant factor"),
        Variant::Ia3(config) => {
            let wire = PeftIa3Wire {
                // Without the field peft guesses; an empty list means none.
                feedforward_modules: Some(config.feedforward.clone().unwrap_or(ModulePattern::Names(Vec::new()))),
                target: join(&config.target, &config.extra, sites, host),
                ..PeftIa3Wire::default()
            };
            to_fields(&wire, &[])
        }
    };
    let input_first = sites.iter().any(|site| host.stores_input_first(site.site));
    for (field, value) in [
        ("task_type", Value::Null),
        ("inference_mode", Value::Bool(true)),
        ("fan_in_fan_out", Value::Bool(input_first)),
    ] {
        fields.entry(field).or_insert(value);
    }
    Ok(fields)
}

fn lora_fields(
    config: &LoraConfig,
    use_dora: bool,
    sites: &[&SiteInfo],
    host: &dyn Host,
) -> Result<Map<String, Value>, ConfigError> {
    if config.scaling == Scaling::Gated {
        return Err(ConfigError::NotExpressible {
            format: Format::Peft,
            what: "a gated scale",
        });
    }
    let adapted = sites
        .iter()
        .filter(|site| config.target.to_target().covers(site).unwrap_or(false));
    let adapted: Vec<&SiteInfo> = adapted.copied().collect();
    let wire = PeftLoraWire {
        r: config.rank,
        lora_alpha: config.alpha,
        lora_dropout: config.dropout,
        rank_pattern: config.rank_pattern.clone(),
        alpha_pattern: config.alpha_pattern.clone(),
        use_rslora: config.scaling == Scaling::RankStabilized,
        use_dora,
        lora_bias: config.up_bias,
        bias: config.bias,
        modules_to_save: config.modules_to_save.clone(),
        target: join(&config.target, &config.extra, &adapted, host),
        ..PeftLoraWire::default()
    };
    let mut fields = to_fields(&wire, &["lora_alpha"]);
    // How an adapter began says nothing about what it computes.
    fields.entry("init_lora_weights").or_insert(Value::Bool(true));
    Ok(fields)
}
