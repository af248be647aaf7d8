//! Configurations as files and config strings hold them.

use adapters_core::config::{to_fields, write_architecture};
use adapters_core::{AdapterHub, AnyMethod, Codec, ConfigError, Error, Format, Method, Peft, StoredConfig, Tensors};
use adapters_methods::{MethodEntry, Registry};
use burn::tensor::TensorData;
use serde_json::{Map, Value, json};

use crate::{Definition, PrefixTuningConfig};

/// `PrefixTuningConfig().to_dict()` of the `adapters` library.
const DEFAULT: &str = r#"{"architecture": "prefix_tuning", "bottleneck_size": 512, "cross_prefix": true, "dropout": 0.0,
    "encoder_prefix": true, "flat": false, "init_weights_seed": null, "leave_out": [], "non_linearity": "tanh",
    "prefix_length": 30, "shared_gating": true, "use_gating": false}"#;

/// `DEFAULT` with some fields changed or added.
fn changed(changes: Value) -> Map<String, Value> {
    let mut all: Map<String, Value> = serde_json::from_str(DEFAULT).unwrap();
    all.extend(changes.as_object().unwrap().clone());
    all
}

/// Reads and checks the object of a file.
fn read<F: adapters_core::FileFormat>(fields: &Map<String, Value>) -> Option<Result<PrefixTuningConfig, ConfigError>>
where
    PrefixTuningConfig: Codec<F>,
{
    let read = <PrefixTuningConfig as Codec<F>>::read(&StoredConfig {
        format: F::FORMAT,
        fields,
        version: None,
        versioned: true,
    });
    read.map(|config| config.and_then(|config| config.check().map(|()| config)))
}

fn parse(text: &str) -> Result<AnyMethod, Error> {
    let entry = MethodEntry::of::<PrefixTuningConfig>();
    Registry::default().with(entry).parse(text)
}

#[test]
fn presets_equal_those_of_the_adapters_library() {
    let flat = (PrefixTuningConfig::prefix_tuning_flat(), json!({"flat": true}));
    for (config, changes) in [(PrefixTuningConfig::prefix_tuning(), json!({})), flat] {
        assert_eq!(read::<AdapterHub>(&changed(changes)), Some(Ok(config)));
    }
    let only = Map::from_iter([("architecture".to_owned(), "prefix_tuning".into())]);
    assert_eq!(read::<AdapterHub>(&only), Some(Ok(PrefixTuningConfig::default())));
    assert_eq!(read::<AdapterHub>(&changed(json!({"architecture": "lora"}))), None);
}

#[test]
fn files_are_written_back_as_read() {
    for changes in [
        json!({}),
        json!({"prefix_length": 5, "bottleneck_size": 800, "leave_out": [0, 11], "init_weights_seed": 42}),
        json!({"flat": true, "bottleneck_size": 8, "non_linearity": "relu", "dropout": 0.25}),
        json!({"use_gating": true, "shared_gating": false, "cross_prefix": false}),
        json!({"shared_gating": false, "encoder_prefix": false}),
        json!({"unknown": {"kept": [1, null]}, "version": "3.2.0"}),
    ] {
        let fields = changed(changes);
        let config = read::<AdapterHub>(&fields).unwrap().unwrap();
        let mut written = write_architecture(PrefixTuningConfig::NAME, &config, &[]);
        assert_eq!(written.shift_remove("form"), Some("adapterhub".into()));
        assert_eq!(written, fields);
    }
}

#[test]
fn bad_files_are_refused_by_field() {
    for (field, bad) in [
        ("prefix_length", json!(-3)),
        ("prefix_length", json!(0)),
        ("bottleneck_size", json!(0)),
        ("leave_out", json!([-1])),
        ("non_linearity", json!("tanhh")),
        ("dropout", json!(1.0)),
    ] {
        let error = read::<AdapterHub>(&changed(json!({field: bad}))).unwrap().unwrap_err();
        assert!(error.to_string().contains(&format!("`{field}")), "{error}");
    }
}

#[test]
fn config_strings_read_and_print() {
    for text in [
        "prefix_tuning",
        "prefix_tuning_flat[prefix_length=5]",
        "prefix_tuning[bottleneck_size=800,non_linearity=prelu,prefix_length=10]",
        "prefix_tuning[shared_gating=false,use_gating=true]",
        "prefix_tuning[cross_prefix=false,leave_out=[0,3]]",
        "prefix_tuning_flat[form=peft]",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
    let flat = parse("prefix_tuning[flat=true]").unwrap();
    assert_eq!(flat.to_string(), "prefix_tuning_flat");
}

#[test]
fn mistakes_in_config_strings_are_named() {
    for (text, message) in [
        ("prefix_tuning[prefix_lenght=4]", "did you mean `prefix_length`?"),
        ("prefix_tuning[prefix_length=0]", "`prefix_length` is 0, expected"),
        ("prefix_tuning[non_linearity=tan]", "did you mean `tanh`?"),
        ("prefix_tuning[form=hub]", "`form`: unknown variant `hub`"),
        ("prefix_tuning[form=peft,dropout=0.5]", "`dropout`"),
        ("prefix_tuning[form=peft,use_gating=true]", "`use_gating`"),
        ("prefix_tuning[form=peft,leave_out=[1]]", "`leave_out`"),
    ] {
        let error = parse(text).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(message), "{text}: {source}");
    }
}

#[test]
fn peft_files_are_read_or_refused_by_field() {
    let file = |fields: Value| {
        let mut all = Map::from_iter([("peft_type".to_owned(), "PREFIX_TUNING".into())]);
        all.extend(fields.as_object().unwrap().clone());
        read::<Peft>(&all)
    };
    let config = file(json!({
        "num_virtual_tokens": 4, "prefix_projection": true, "encoder_hidden_size": 9, "task_type": "CAUSAL_LM",
    }));
    let config = config.unwrap().unwrap();
    assert_eq!((config.definition, config.bottleneck_size), (Definition::Peft, 9));
    assert_eq!(
        to_fields(&config.extra, &[]),
        Map::from_iter([("task_type".to_owned(), "CAUSAL_LM".into())])
    );
    let method = AnyMethod::new(config).unwrap();
    assert_eq!(
        method.to_string(),
        "prefix_tuning[bottleneck_size=9,prefix_length=4,form=peft]"
    );
    let edits = method.capabilities().embeddings.unwrap();
    assert_eq!((edits.positions(), edits.first_position()), (4, 4));
    let tensors = |key: &str| Tensors::from([(key.to_owned(), TensorData::from([0.0f32]))]);
    let flat = method.adjusted_to(Format::Peft, &tensors("prompt_embeddings")).unwrap();
    assert_eq!(flat.to_string(), "prefix_tuning_flat[prefix_length=4,form=peft]");
    let network = tensors("prompt_encoder.embedding.weight");
    assert!(method.adjusted_to(Format::Peft, &network).is_none());
    assert!(read::<Peft>(&Map::from_iter([("peft_type".to_owned(), "LORA".into())])).is_none());
    for (fields, named) in [
        (json!({"num_virtual_tokens": 0}), "prefix_length"),
        (
            json!({"num_virtual_tokens": 1, "prefix_projection": true}),
            "encoder_hidden_size",
        ),
        (
            json!({"num_virtual_tokens": 1, "num_transformer_submodules": 3}),
            "num_transformer_submodules",
        ),
    ] {
        let error = file(fields).unwrap().unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}
