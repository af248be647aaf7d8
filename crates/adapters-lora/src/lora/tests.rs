//! Tests of the configuration of LoRA.

use adapters_core::{AnyMethod, MethodEntry, Registry};
use serde_json::json;

use super::*;

fn parse(text: &str) -> Result<AnyMethod, Error> {
    Registry::default().with(MethodEntry::of::<LoraConfig>()).parse(text)
}

#[test]
fn bad_values_are_refused_by_name() {
    for (config, field) in [
        (LoraConfig::new(0), "`r` is 0"),
        (LoraConfig::new(8).with_alpha(f64::NAN), "`alpha` is NaN"),
        (LoraConfig::new(8).with_dropout(1.0), "`dropout` is 1"),
        (LoraConfig::new(8).with_init(Init::Ia3), "`init_weights` is ia3"),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    let none = LayerRoles {
        self_attention: false,
        ..LayerRoles::default()
    };
    assert!(LoraConfig::new(8).with_roles(none).check().is_err());
}

#[test]
fn the_scale_follows_patterns_and_rslora() {
    let mut config = LoraConfig::new(4).with_alpha(8.0);
    config.rank_pattern.insert("query".into(), 16);
    config.alpha_pattern.insert("value".into(), 2.0);
    let lora = &config;
    assert_eq!(lora.rank_and_scale("a.query").unwrap(), (16, 0.5));
    assert_eq!(lora.rank_and_scale("a.value").unwrap(), (4, 0.5));
    let lora = config.with_scaling(Scaling::RankStabilized);
    assert_eq!(lora.rank_and_scale("a.key").unwrap(), (4, 4.0));
}

#[test]
fn config_strings_read_and_print() {
    for text in [
        "lora",
        "lora[r=16,alpha=32]",
        "lora[attn_matrices=[q,k,v],output_lora=true]",
        "lora[target_modules=all-linear]",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn mistakes_in_config_strings_are_named() {
    for (text, parts) in [
        ("lora[rank=4]", &["unknown field `rank`", "known: "][..]),
        ("lora[alhpa=4]", &["did you mean `alpha`?"]),
        ("lora[r=0]", &["`r` is 0, expected at least 1"]),
        ("lora[r=x]", &["invalid type: string"]),
        ("lora[use_gating=true,use_rslora=true]", &["`use_rslora` is true"]),
        (
            "lorra",
            &["unknown adapter configuration `lorra`; did you mean `lora`?"],
        ),
        ("lora|lora[r=4]", &["`lora` and `lora[r=4]` both target `query`"]),
    ] {
        let error = parse(text).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let all = format!("{error}: {}", source.unwrap_or_default());
        for part in parts {
            assert!(all.contains(part), "{text}: {all}");
        }
    }
}

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

fn stored(format: Format, fields: &Map<String, Value>, version: Option<(u32, u32)>) -> StoredConfig<'_> {
    StoredConfig {
        format,
        fields,
        version,
        versioned: version.is_some(),
    }
}

#[test]
fn old_files_mean_alpha_equals_r() {
    let written = json!({"architecture": "lora", "r": 2, "alpha": 4, "init_weights": "bert"});
    let fields = written.as_object().unwrap();
    let registry = Registry::default().with(MethodEntry::of::<LoraConfig>());
    let read = |version| {
        let stored = stored(Format::AdapterHub, fields, version);
        registry.read(&stored).unwrap().to_string()
    };
    assert_eq!(read(Some((1, 3))), "lora[r=2,alpha=4,init_weights=bert]");
    assert_eq!(read(Some((1, 0))), "lora[r=2,alpha=2,init_weights=bert]");
    assert_eq!(read(None), "lora[r=2,alpha=2,init_weights=bert]");
}

#[test]
fn peft_files_are_refused_by_name() {
    for (fields, named) in [
        (
            json!({"peft_type": "LORA", "target_modules": ["q"], "init_lora_weights": "pissa"}),
            "init_lora_weights",
        ),
        (
            json!({"peft_type": "LORA", "target_modules": ["q"], "use_qalora": true}),
            "use_qalora",
        ),
        (json!({"peft_type": "LORA"}), "target_modules"),
    ] {
        let stored = stored(Format::Peft, fields.as_object().unwrap(), None);
        let error = <LoraConfig as Codec<Peft>>::read(&stored).unwrap().unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}
