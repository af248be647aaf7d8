//! The `config` object of the reference's `adapter_config.json`, key for key, and the way to and from
//! [`BottleneckConfig`].

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value, json};

use crate::phm::{self, PhmWeight, PhmWire, Projection};
use crate::reduction::{ReductionWire, number};
use crate::{BottleneckConfig, BottleneckError, Init, Insertion, Invertible, LnAfter, Residual, Scaling};

/// A bottleneck `config` object as AdapterHub `adapters` 1.3.0 writes it. Keys that the reference's `BnConfig`
/// requires are required here. The file bears no `architecture`; should one stand there it lies in `extra`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BottleneckWire {
    /// With `ln_after`: residual before that norm, see [`LnAfter`].
    #[serde(default)]
    pub adapter_residual_before_ln: bool,
    /// Adapt after cross-attention.
    #[serde(default)]
    pub cross_adapter: bool,
    /// Dropout on the output.
    #[serde(default)]
    pub dropout: f64,
    /// `bert`, `mam_adapter` or `houlsby`, see [`Init`].
    #[serde(default = "bert")]
    pub init_weights: String,
    /// Seed of every module.
    #[serde(default)]
    pub init_weights_seed: Option<i64>,
    /// `nice` or `glow`, see [`Invertible`].
    #[serde(default)]
    pub inv_adapter: Option<String>,
    /// Reduction inside the invertible block.
    #[serde(default)]
    pub inv_adapter_reduction_factor: Option<Number>,
    /// Beside the sub-layer instead of after it, see [`Insertion`].
    #[serde(default)]
    pub is_parallel: bool,
    /// Layers without adapter.
    #[serde(default)]
    pub leave_out: Vec<i64>,
    /// An own layer norm after the up projection.
    #[serde(default)]
    pub ln_after: bool,
    /// An own layer norm before the down projection.
    #[serde(default)]
    pub ln_before: bool,
    /// Adapt after self-attention.
    pub mh_adapter: bool,
    /// Name of the activation.
    pub non_linearity: String,
    /// The model's residual and layer norm after the adapter.
    #[serde(default = "yes")]
    pub original_ln_after: bool,
    /// The model's residual and layer norm before the adapter; sequential only.
    #[serde(default)]
    pub original_ln_before: bool,
    /// Adapt after the feed-forward block.
    pub output_adapter: bool,
    /// Model width over bottleneck width.
    pub reduction_factor: ReductionWire,
    /// State the residual carries, see [`Residual`]; sequential only.
    #[serde(default = "before_ln")]
    pub residual_before_ln: ResidualWire,
    /// Factor on the output.
    #[serde(default = "unscaled")]
    pub scaling: ScalingWire,
    /// Chance to drop the adapter for a row.
    #[serde(default)]
    pub stochastic_depth: Option<f64>,
    /// A learned gate on the output.
    #[serde(default)]
    pub use_gating: bool,
    /// Hypercomplex projections instead of linear ones.
    #[serde(default)]
    pub phm_layer: bool,
    /// The keys of hypercomplex layers.
    #[serde(flatten)]
    pub phm: PhmWire,
    /// Every other key.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `residual_before_ln`: a flag or `"post_add"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`residual_before_ln` must be true, false or \"post_add\"")]
pub enum ResidualWire {
    /// Before or after the layer norm.
    Flag(bool),
    /// `"post_add"`.
    Name(String),
}

/// `scaling`: a number, `"learned"` or `"channel"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`scaling` must be a number, \"learned\" or \"channel\"")]
pub enum ScalingWire {
    /// A constant.
    Factor(f64),
    /// `"learned"` or `"channel"`.
    Name(String),
}

fn bert() -> String {
    "bert".to_owned()
}
fn yes() -> bool {
    true
}
fn before_ln() -> ResidualWire {
    ResidualWire::Flag(true)
}
fn unscaled() -> ScalingWire {
    ScalingWire::Factor(1.0)
}

pub(crate) const INITS: [(&str, Init); 3] = [
    ("bert", Init::Bert),
    ("mam_adapter", Init::MamAdapter),
    ("houlsby", Init::Houlsby),
];
const SCALINGS: [(&str, Scaling); 2] = [("learned", Scaling::Learned), ("channel", Scaling::Channel)];

