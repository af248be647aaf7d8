//! Configurations as files and config strings hold them.

use adapters_core::config::write_architecture;
use adapters_core::{AdapterHub, AnyMethod, Codec, ConfigError, Error, Format, Method, StoredConfig};
use adapters_methods::{MethodEntry, Registry};
use serde_json::{Map, Value, json};

use crate::ReftConfig;

/// `LoReftConfig().to_dict()` of the `adapters` library.
const DEFAULT: &str = r#"{"architecture": "reft", "dropout": 0.05, "dtype": null, "init_weights_seed": null,
    "layers": "all", "non_linearity": null, "orthogonality": true, "output_reft": true, "prefix_positions": 3,
    "r": 1, "suffix_positions": 0, "tied_weights": false}"#;

/// `DEFAULT` with some fields changed or added.
fn changed(changes: Value) -> Map<String, Value> {
    let mut all: Map<String, Value> = serde_json::from_str(DEFAULT).unwrap();
    all.extend(changes.as_object().unwrap().clone());
    all
}

/// Reads and checks the object of a file.
fn read(fields: &Map<String, Value>) -> Option<Result<ReftConfig, ConfigError>> {
    let read = <ReftConfig as Codec<AdapterHub>>::read(&StoredConfig {
        format: Format::AdapterHub,
        fields,
        version: None,
        versioned: true,
    });
    read.map(|config| config.and_then(|config| config.check().map(|()| config)))
}

fn parse(text: &str) -> Result<AnyMethod, Error> {
    Registry::default().with(MethodEntry::of::<ReftConfig>()).parse(text)
}

#[test]
fn presets_equal_those_of_the_adapters_library() {
    for (config, orthogonality, subtract) in [
        (ReftConfig::loreft(), true, true),
        (ReftConfig::noreft(), false, true),
        (ReftConfig::direft(), false, false),
    ] {
        // The library leaves `subtract_projection` out.
        let subtract_projection = None;
        let silent = changed(json!({"orthogonality": orthogonality}));
        let read_silent = ReftConfig {
            subtract_projection,
            ..config.clone()
        };
        assert_eq!(read(&silent), Some(Ok(read_silent)));
        let all = changed(json!({"orthogonality": orthogonality, "subtract_projection": subtract}));
        assert_eq!(read(&all), Some(Ok(config)));
    }
}

#[test]
fn absent_fields_take_the_defaults_of_the_base_class() {
    let short = json!({"architecture": "reft", "layers": "all", "prefix_positions": 3, "suffix_positions": 0, "r": 1,
        "orthogonality": true});
    let subtract_projection = None;
    let loreft = ReftConfig {
        subtract_projection,
        ..ReftConfig::loreft()
    };
    assert_eq!(read(short.as_object().unwrap()), Some(Ok(loreft)));
    let short = json!({"architecture": "reft", "layers": "all"});
    let error = read(short.as_object().unwrap()).unwrap().unwrap_err();
    assert!(error.to_string().contains("`orthogonality`"), "{error}");
    assert!(read(&changed(json!({"architecture": "lora"}))).is_none());
}

#[test]
fn files_are_written_back_as_read() {
    for changes in [
        json!({}),
        json!({"layers": [0, 2], "prefix_positions": 0, "suffix_positions": 2, "r": 4, "tied_weights": true}),
        json!({"orthogonality": false, "subtract_projection": false, "non_linearity": "relu"}),
        json!({"dtype": "float32", "init_weights_seed": 42, "dropout": 0.0}),
        json!({"unknown": {"kept": [1, null]}}),
    ] {
        let fields = changed(changes);
        let config = read(&fields).unwrap().unwrap();
        assert_eq!(write_architecture(ReftConfig::NAME, &config, &[]), fields);
    }
}

#[test]
fn bad_files_are_refused_by_field() {
    for (field, bad) in [
        ("layers", json!("some")),
        ("layers", json!([])),
        ("layers", json!([-1])),
        ("layers", json!(3)),
        ("prefix_positions", json!(-1)),
        ("prefix_positions", json!(0)),
        ("suffix_positions", json!(-1)),
        ("r", json!(0)),
        ("dropout", json!(1.0)),
        ("dtype", json!("int8")),
        ("dtype", json!("bfloat16")),
        ("non_linearity", json!("rellu")),
        ("output_reft", json!(false)),
    ] {
        let error = read(&changed(json!({field: bad}))).unwrap().unwrap_err();
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
    }
}

#[test]
fn config_strings_read_and_print() {
    for text in [
        "loreft",
        "noreft",
        "direft",
        "loreft[r=4,suffix_positions=2]",
        "direft[layers=[0,2],tied_weights=true]",
        "noreft[non_linearity=prelu]",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn mistakes_in_config_strings_are_named() {
    for (text, message) in [
        ("loreft[rank=4]", "unknown field `rank`"),
        ("loreft[suffix_position=4]", "did you mean `suffix_positions`?"),
        ("loreft[r=0]", "`r` is 0, expected"),
        ("noreft[prefix_positions=0]", "`prefix_positions` is 0, expected"),
        ("noreft[dtype=float16]", "`dtype` = float16 is not supported"),
        ("noreft[dtype=bfloat61]", "did you mean `bfloat16`?"),
    ] {
        let error = parse(text).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(message), "{text}: {source}");
    }
}
