//! The `config` object of the reference's `adapter_config.json`, key for key, and the way to and from
//! [`ReftConfig`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ReftError;
use crate::config::{Layers, ReftConfig};

const ARCHITECTURE: &str = "reft";

/// A ReFT `config` object as AdapterHub `adapters` 1.3.0 writes it, and `subtract_projection`, which it forgets.
/// Keys that the reference's base class requires are required here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReftWire {
    /// `reft`.
    #[serde(default = "architecture")]
    pub architecture: String,
    /// Dropout on the edited states.
    #[serde(default = "dropout")]
    pub dropout: f64,
    /// Name of the parameters' dtype.
    #[serde(default)]
    pub dtype: Option<String>,
    /// Seed of every module.
    #[serde(default)]
    pub init_weights_seed: Option<i64>,
    /// Layers whose output is edited.
    pub layers: LayersWire,
    /// Name of the activation.
    #[serde(default)]
    pub non_linearity: Option<String>,
    /// Keep W orthonormal.
    pub orthogonality: bool,
    /// The reference adapts nothing where this is false, so that is refused.
    #[serde(default = "output")]
    pub output_reft: bool,
    /// Positions edited at the start.
    pub prefix_positions: i64,
    /// Rank of the edit.
    pub r: i64,
    /// Subtract `W h`; absent from the reference's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtract_projection: Option<bool>,
    /// Positions edited at the end.
    pub suffix_positions: i64,
    /// One unit for both ends.
    #[serde(default)]
    pub tied_weights: bool,
    /// Every other key.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `layers`: `"all"` or layer numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`layers` must be \"all\" or a list of layer numbers")]
pub enum LayersWire {
    /// `"all"`.
    Name(String),
    /// Layer numbers, counted from 0.
    Ids(Vec<i64>),
}

fn architecture() -> String {
    ARCHITECTURE.to_owned()
}
fn dropout() -> f64 {
    0.05
}
fn output() -> bool {
    true
}

fn index(field: &'static str, found: i64) -> Result<usize, ReftError> {
    usize::try_from(found).map_err(|_| ReftError::OutOfRange {
        field,
        expected: "a whole number >= 0",
        found: found.to_string(),
    })
}

/// Refuses keys in `extra` that the configuration writes itself.
pub(crate) fn check_extra(config: &ReftConfig) -> Result<(), ReftError> {
    let mut wire = ReftWire::from(config);
    let extra = std::mem::take(&mut wire.extra);
    let known = serde_json::to_value(&wire).unwrap_or_default();
    match extra.keys().find(|key| known.get(key).is_some()) {
        Some(key) => Err(ReftError::Reserved { key: key.clone() }),
        None => Ok(()),
    }
}

impl TryFrom<ReftWire> for ReftConfig {
    type Error = ReftError;

    fn try_from(wire: ReftWire) -> Result<Self, ReftError> {
        if wire.architecture != ARCHITECTURE {
            let expected = ARCHITECTURE.to_owned();
            return Err(ReftError::Unknown {
                field: "architecture",
                expected,
                found: wire.architecture,
            });
        }
        if !wire.output_reft {
            let expected = "true, as nothing is adapted otherwise";
            return Err(ReftError::Conflict {
                field: "output_reft",
                expected,
                found: "false".to_owned(),
            });
        }
        let layers = match wire.layers {
            LayersWire::Name(name) if name == "all" => Layers::All,
            LayersWire::Name(found) => {
                let expected = "all, or a list of layer numbers".to_owned();
                return Err(ReftError::Unknown {
                    field: "layers",
                    expected,
                    found,
                });
            }
            LayersWire::Ids(ids) => Layers::Only(
                ids.into_iter()
                    .map(|id| index("layers", id))
                    .collect::<Result<_, _>>()?,
            ),
        };
        let config = Self {
            layers,
            prefix_positions: index("prefix_positions", wire.prefix_positions)?,
            suffix_positions: index("suffix_positions", wire.suffix_positions)?,
            r: index("r", wire.r)?,
            orthogonality: wire.orthogonality,
            subtract_projection: wire.subtract_projection,
            tied_weights: wire.tied_weights,
            dropout: wire.dropout,
            non_linearity: wire.non_linearity,
            dtype: wire.dtype,
            init_seed: wire.init_weights_seed,
            extra: wire.extra,
        };
        config.check()?;
        Ok(config)
    }
}

