//! Trainable tokens inside peft's LoRA are a union: its files (`tokens/make.py`), its outputs, and the same files again.

use std::path::{Path, PathBuf};

use adapters::core::{Format, Tensors};
use adapters::models::{Model, Pretrained, TextInput};
use adapters::store::{LoadOptions, load_adapter, read_json, read_safetensors, save_adapter, write_json};
use adapters::{AdapterSet, Ctx, METHODS};
use adapters_testkit::golden::chain;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::{Map, Value};

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn hidden(base: &Model, set: &AdapterSet, device: &Device) -> TensorData {
    let (inputs, _) = read_safetensors(&crate_dir().join("golden/bert/inputs.safetensors")).unwrap();
    let mask = Tensor::<2, Int>::from_data(inputs["attention_mask"].clone(), device);
    let input = TextInput {
        ids: Tensor::from_data(inputs["input_ids"].clone(), device),
        token_types: None,
        padding: Some(mask.equal_elem(0)),
        packing: None,
    };
    base.forward(input, &mut Ctx::new(set)).unwrap().into_data()
}

fn far(own: &TensorData, wanted: &TensorData) -> f32 {
    assert_eq!(own.shape(), wanted.shape());
    let pairs = own.iter::<f32>().zip(wanted.iter::<f32>());
    pairs.fold(0.0, |far, (own, wanted)| far.max((own - wanted).abs()))
}

fn files(dir: &Path) -> (Map<String, Value>, Tensors) {
    let config = read_json(&dir.join("adapter_config.json")).unwrap();
    (
        config,
        read_safetensors(&dir.join("adapter_model.safetensors")).unwrap().0,
    )
}

#[test]
fn tokens_inside_lora_are_read_and_written_as_peft_does() {
    let device = Device::flex();
    let base = Pretrained::open(crate_dir().join("golden/bert/base")).unwrap();
    let base = base.encoder(&device).unwrap();
    let plain = hidden(&base, &AdapterSet::new(), &device);
    for name in ["list", "layer"] {
        let dir = crate_dir().join("tests/tokens").join(name);
        let (expected, _) = read_safetensors(&dir.join("expected.safetensors")).unwrap();
        let load = |dir: &Path| {
            let mut set = AdapterSet::new();
            let options = LoadOptions {
                name: Some("a".to_owned()),
                ..LoadOptions::default()
            };
            load_adapter(dir, &mut set, &base, &METHODS, &options, &device)?;
            set.activate("a")?;
            Ok::<_, adapters::store::StoreError>(set)
        };
        let set = load(&dir).unwrap();
        let own = hidden(&base, &set, &device);
        assert!(far(&own, &expected["hidden"]) < 2e-5, "{name}");
        assert!(far(&own, &plain) > 1e-2, "{name}: the adapter does nothing");

        let out = tempfile::tempdir().unwrap();
        save_adapter(out.path(), Format::Peft, &set, "a", &base).unwrap();
        let ((config, tensors), (wanted, wanted_tensors)) = (files(out.path()), files(&dir));
        assert_eq!(tensors, wanted_tensors, "{name}");
        for (key, value) in &wanted {
            assert_eq!(config.get(key), Some(value), "{name}: {key}");
        }
        assert_eq!(config.len(), wanted.len(), "{name}: {config:?}");

        // What cannot be is named.
        for (value, says) in [
            (serde_json::json!([100_000]), "100000"),
            (
                serde_json::json!({"LayerNorm": [1]}),
                "embedding tables and linear layers only",
            ),
            (serde_json::json!("all"), "`trainable_token_indices`"),
            (serde_json::json!({"word_embeddings": 3}), "`trainable_token_indices`"),
            (serde_json::json!([3, 3]), "each once"),
        ] {
            let mut config = wanted.clone();
            config.insert("trainable_token_indices".to_owned(), value);
            write_json(&out.path().join("adapter_config.json"), &config).unwrap();
            let error = load(out.path()).unwrap_err();
            let error = chain(&error);
            assert!(error.contains(says), "{name}: {error}");
        }
    }
}
