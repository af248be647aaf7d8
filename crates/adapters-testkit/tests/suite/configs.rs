//! The configuration objects of the golden cases are written back as they were read.

use std::fs;
use std::path::{Path, PathBuf};

use adapters::METHODS;
use adapters::core::StoredConfig;
use adapters::models::Pretrained;
use adapters::{AdapterSet, Format, Host, method};
use adapters_testkit::golden::chain;
use burn::tensor::Device;
use serde_json::{Value, json};

/// The folders in `dir`, in order; none where there is no such folder.
fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Reads and writes the configuration of an AdapterHub folder; false for a folder of peft.
fn written_as_read(folder: &Path, host: &dyn Host) -> bool {
    let Ok(text) = fs::read_to_string(folder.join("adapter_config.json")) else {
        return false;
    };
    let file: Value = serde_json::from_str(&text).unwrap();
    let Some(fields) = file["config"].as_object() else {
        return false;
    };
    let stored = StoredConfig {
        format: Format::AdapterHub,
        fields,
        // That of the library which wrote the golden cases.
        version: Some((1, 3)),
        versioned: true,
    };
    let path = folder.display();
    let method = METHODS.read(&stored).unwrap_or_else(|e| panic!("{path}: {e:?}"));
    let sites = method.target().select(host).unwrap().sites;
    let sites: Vec<_> = sites.iter().collect();
    let written = method.write(Format::AdapterHub, &sites, host);
    let written = written.unwrap_or_else(|e| panic!("{path}: {e:?}"));
    assert_eq!(&written, fields, "{path}");
    true
}

#[test]
fn adapterhub_configurations_are_written_as_read() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let larger = std::env::var_os("ADAPTERS_GOLDEN_DIR").map(PathBuf::from);
    let mut seen = 0;
    for root in [here].into_iter().chain(larger) {
        for set in folders(&root).iter().filter(|set| set.join("base").is_dir()) {
            // The larger folder has models that this library does not compute.
            let model = Pretrained::open(set.join("base")).and_then(|base| base.model(&Device::flex()));
            let Ok(model) = model else { continue };
            let adapters = folders(&set.join("cases"))
                .into_iter()
                .flat_map(|case| folders(&case.join("adapters")));
            seen += adapters.filter(|folder| written_as_read(folder, &model)).count();
        }
    }
    assert!(seen >= 30, "only {seen} configurations of AdapterHub were found");
}

#[test]
fn a_type_of_a_file_that_is_misspelled_is_told_the_right_one() {
    for (format, key, found, right) in [
        (Format::Peft, "peft_type", "lora", Some("LORA")),
        (Format::Peft, "peft_type", "Prompt-Tuning", Some("PROMPT_TUNING")),
        (Format::AdapterHub, "architecture", "LoRA", Some("lora")),
        (Format::Peft, "peft_type", "no such type", None),
    ] {
        let fields = json!({key: found, "target_modules": ["query"]});
        let stored = StoredConfig {
            format,
            fields: fields.as_object().unwrap(),
            version: Some((1, 3)),
            versioned: true,
        };
        let error = METHODS.read(&stored).unwrap_err().to_string();
        let named = right.map(|right| format!("; did you mean `{right}`?"));
        match named {
            Some(named) => assert!(error.contains(&named), "{error}"),
            None => assert!(!error.contains("did you mean"), "{error}"),
        }
    }
}

/// A number of peft's that no configuration has is refused by the name that stands in the file, whatever ours is.
#[test]
fn a_field_of_peft_is_named_as_in_the_file() {
    let read = |fields: &serde_json::Value| {
        let stored = StoredConfig {
            format: Format::Peft,
            fields: fields.as_object().unwrap(),
            version: None,
            versioned: false,
        };
        METHODS.read(&stored).map(drop).map_err(|error| chain(&error))
    };
    let lora = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["query"]});
    let vera = json!({"peft_type": "VERA", "r": 2, "d_initial": 0.1, "vera_dropout": 0.0, "target_modules": ["query"]});
    let prefix = json!({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2, "prefix_projection": true, "encoder_hidden_size": 4});
    for (base, field, values) in [
        (&lora, "lora_alpha", [json!(1e300), json!("x"), json!([1])]),
        (&lora, "lora_dropout", [json!(1), json!("x"), json!([1])]),
        (&vera, "vera_dropout", [json!(1), json!("x"), json!([1])]),
        (&vera, "d_initial", [json!(1e300), json!("x"), json!([1])]),
        (&prefix, "num_virtual_tokens", [json!(0), json!("x"), json!([1])]),
        (&prefix, "encoder_hidden_size", [json!(0), json!("x"), json!([1])]),
    ] {
        for variant in [
            None,
            Some(("use_dora", json!(true))),
            Some(("kasa_config", json!({"beta": 1e-4, "gamma": 1e-3}))),
        ] {
            let mut fields = base.clone();
            if let Some((key, value)) = variant.filter(|_| field.starts_with("lora")) {
                fields[key] = value;
            }
            read(&fields).unwrap_or_else(|error| panic!("{fields}: {error}"));
            for value in &values {
                fields[field] = value.clone();
                let error = read(&fields).unwrap_err();
                assert!(error.contains(&format!("`{field}`")), "{fields}: {error}");
            }
        }
    }
}

/// As in peft: the first number of the path, which the layers of a decoder begin at zero again.
#[test]
fn layers_of_a_decoder_behind_an_encoder_are_counted_from_zero() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/bart/base");
    let model = Pretrained::open(folder).unwrap().model(&Device::flex()).unwrap();
    let mut set = AdapterSet::new();
    let lora = method("lora[r=2,target_modules=[q_proj],layers=[1]]").unwrap();
    set.attach("a", lora, &model, 1, &Device::flex()).unwrap();
    let paths: Vec<&str> = set
        .attached("a")
        .unwrap()
        .layers()
        .map(|layer| layer.info.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "encoder.layers.1.self_attn.q_proj",
            "decoder.layers.1.self_attn.q_proj",
            "decoder.layers.1.encoder_attn.q_proj"
        ]
    );
}
