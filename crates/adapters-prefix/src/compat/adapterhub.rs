//! The `config` object of the reference's `adapter_config.json`, key for key, and the way to and from
//! [`PrefixTuningConfig`]. Recipes and config strings use the same keys.

use adapters_core::config::{keep, kept};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::PrefixError;
use crate::config::{Form, Gating, PrefixTuningConfig, Reparametrization};

const ARCHITECTURE: &str = "prefix_tuning";

/// A prefix tuning `config` object as AdapterHub `adapters` 1.3.0 writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefixTuningWire {
    /// `prefix_tuning`.
    pub architecture: String,
    /// Width of the MLP; without meaning when `flat`.
    pub bottleneck_size: i64,
    /// Prefixes in cross-attention.
    pub cross_prefix: bool,
    /// Dropout on the vectors.
    pub dropout: f64,
    /// Prefixes in the encoder.
    pub encoder_prefix: bool,
    /// Train the vectors themselves.
    pub flat: bool,
    /// Seed of every module.
    pub init_weights_seed: Option<i64>,
    /// Layers without prefix.
    pub leave_out: Vec<i64>,
    /// Activation of the MLP; without meaning when `flat`.
    pub non_linearity: String,
    /// Number of vectors a layer.
    pub prefix_length: i64,
    /// With `use_gating`: one gate for keys and values.
    pub shared_gating: bool,
    /// A learned gate on the vectors.
    pub use_gating: bool,
    /// `peft` for peft's definition. In no file: a peft file is read as what it is.
    #[serde(skip_serializing_if = "Form::is_adapterhub")]
    pub form: Form,
    /// Every other key.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for PrefixTuningWire {
    fn default() -> Self {
        Self::from(&PrefixTuningConfig::prefix_tuning())
    }
}

fn index(field: &'static str, found: i64) -> Result<usize, PrefixError> {
    usize::try_from(found).map_err(|_| PrefixError::OutOfRange {
        field,
        expected: "a whole number >= 0",
        found: found.to_string(),
    })
}

/// Refuses keys in `extra` that the configuration writes itself.
pub(crate) fn check_extra(config: &PrefixTuningConfig) -> Result<(), PrefixError> {
    let mut wire = PrefixTuningWire::from(config);
    let extra = std::mem::take(&mut wire.extra);
    let known = serde_json::to_value(&wire).unwrap_or_default();
    match extra.keys().find(|key| known.get(key).is_some()) {
        Some(key) => Err(PrefixError::Reserved { key: key.clone() }),
        None => Ok(()),
    }
}

impl TryFrom<PrefixTuningWire> for PrefixTuningConfig {
    type Error = PrefixError;

    fn try_from(wire: PrefixTuningWire) -> Result<Self, PrefixError> {
        if wire.architecture != ARCHITECTURE {
            let expected = ARCHITECTURE.to_owned();
            return Err(PrefixError::Unknown {
                field: "architecture",
                expected,
                found: wire.architecture,
            });
        }
        let mut extra = wire.extra;
        let reparametrization = if wire.flat {
            keep(&mut extra, "bottleneck_size", wire.bottleneck_size.into(), 512.into());
            keep(&mut extra, "non_linearity", wire.non_linearity.into(), "tanh".into());
            Reparametrization::Flat
        } else {
            let bottleneck_size = index("bottleneck_size", wire.bottleneck_size)?;
            Reparametrization::Mlp {
                bottleneck_size,
                non_linearity: wire.non_linearity,
            }
        };
        let gating = match (wire.use_gating, wire.shared_gating) {
            (true, true) => Gating::Shared,
            (true, false) => Gating::PerMatrix,
            (false, shared) => {
                keep(&mut extra, "shared_gating", shared.into(), true.into());
                Gating::Off
            }
        };
        let config = Self {
            prefix_length: index("prefix_length", wire.prefix_length)?,
            reparametrization,
            encoder_prefix: wire.encoder_prefix,
            cross_prefix: wire.cross_prefix,
            leave_out: wire
                .leave_out
                .into_iter()
                .map(|id| index("leave_out", id))
                .collect::<Result<_, _>>()?,
            dropout: wire.dropout,
            gating,
            form: wire.form,
            init_seed: wire.init_weights_seed,
            extra,
        };
        config.check()?;
        Ok(config)
    }
}