pub(crate) fn choose<T: Copy>(
    field: &'static str,
    table: &[(&'static str, T)],
    found: &str,
) -> Result<T, BottleneckError> {
    let hit = table.iter().find(|(name, _)| *name == found);
    hit.map(|(_, value)| *value).ok_or_else(|| BottleneckError::Unknown {
        field,
        expected: table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        found: found.to_owned(),
    })
}

pub(crate) fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    table
        .iter()
        .find(|(_, entry)| entry == value)
        .map_or("", |(name, _)| name)
}

/// Keeps a key that does not apply, so that it can be written back.
pub(crate) fn keep(extra: &mut Map<String, Value>, key: &str, value: Value, default: Value) {
    if value != default {
        extra.insert(key.to_owned(), value);
    }
}

/// Takes back what [`keep`] kept.
fn kept<T: DeserializeOwned>(extra: &mut Map<String, Value>, key: &str, default: T) -> T {
    extra
        .shift_remove(key)
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or(default)
}

pub(crate) fn object(wire: impl Serialize) -> Map<String, Value> {
    adapters_core::config::to_fields(&wire, &[])
}

pub(crate) fn index(field: &'static str, found: i64) -> Result<usize, BottleneckError> {
    usize::try_from(found).map_err(|_| BottleneckError::OutOfRange {
        field,
        expected: "a whole number >= 0",
        found: found.to_string(),
    })
}

/// Refuses what `extra` must not hold: keys the configuration writes itself, and the name of another architecture.
pub(crate) fn check_extra(config: &BottleneckConfig) -> Result<(), BottleneckError> {
    let mut wire = BottleneckWire::from(config);
    let extra = std::mem::take(&mut wire.extra);
    let architecture = extra.get("architecture").unwrap_or(&Value::Null);
    if !architecture.is_null() && !matches!(architecture.as_str(), Some("adapter" | "bottleneck")) {
        return Err(BottleneckError::Unknown {
            field: "architecture",
            expected: "adapter, bottleneck".to_owned(),
            found: architecture
                .as_str()
                .map_or_else(|| architecture.to_string(), str::to_owned),
        });
    }
    let known = object(&wire);
    match extra.keys().find(|key| known.contains_key(*key)) {
        Some(key) => Err(BottleneckError::Reserved { key: key.clone() }),
        None => Ok(()),
    }
}

impl TryFrom<BottleneckWire> for BottleneckConfig {
    type Error = BottleneckError;

    fn try_from(mut wire: BottleneckWire) -> Result<Self, BottleneckError> {
        let mut extra = std::mem::take(&mut wire.extra);
        // Files of version 1 nest the invertible block; the nested form wins, as in the reference.
        if let Some(Value::Object(old)) = extra.get("invertible_adapter") {
            wire.inv_adapter = old.get("block_type").and_then(Value::as_str).map(str::to_owned);
            wire.inv_adapter_reduction_factor = old.get("reduction_factor").and_then(Value::as_number).cloned();
            extra.shift_remove("invertible_adapter");
        }
        let factor = wire.inv_adapter_reduction_factor.as_ref();
        let expected = "a number, as inv_adapter is set";
        let inner = factor.and_then(Number::as_f64).ok_or(BottleneckError::Missing {
            field: "inv_adapter_reduction_factor",
            expected,
        });
        let invertible = match wire.inv_adapter.as_deref() {
            None | Some("") => {
                keep(&mut extra, "inv_adapter_reduction_factor", json!(factor), Value::Null);
                None
            }
            Some("nice") => Some(Invertible::Nice {
                reduction_factor: inner?,
            }),
            Some("glow") => Some(Invertible::Glow {
                reduction_factor: inner?,
            }),
            Some(other) => {
                let (expected, found) = ("nice, glow".to_owned(), other.to_owned());
                return Err(BottleneckError::Unknown {
                    field: "inv_adapter",
                    expected,
                    found,
                });
            }
        };
        let residual = match &wire.residual_before_ln {
            ResidualWire::Flag(true) => Residual::BeforeLn,
            ResidualWire::Flag(false) => Residual::AfterLn,
            ResidualWire::Name(name) => choose("residual_before_ln", &[("post_add", Residual::PostAdd)], name)?,
        };
        let insertion = if wire.is_parallel {
            keep(
                &mut extra,
                "original_ln_before",
                wire.original_ln_before.into(),
                false.into(),
            );
            keep(
                &mut extra,
                "residual_before_ln",
                json!(wire.residual_before_ln),
                true.into(),
            );
            Insertion::Parallel
        } else {
            Insertion::Sequential {
                original_ln_before: wire.original_ln_before,
                residual,
            }
        };
        let ln_after = match (wire.ln_after, wire.adapter_residual_before_ln) {
            (true, false) => LnAfter::BeforeResidual,
            (true, true) => LnAfter::AfterResidual,
            (false, early) => {
                keep(&mut extra, "adapter_residual_before_ln", early.into(), false.into());
                LnAfter::Off
            }
        };
        let scaling = match wire.scaling {
            ScalingWire::Factor(factor) => Scaling::Fixed(factor),
            ScalingWire::Name(name) => choose("scaling", &SCALINGS, &name)?,
        };
        let projection = if wire.phm_layer {
            Projection::Phm(phm::read(&wire.phm, &mut extra)?)
        } else {
            let defaults = object(PhmWire::default());
            for (key, value) in object(&wire.phm) {
                keep(&mut extra, &key, value, defaults.get(&key).cloned().unwrap_or_default());
            }
            Projection::Linear
        };
        let config = Self {
            mh_adapter: wire.mh_adapter,
            output_adapter: wire.output_adapter,
            cross_adapter: wire.cross_adapter,
            reduction: wire.reduction_factor.try_into()?,
            non_linearity: wire.non_linearity,
            insertion,
            original_ln_after: wire.original_ln_after,
            ln_before: wire.ln_before,
            ln_after,
            init: choose("init_weights", &INITS, &wire.init_weights)?,
            init_seed: wire.init_weights_seed,
            scaling,
            use_gating: wire.use_gating,
            invertible,
            leave_out: wire
                .leave_out
                .into_iter()
                .map(|id| index("leave_out", id))
                .collect::<Result<_, _>>()?,
            dropout: wire.dropout,
            projection,
            stochastic_depth: wire.stochastic_depth.unwrap_or(0.0),
            extra,
        };
        config.check()?;
        Ok(config)
    }
}

impl From<&BottleneckConfig> for BottleneckWire {
    fn from(config: &BottleneckConfig) -> Self {
        let mut extra = config.extra.clone();
        let (inv_adapter, inner) = match config.invertible {
            Some(Invertible::Nice { reduction_factor }) => (Some("nice".to_owned()), Some(number(reduction_factor))),
            Some(Invertible::Glow { reduction_factor }) => (Some("glow".to_owned()), Some(number(reduction_factor))),
            None => (None, kept(&mut extra, "inv_adapter_reduction_factor", None)),
        };
        let (original_ln_before, residual_before_ln) = match config.insertion {
            Insertion::Sequential {
                original_ln_before,
                residual,
            } => {
                let residual = match residual {
                    Residual::BeforeLn => ResidualWire::Flag(true),
                    Residual::PostAdd => ResidualWire::Name("post_add".to_owned()),
                    Residual::AfterLn => ResidualWire::Flag(false),
                };
                (original_ln_before, residual)
            }
            Insertion::Parallel => (
                kept(&mut extra, "original_ln_before", false),
                kept(&mut extra, "residual_before_ln", before_ln()),
            ),
        };
        let adapter_residual_before_ln = match config.ln_after {
            LnAfter::Off => kept(&mut extra, "adapter_residual_before_ln", false),
            other => other == LnAfter::AfterResidual,
        };
        let phm = match &config.projection {
            Projection::Phm(phm) => {
                let mut wire = PhmWire::from(phm);
                if phm.weight == PhmWeight::Full {
                    wire.phm_rank = kept(&mut extra, "phm_rank", wire.phm_rank);
                }
                wire
            }
            Projection::Linear => {
                let keys = object(PhmWire::default());
                let inert: Map<_, _> = keys.keys().filter_map(|key| extra.shift_remove_entry(key)).collect();
                serde_json::from_value(Value::Object(inert)).unwrap_or_default()
            }
        };
        Self {
            adapter_residual_before_ln,
            cross_adapter: config.cross_adapter,
            dropout: config.dropout,
            init_weights: name_of(&INITS, &config.init).to_owned(),
            init_weights_seed: config.init_seed,
            inv_adapter,
            inv_adapter_reduction_factor: inner,
            is_parallel: config.insertion == Insertion::Parallel,
            leave_out: config.leave_out.iter().map(|id| *id as i64).collect(),
            ln_after: config.ln_after != LnAfter::Off,
            ln_before: config.ln_before,
            mh_adapter: config.mh_adapter,
            non_linearity: config.non_linearity.clone(),
            original_ln_after: config.original_ln_after,
            original_ln_before,
            output_adapter: config.output_adapter,
            reduction_factor: (&config.reduction).into(),
            residual_before_ln,
            scaling: match &config.scaling {
                Scaling::Fixed(factor) => ScalingWire::Factor(*factor),
                learned => ScalingWire::Name(name_of(&SCALINGS, learned).to_owned()),
            },
            stochastic_depth: Some(config.stochastic_depth),
            use_gating: config.use_gating,
            phm_layer: config.projection != Projection::Linear,
            phm,
            extra,
        }
    }
}

impl From<BottleneckConfig> for BottleneckWire {
    fn from(config: BottleneckConfig) -> Self {
        Self::from(&config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SeqBnConfig().to_dict()` of the reference.
    const SEQ_BN: &str = r#"{"adapter_residual_before_ln": false, "cross_adapter": false, "dropout": 0.0,
        "factorized_phm_W": true, "factorized_phm_rule": false, "hypercomplex_nonlinearity": "glorot-uniform",
        "init_weights": "bert", "init_weights_seed": null, "inv_adapter": null, "inv_adapter_reduction_factor": null,
        "is_parallel": false, "learn_phm": true, "leave_out": [], "ln_after": false, "ln_before": false,
        "mh_adapter": false, "non_linearity": "relu", "original_ln_after": true, "original_ln_before": true,
        "output_adapter": true, "phm_bias": true, "phm_c_init": "normal", "phm_dim": 4, "phm_init_range": 0.0001,
        "phm_layer": false, "phm_rank": 1, "reduction_factor": 16, "residual_before_ln": true, "scaling": 1.0,
        "shared_W_phm": false, "shared_phm_rule": true, "stochastic_depth": 0.0, "use_gating": false}"#;

    /// `SEQ_BN` with some keys changed or added.
    fn changed(changes: Value) -> Value {
        let mut all: Value = serde_json::from_str(SEQ_BN).expect("literal");
        for (key, value) in changes.as_object().expect("an object") {
            all[key] = value.clone();
        }
        all
    }

    fn read(value: &Value) -> BottleneckConfig {
        serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
    }

    fn round_trip(value: &Value) {
        assert_eq!(serde_json::to_value(read(value)).expect("plain data"), *value);
    }

    #[test]
    fn presets_equal_the_reference() {
        let presets = [
            ("seq_bn", json!({})),
            (
                "double_seq_bn",
                json!({"mh_adapter": true, "non_linearity": "swish", "original_ln_before": false}),
            ),
            (
                "par_bn",
                json!({"reduction_factor": 2, "original_ln_before": false, "init_weights": "mam_adapter",
                "is_parallel": true, "scaling": 4.0}),
            ),
            (
                "scaled_par_bn",
                json!({"reduction_factor": 2, "original_ln_before": false,
                "init_weights": "mam_adapter", "is_parallel": true, "scaling": "learned"}),
            ),
            (
                "seq_bn_inv",
                json!({"inv_adapter": "nice", "inv_adapter_reduction_factor": 2}),
            ),
            (
                "double_seq_bn_inv",
                json!({"mh_adapter": true, "non_linearity": "swish", "original_ln_before": false,
                "inv_adapter": "nice", "inv_adapter_reduction_factor": 2}),
            ),
            (
                "compacter",
                json!({"mh_adapter": true, "reduction_factor": 32, "non_linearity": "gelu",
                "original_ln_before": false, "phm_layer": true}),
            ),
            (
                "compacter++",
                json!({"reduction_factor": 32, "non_linearity": "gelu", "phm_layer": true}),
            ),
            (
                "adapter_plus",
                json!({"reduction_factor": 96, "non_linearity": "gelu", "original_ln_after": false,
                "init_weights": "houlsby", "scaling": "channel", "residual_before_ln": false,
                "stochastic_depth": 0.1}),
            ),
        ];
        for (name, changes) in presets {
            let config = BottleneckConfig::preset(name).expect(name);
            let all = changed(changes);
            assert_eq!(serde_json::to_value(&config).expect("plain data"), all, "{name}");
            assert_eq!(read(&all), config, "{name}");
            let text = toml::to_string(&config).expect("plain data");
            assert_eq!(
                toml::from_str::<BottleneckConfig>(&text).expect(&text),
                config,
                "{name}"
            );
        }
    }

    #[test]
    fn absent_keys_take_the_defaults_of_the_base_class() {
        let short = json!({"mh_adapter": false, "output_adapter": true, "reduction_factor": 16,
            "non_linearity": "relu", "original_ln_before": true});
        assert_eq!(read(&short), BottleneckConfig::seq_bn());
        let error = serde_json::from_value::<BottleneckConfig>(json!({"mh_adapter": true})).expect_err("required");
        assert!(error.to_string().contains("non_linearity"), "{error}");
    }

    #[test]
    fn written_back_as_read() {
        for changes in [
            json!({"reduction_factor": {"1": 8, "11": 0.5, "default": 2}, "leave_out": [0, 3]}),
            json!({"ln_after": true, "adapter_residual_before_ln": true, "residual_before_ln": "post_add"}),
            json!({"adapter_residual_before_ln": true, "inv_adapter_reduction_factor": 2.5, "init_weights_seed": 42}),
            json!({"is_parallel": true, "residual_before_ln": "post_add", "scaling": 2.5}),
            json!({"phm_layer": true, "phm_dim": 2, "phm_rank": 3, "factorized_phm_W": false, "phm_c_init": "uniform"}),
            json!({"phm_dim": 8, "phm_rank": null, "shared_W_phm": true, "hypercomplex_nonlinearity": "phm"}),
            json!({"inv_adapter": "glow", "inv_adapter_reduction_factor": 4, "architecture": null}),
            json!({"architecture": "bottleneck", "new_attention_norm": false, "nested": {"kept": [1, null]}}),
        ] {
            round_trip(&changed(changes));
        }
    }

    #[test]
    fn the_nested_invertible_block_of_version_one_is_read() {
        let old = changed(json!({"invertible_adapter":
            {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2}}));
        assert_eq!(read(&old), BottleneckConfig::seq_bn_inv());
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        for (key, bad) in [
            ("init_weights", json!("bart")),
            ("inv_adapter", json!("glov")),
            ("inv_adapter", json!("nice")),
            ("leave_out", json!([0, -1])),
            ("reduction_factor", json!({"one": 4})),
            ("reduction_factor", json!({"1": "four"})),
            ("reduction_factor", json!("four")),
            ("reduction_factor", json!(-2)),
            ("residual_before_ln", json!("pre_add")),
            ("scaling", json!("fixed")),
            ("scaling", json!([1])),
            ("dropout", json!(1.5)),
            ("architecture", json!("lora")),
        ] {
            let error = serde_json::from_value::<BottleneckConfig>(changed(json!({key: bad}))).expect_err(key);
            assert!(error.to_string().contains(&format!("`{key}")), "{error}");
        }
        for (key, bad) in [
            ("phm_dim", json!(-4)),
            ("phm_c_init", json!("zero")),
            ("phm_rank", Value::Null),
        ] {
            let value = changed(json!({"phm_layer": true, key: bad}));
            let error = serde_json::from_value::<BottleneckConfig>(value).expect_err(key);
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
    }
}
