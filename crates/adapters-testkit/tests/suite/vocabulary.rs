//! Bases and adapters as the Python libraries write them: PyTorch files, and other tokens than those of the base.

use std::fs;
use std::path::{Path, PathBuf};

use adapters::models::{Model, ModelError, Pretrained, TextInput, copy_tokenizer, save_checkpoint};
use adapters::store::{StoreError, read_json};
use adapters::{Adapted, AdapterFiles, Ctx};
use burn::tensor::{Device, TensorData};
use serde_json::Value;

use adapters_testkit::contract::relative_error;
use adapters_testkit::golden::chain;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocabulary")
}

/// What `make.py` computed with transformers and peft.
fn expected(name: &str) -> TensorData {
    let values: Value = read_json(&folder().join("expected.json")).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(values[name].clone()).unwrap();
    let shape = [rows.len(), rows[0].len()];
    TensorData::new(rows.concat(), shape)
}

fn logits(model: &Adapted<Model>, ids: &[u32]) -> TensorData {
    let input = TextInput::padded(&[ids], 0, adapters::models::PaddingSide::Right, &Device::flex());
    let (lm, mut cx) = (model.base().causal_lm().unwrap(), Ctx::new(&model.set));
    let hidden = lm.forward(input, &mut cx).unwrap();
    lm.logits(hidden, &mut cx).squeeze_dim::<2>(0).into_data()
}

fn assert_equal(got: &TensorData, want: &TensorData, what: &str) {
    let error = relative_error(got, want);
    assert!(error < 2e-6, "{what} is off by {error:e}");
}

#[test]
fn bases_in_pytorch_files_are_read_with_permission() {
    let ids = [1, 5, 16, 9, 3, 12];
    for name in ["base", "tied", "bin", "bin_shards"] {
        let base = Pretrained::open(folder().join(name)).unwrap();
        let permitted = base.clone().with_bin(true);
        let model = Adapted::new(permitted.model(&Device::flex()).unwrap());
        let source = if name == "tied" { name } else { "base" };
        assert_equal(&logits(&model, &ids), &expected(source), name);
        let whole = permitted.fingerprint(true).unwrap();
        let same = Pretrained::open(folder().join(source))
            .unwrap()
            .fingerprint(true)
            .unwrap();
        assert_eq!(whole, same, "{name}");
        let refused = base.model(&Device::flex()).map(drop);
        match name.starts_with("bin") {
            true => assert!(
                matches!(refused, Err(ModelError::Store(StoreError::PickleNotAllowed { .. }))),
                "{name}: {refused:?}"
            ),
            false => refused.unwrap(),
        }
    }
    // A shard that is cut off, and one that is not there.
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder().join("bin_shards")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let shard = dir.path().join("pytorch_model-00002-of-00004.bin");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let open = || {
        Pretrained::open(dir.path())
            .unwrap()
            .with_bin(true)
            .model(&Device::flex())
            .map(drop)
    };
    assert!(matches!(open(), Err(ModelError::Store(StoreError::Pytorch { .. }))));
    fs::remove_file(&shard).unwrap();
    assert!(matches!(open(), Err(ModelError::Store(StoreError::Read { .. }))));
}

#[test]
fn a_base_has_the_tokens_of_an_adapter_with_others() {
    let device = Device::flex();
    for (name, source, tokens) in [
        ("trained", "base", 23),
        ("copies", "base", 23),
        ("cut", "base", 17),
        ("tied_copies", "tied", 23),
        ("tokens", "base", 23),
        ("tied_head", "tied", 23),
        ("tied_tokens", "tied", 23),
    ] {
        let ids = [1, 5, 16, 9, tokens - 1, tokens - 2];
        let (dir, base) = (folder().join(name), folder().join(source));
        let pretrained = Pretrained::open(&base).unwrap().for_adapter(&dir).unwrap();
        assert_eq!(pretrained.resized(), Some([20, tokens as usize]), "{name}");
        let mut model = Adapted::new(pretrained.model(&device).unwrap());
        assert_eq!(model.base().vocab_size(), tokens as usize);
        let loaded = model.load(&dir).unwrap();
        model.activate(loaded.attached.adapter.as_str()).unwrap();
        assert_equal(&logits(&model, &ids), &expected(name), name);

        let out = tempfile::tempdir().unwrap();
        model.merge(&loaded.attached.adapter).unwrap();
        save_checkpoint(model.base(), &pretrained, out.path(), None).unwrap();
        copy_tokenizer(&dir, out.path()).unwrap();
        let config: Value = read_json(&out.path().join("config.json")).unwrap();
        assert_eq!(config["vocab_size"], tokens, "{name}");
        let again = Pretrained::open(out.path()).unwrap().model(&device).unwrap();
        assert_equal(
            &logits(&Adapted::new(again), &ids),
            &expected(name),
            &format!("merged {name}"),
        );

        // Over the base as it is published the adapter does not fit.
        let mut plain = Adapted::new(Pretrained::open(&base).unwrap().model(&device).unwrap());
        let error = chain(&plain.load(&dir).unwrap_err());
        let table = if name == "tied_head" { "lm_head" } else { "embed_tokens" };
        assert!(error.contains(table), "{name}: {error}");
    }
}
