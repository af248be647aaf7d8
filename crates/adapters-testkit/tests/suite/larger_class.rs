//! Files of peft that name modules as the class around a base model does.

use std::fs;
use std::path::{Path, PathBuf};

use adapters::core::Format;
use adapters::models::{Model, Pretrained};
use adapters::store::{LoadOptions, load_adapter, name_base, read_safetensors, save_adapter, write_safetensors};
use adapters::{AdapterSet, METHODS};
use burn::tensor::Device;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/modernbert_mlm")
}

fn model() -> Model {
    Pretrained::open(folder().join("base"))
        .unwrap()
        .model(&Device::flex())
        .unwrap()
}

/// The published adapter with other values in its configuration, and only the tensors whose keys `keep`.
fn adapter(changes: Value, keep: impl Fn(&str) -> bool) -> tempfile::TempDir {
    let published = folder().join("cases/peft_lora_all_linear/adapters/a");
    let dir = tempfile::tempdir().unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(published.join("adapter_config.json")).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let (mut tensors, _) = read_safetensors(&published.join("adapter_model.safetensors")).unwrap();
    tensors.retain(|key, _| keep(key));
    write_safetensors(&dir.path().join("adapter_model.safetensors"), &tensors, []).unwrap();
    dir
}

fn load(dir: &Path, model: &Model) -> Result<AdapterSet, String> {
    let mut set = AdapterSet::new();
    let options = LoadOptions {
        name: Some("a".to_owned()),
        ..LoadOptions::default()
    };
    let loaded = load_adapter(dir, &mut set, model, &METHODS, &options, &Device::flex());
    loaded.map(|_| set).map_err(|error| error.to_string())
}

#[test]
fn names_and_expressions_of_the_larger_class_are_read() {
    let model = model();
    for (target, layers) in [
        (json!("model\\.layers\\.[01]\\.attn\\.Wo"), 2),
        (json!(["model.layers.1.attn.Wo"]), 1),
        (json!(["attn.Wo"]), 3),
    ] {
        let dir = adapter(
            json!({"target_modules": target, "rank_pattern": {"model.layers.1.attn.Wo": 4}}),
            |key| {
                key.contains("attn.Wo.")
                    && match layers {
                        3 => true,
                        2 => !key.contains(".layers.2."),
                        _ => key.contains(".layers.1."),
                    }
            },
        );
        let set = load(dir.path(), &model).unwrap();
        let adapted: Vec<_> = set
            .attached("a")
            .unwrap()
            .layers()
            .map(|l| l.info.path.clone())
            .collect();
        assert_eq!(adapted.len(), layers, "{target}: {adapted:?}");
    }
    // A rank that only a pattern of the larger class gives.
    let keep = |key: &str| key.contains("model.layers.1.attn.Wo.");
    let dir = adapter(
        json!({"target_modules": ["model.layers.1.attn.Wo"], "r": 7, "rank_pattern": {"model.layers.1.attn.Wo": 4}}),
        keep,
    );
    load(dir.path(), &model).unwrap();
    let dir = adapter(json!({"target_modules": ["model.layers.1.attn.Wo"], "r": 7}), keep);
    assert!(
        load(dir.path(), &model).unwrap_err().contains("[7, 32]"),
        "another rank was accepted"
    );
}

#[test]
fn what_is_written_again_has_the_names_it_was_read_with() {
    let model = model();
    // With the layer of the head, and with names of modules that both classes have: the class is in the configuration then.
    let read = [
        adapter(json!({}), |_| true),
        adapter(json!({"target_modules": ["attn.Wo"]}), |key| key.contains("attn.Wo.")),
    ];
    for read in read {
        let set = load(read.path(), &model).unwrap();
        let dir = tempfile::tempdir().unwrap();
        save_adapter(dir.path(), Format::Peft, &set, "a", &model).unwrap();
        let keys = |dir: &Path| read_safetensors(&dir.join("adapter_model.safetensors")).unwrap().0;
        assert_eq!(keys(dir.path()), keys(read.path()));
        // The class that opens it stays the one whose names it has.
        let task_type = name_base(
            dir.path(),
            Format::Peft,
            "base",
            "ModernBertModel",
            Some("FEATURE_EXTRACTION"),
        );
        assert_eq!(task_type.unwrap(), None);
    }
}

#[test]
fn the_layer_of_a_head_is_adapted_where_the_file_has_it() {
    let model = model();
    let of_head = |set: &AdapterSet| set.attached("a").unwrap().layers().any(|l| l.info.path == "head.dense");
    let all = json!({"target_modules": ["dense", "Wo"]});
    let with = adapter(all.clone(), |key| key.contains("Wo.") || key.contains("dense"));
    assert!(of_head(&load(with.path(), &model).unwrap()));
    // As a class without this head writes it.
    let without = adapter(all, |key| key.contains("Wo."));
    assert!(!of_head(&load(without.path(), &model).unwrap()));
}