impl From<&ReftConfig> for ReftWire {
    fn from(config: &ReftConfig) -> Self {
        Self {
            architecture: architecture(),
            dropout: config.dropout,
            dtype: config.dtype.clone(),
            init_weights_seed: config.init_seed,
            layers: match &config.layers {
                Layers::All => LayersWire::Name("all".to_owned()),
                Layers::Only(ids) => LayersWire::Ids(ids.iter().map(|id| *id as i64).collect()),
            },
            non_linearity: config.non_linearity.clone(),
            orthogonality: config.orthogonality,
            output_reft: true,
            prefix_positions: config.prefix_positions as i64,
            r: config.r as i64,
            subtract_projection: config.subtract_projection,
            suffix_positions: config.suffix_positions as i64,
            tied_weights: config.tied_weights,
            extra: config.extra.clone(),
        }
    }
}

impl From<ReftConfig> for ReftWire {
    fn from(config: ReftConfig) -> Self {
        Self::from(&config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `LoReftConfig().to_dict()` of the reference.
    const DEFAULT: &str = r#"{"architecture": "reft", "dropout": 0.05, "dtype": null, "init_weights_seed": null,
        "layers": "all", "non_linearity": null, "orthogonality": true, "output_reft": true, "prefix_positions": 3,
        "r": 1, "suffix_positions": 0, "tied_weights": false}"#;

    /// `DEFAULT` with some keys changed or added.
    fn changed(changes: Value) -> Value {
        let mut all: Value = serde_json::from_str(DEFAULT).expect("literal");
        for (key, value) in changes.as_object().expect("an object") {
            all[key] = value.clone();
        }
        all
    }

    fn read(value: &Value) -> ReftConfig {
        serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
    }

    fn round_trip(value: &Value) {
        assert_eq!(serde_json::to_value(read(value)).expect("plain data"), *value);
    }

    #[test]
    fn presets_equal_the_reference() {
        for (name, orthogonality, subtract) in [
            ("loreft", true, true),
            ("noreft", false, true),
            ("direft", false, false),
        ] {
            let config = ReftConfig::preset(name).expect(name);
            // The reference leaves `subtract_projection` out; it is written here and read there.
            let silent = changed(json!({"orthogonality": orthogonality}));
            assert_eq!(read(&silent).for_method(name), Ok(config.clone()));
            let all = changed(json!({"orthogonality": orthogonality, "subtract_projection": subtract}));
            assert_eq!(serde_json::to_value(&config).expect("plain data"), all);
            assert_eq!(read(&all), config);
            let text = toml::to_string(&config).expect("plain data");
            assert_eq!(toml::from_str::<ReftConfig>(&text).expect(&text), config);
        }
    }

    #[test]
    fn absent_keys_take_the_defaults_of_the_base_class() {
        let short = json!({"layers": "all", "prefix_positions": 3, "suffix_positions": 0, "r": 1,
            "orthogonality": true});
        assert_eq!(read(&short).for_method("loreft"), Ok(ReftConfig::loreft()));
        let error = serde_json::from_value::<ReftConfig>(json!({"layers": "all"})).expect_err("required");
        assert!(error.to_string().contains("`orthogonality`"), "{error}");
    }

    #[test]
    fn written_back_as_read() {
        for changes in [
            json!({}),
            json!({"layers": [0, 2], "prefix_positions": 0, "suffix_positions": 2, "r": 4, "tied_weights": true}),
            json!({"orthogonality": false, "subtract_projection": false, "non_linearity": "relu"}),
            json!({"dtype": "bfloat16", "init_weights_seed": 42, "dropout": 0.0}),
            json!({"unknown": {"kept": [1, null]}}),
        ] {
            round_trip(&changed(changes));
        }
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        for (key, bad) in [
            ("architecture", json!("lora")),
            ("layers", json!("some")),
            ("layers", json!([])),
            ("layers", json!([-1])),
            ("layers", json!(3)),
            ("prefix_positions", json!(-1)),
            ("suffix_positions", json!(-1)),
            ("r", json!(0)),
            ("dropout", json!(1.0)),
            ("dtype", json!("int8")),
            ("non_linearity", json!("rellu")),
            ("output_reft", json!(false)),
        ] {
            let error = serde_json::from_value::<ReftConfig>(changed(json!({key: bad}))).expect_err(key);
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
    }
}