impl From<&PrefixTuningConfig> for PrefixTuningWire {
    fn from(config: &PrefixTuningConfig) -> Self {
        let mut extra = config.extra.clone();
        let (bottleneck_size, non_linearity) = match &config.reparametrization {
            Reparametrization::Mlp {
                bottleneck_size,
                non_linearity,
            } => (*bottleneck_size as i64, non_linearity.clone()),
            Reparametrization::Flat => (
                kept(&mut extra, "bottleneck_size", 512),
                kept(&mut extra, "non_linearity", "tanh".to_owned()),
            ),
        };
        let shared_gating = match config.gating {
            Gating::Off => kept(&mut extra, "shared_gating", true),
            other => other == Gating::Shared,
        };
        Self {
            architecture: ARCHITECTURE.to_owned(),
            bottleneck_size,
            cross_prefix: config.cross_prefix,
            dropout: config.dropout,
            encoder_prefix: config.encoder_prefix,
            flat: config.reparametrization == Reparametrization::Flat,
            init_weights_seed: config.init_seed,
            leave_out: config.leave_out.iter().map(|id| *id as i64).collect(),
            non_linearity,
            prefix_length: config.prefix_length as i64,
            shared_gating,
            use_gating: config.gating != Gating::Off,
            form: config.form,
            extra,
        }
    }
}

impl From<PrefixTuningConfig> for PrefixTuningWire {
    fn from(config: PrefixTuningConfig) -> Self {
        Self::from(&config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `PrefixTuningConfig().to_dict()` of the reference.
    const DEFAULT: &str = r#"{"architecture": "prefix_tuning", "bottleneck_size": 512, "cross_prefix": true, "dropout": 0.0,
        "encoder_prefix": true, "flat": false, "init_weights_seed": null, "leave_out": [], "non_linearity": "tanh",
        "prefix_length": 30, "shared_gating": true, "use_gating": false}"#;

    /// `DEFAULT` with some keys changed or added.
    fn changed(changes: Value) -> Value {
        let mut all: Value = serde_json::from_str(DEFAULT).expect("literal");
        for (key, value) in changes.as_object().expect("an object") {
            all[key] = value.clone();
        }
        all
    }

    fn read(value: &Value) -> PrefixTuningConfig {
        serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
    }

    fn round_trip(value: &Value) {
        assert_eq!(serde_json::to_value(read(value)).expect("plain data"), *value);
    }

    #[test]
    fn presets_equal_the_reference() {
        for (name, changes) in [
            ("prefix_tuning", json!({})),
            ("prefix_tuning_flat", json!({"flat": true})),
        ] {
            let config = PrefixTuningConfig::preset(name).expect(name);
            let all = changed(changes);
            assert_eq!(serde_json::to_value(&config).expect("plain data"), all);
            assert_eq!(read(&all), config);
            let text = toml::to_string(&config).expect("plain data");
            assert_eq!(toml::from_str::<PrefixTuningConfig>(&text).expect(&text), config);
        }
        assert_eq!(read(&json!({})), PrefixTuningConfig::default());
    }

    #[test]
    fn written_back_as_read() {
        for changes in [
            json!({"prefix_length": 5, "bottleneck_size": 800, "leave_out": [0, 11], "init_weights_seed": 42}),
            json!({"flat": true, "bottleneck_size": 8, "non_linearity": "relu", "dropout": 0.25}),
            json!({"use_gating": true, "shared_gating": false, "cross_prefix": false}),
            json!({"shared_gating": false, "encoder_prefix": false}),
            json!({"unknown": {"kept": [1, null]}, "version": "3.2.0"}),
        ] {
            round_trip(&changed(changes));
        }
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        for (key, bad) in [
            ("architecture", json!("lora")),
            ("prefix_length", json!(-3)),
            ("prefix_length", json!(0)),
            ("bottleneck_size", json!(0)),
            ("leave_out", json!([-1])),
            ("non_linearity", json!("tanhh")),
            ("dropout", json!(1.0)),
        ] {
            let error = serde_json::from_value::<PrefixTuningConfig>(changed(json!({key: bad}))).expect_err(key);
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
    }
}
