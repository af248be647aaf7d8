//! Configurations as files and config strings hold them.

use adapters_core::{AdapterHub, AnyMethod, Codec, ConfigError, Error, Format, Method, StoredConfig};
use adapters_methods::{MethodEntry, Registry};
use serde_json::{Map, Value, json};

use crate::{BottleneckConfig, Init, Reduction, ResidualBeforeLn, Scaling};

/// `SeqBnConfig().to_dict()` of the `adapters` library.
const SEQ_BN: &str = r#"{"adapter_residual_before_ln": false, "cross_adapter": false, "dropout": 0.0,
    "factorized_phm_W": true, "factorized_phm_rule": false, "hypercomplex_nonlinearity": "glorot-uniform",
    "init_weights": "bert", "init_weights_seed": null, "inv_adapter": null, "inv_adapter_reduction_factor": null,
    "is_parallel": false, "learn_phm": true, "leave_out": [], "ln_after": false, "ln_before": false,
    "mh_adapter": false, "non_linearity": "relu", "original_ln_after": true, "original_ln_before": true,
    "output_adapter": true, "phm_bias": true, "phm_c_init": "normal", "phm_dim": 4, "phm_init_range": 0.0001,
    "phm_layer": false, "phm_rank": 1, "reduction_factor": 16, "residual_before_ln": true, "scaling": 1.0,
    "shared_W_phm": false, "shared_phm_rule": true, "stochastic_depth": 0.0, "use_gating": false}"#;

/// `SEQ_BN` with some fields changed or added.
fn changed(changes: Value) -> Map<String, Value> {
    let mut all: Map<String, Value> = serde_json::from_str(SEQ_BN).unwrap();
    all.extend(changes.as_object().unwrap().clone());
    all
}

/// Reads and checks the object of a file.
fn read(fields: &Map<String, Value>, versioned: bool) -> Option<Result<BottleneckConfig, ConfigError>> {
    let read = <BottleneckConfig as Codec<AdapterHub>>::read(&StoredConfig {
        format: Format::AdapterHub,
        fields,
        version: None,
        versioned,
    });
    read.map(|config| config.and_then(|config| config.check().map(|()| config)))
}

fn parse(text: &str) -> Result<AnyMethod, Error> {
    let entry = MethodEntry::of::<BottleneckConfig>();
    Registry::default().with(entry).parse(text)
}

#[test]
fn presets_equal_those_of_the_adapters_library() {
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
        let preset = BottleneckConfig::presets().iter().find(|p| p.identifier == name);
        let config = (preset.unwrap().config)();
        let published = changed(changes);
        assert_eq!(config.published(), published, "{name}");
        assert_eq!(read(&published, true), Some(Ok(config)), "{name}");
    }
    for preset in BottleneckConfig::presets() {
        assert_eq!((preset.config)().check(), Ok(()), "{}", preset.identifier);
    }
}

#[test]
fn absent_fields_take_the_defaults_of_the_base_class() {
    let short = json!({"mh_adapter": false, "output_adapter": true, "reduction_factor": 16,
        "non_linearity": "relu", "original_ln_before": true});
    let config = read(short.as_object().unwrap(), true).unwrap().unwrap();
    let stochastic_depth = Some(0.0);
    assert_eq!(
        BottleneckConfig {
            stochastic_depth,
            ..config
        },
        BottleneckConfig::seq_bn()
    );
    let short = json!({"reduction_factor": 16});
    let error = read(short.as_object().unwrap(), true).unwrap().unwrap_err();
    assert!(error.to_string().contains("`mh_adapter`"), "{error}");
}

#[test]
fn files_are_written_back_as_read() {
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
        let fields = changed(changes);
        assert_eq!(read(&fields, true).unwrap().unwrap().published(), fields);
    }
}

#[test]
fn the_nested_invertible_block_of_version_one_is_read() {
    let old = changed(json!({"invertible_adapter":
        {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2}}));
    assert_eq!(read(&old, true), Some(Ok(BottleneckConfig::seq_bn_inv())));
}

#[test]
fn files_without_a_version_mean_the_old_gelu() {
    let fields = changed(json!({"non_linearity": "gelu"}));
    let name = |versioned| read(&fields, versioned).unwrap().unwrap().non_linearity;
    assert_eq!(name(false), "gelu_new");
    assert_eq!(name(true), "gelu");
}

#[test]
fn bad_files_are_refused_by_field() {
    for (field, bad) in [
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
    ] {
        let error = read(&changed(json!({field: bad})), true).unwrap().unwrap_err();
        assert!(error.to_string().contains(&format!("`{field}")), "{error}");
    }
    for (field, bad) in [
        ("phm_dim", json!(-4)),
        ("phm_dim", json!(0)),
        ("phm_c_init", json!("zero")),
        ("phm_rank", Value::Null),
        ("phm_rank", json!(0)),
        ("phm_init_range", json!(0.0)),
        ("init_weights", json!("houlsby")),
    ] {
        let error = read(&changed(json!({"phm_layer": true, field: bad})), true)
            .unwrap()
            .unwrap_err();
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
    }
    assert_eq!(read(&changed(json!({"architecture": "lora"})), true), None);
}

#[test]
fn values_out_of_range_are_refused_by_field() {
    let base = BottleneckConfig::seq_bn;
    for (config, field) in [
        (
            BottleneckConfig {
                output_adapter: false,
                ..base()
            },
            "output_adapter",
        ),
        (
            BottleneckConfig {
                reduction_factor: 0.0.into(),
                ..base()
            },
            "reduction_factor",
        ),
        (
            BottleneckConfig {
                reduction_factor: f64::NAN.into(),
                ..base()
            },
            "reduction_factor",
        ),
        (
            BottleneckConfig {
                reduction_factor: Reduction::PerLayer(Default::default()),
                ..base()
            },
            "reduction_factor",
        ),
        (
            BottleneckConfig {
                scaling: Scaling::Fixed(f64::INFINITY),
                ..base()
            },
            "scaling",
        ),
        (
            BottleneckConfig {
                stochastic_depth: Some(-0.1),
                ..base()
            },
            "stochastic_depth",
        ),
        (
            BottleneckConfig {
                inv_adapter_reduction_factor: Some(0.5),
                ..BottleneckConfig::seq_bn_inv()
            },
            "inv_adapter_reduction_factor",
        ),
        (
            BottleneckConfig {
                original_ln_before: false,
                residual_before_ln: ResidualBeforeLn::PostAdd,
                ..base()
            },
            "residual_before_ln",
        ),
        (
            BottleneckConfig {
                init_weights: Init::Houlsby,
                ..BottleneckConfig::compacter()
            },
            "init_weights",
        ),
    ] {
        let error = config.check().unwrap_err();
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
    }
}

#[test]
fn config_strings_read_and_print() {
    for text in [
        "seq_bn",
        "double_seq_bn",
        "par_bn[scaling=2]",
        "scaled_par_bn",
        "seq_bn_inv[inv_adapter=glow]",
        "compacter++[phm_dim=2]",
        "adapter_plus[mh_adapter=true]",
        "seq_bn[non_linearity=prelu,reduction_factor=8]",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
    for (old, new) in [("pfeiffer", "seq_bn"), ("houlsby+inv", "double_seq_bn_inv")] {
        assert_eq!(parse(old).unwrap().to_string(), new);
    }
}

#[test]
fn mistakes_in_config_strings_are_named() {
    for (text, message) in [
        ("seq_bn[reduction=4]", "did you mean `reduction_factor`?"),
        ("seq_bn[reduction_factor=0]", "`reduction_factor` is 0, expected"),
        ("seq_bn[non_linearity=rellu]", "did you mean `relu`?"),
    ] {
        let error = parse(text).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(message), "{text}: {source}");
    }
}
