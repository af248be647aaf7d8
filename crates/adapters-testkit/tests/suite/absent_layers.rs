//! Layers that a configuration names and the model lacks, and files that name a thing twice or are no files.

use std::fs;
use std::path::{Path, PathBuf};

use adapters::models::{Model, ModelError, Pretrained};
use adapters::store::{StoreError, read_json, read_safetensors};
use adapters::{AdapterSet, Error, method};
use burn::tensor::Device;
use serde_json::Value;

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/bert/base")
}

fn model(folder: &Path) -> Result<Model, ModelError> {
    Pretrained::open(folder)?.model(&Device::flex())
}

#[test]
fn a_layer_that_the_model_lacks_is_refused_when_an_adapter_is_made() {
    let model = model(&base()).unwrap();
    for (config, field) in [
        ("lora[leave_out=[0,9]]", "leave_out"),
        ("seq_bn[leave_out=[9]]", "leave_out"),
        ("prefix_tuning[leave_out=[9]]", "leave_out"),
        ("mam[leave_out=[9]]", "leave_out"),
        (
            "lora[target_modules=[query],layers=[1,9]]",
            "layers, layers_to_transform",
        ),
        (
            "boft[target_modules=[query],layers_to_transform=[9],boft_block_size=4]",
            "layers, layers_to_transform",
        ),
    ] {
        let attached = AdapterSet::new().attach("a", method(config).unwrap(), &model, 0, &Device::flex());
        let error = attached.unwrap_err();
        assert!(
            matches!(&error, Error::NoSuchLayer { layer: 9, last: 1, .. }),
            "{config}: {error:?}"
        );
        let said = format!("`{field}` names layer 9; expected 0 to 1");
        assert!(error.to_string().contains(&said), "{error}");
    }
    let there = method("lora[leave_out=[1]]").unwrap();
    AdapterSet::new()
        .attach("a", there, &model, 0, &Device::flex())
        .unwrap();
}

#[test]
fn a_tensor_that_a_base_has_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(base().join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = fs::read(base().join("model.safetensors")).unwrap();
    let (size, rest) = bytes.split_first_chunk().unwrap();
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*size) as usize);
    let header = std::str::from_utf8(header).unwrap().trim_end();
    let parsed: Value = serde_json::from_str(header).unwrap();
    let (key, entry) = parsed
        .as_object()
        .unwrap()
        .iter()
        .find(|(key, _)| *key != "__metadata__")
        .unwrap();
    let twice = format!("{},\"{key}\":{entry}}}", header.strip_suffix('}').unwrap());
    let file = [&(twice.len() as u64).to_le_bytes(), twice.as_bytes(), tensors].concat();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    match model(dir.path()).unwrap_err() {
        ModelError::Store(StoreError::Safetensors { reason, .. }) => {
            assert!(reason.contains(&format!("duplicate key `{key}`")), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_opened() {
    let null = Path::new("/dev/null");
    for error in [
        read_safetensors(null).unwrap_err(),
        read_json::<Value>(null).unwrap_err(),
    ] {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("it is not a regular file"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::copy(base().join("config.json"), dir.path().join("config.json")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("model.safetensors")).unwrap();
    let error = model(dir.path()).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("it is not a regular file"), "{error}");
}

/// Phi-3 has fused projections under names of its own.
#[test]
fn names_of_other_families_are_refused_with_those_of_the_model() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/phi3/base");
    let model = model(&folder).unwrap();
    for names in ["q_proj", "qkv_proj,gate_proj"] {
        let config = format!("lora[target_modules=[{names}]]");
        let attached = AdapterSet::new().attach("a", method(&config).unwrap(), &model, 0, &Device::flex());
        let error = attached.unwrap_err().to_string();
        let named = error.contains("matches nothing in this phi3 model") && error.contains("gate_up_proj, ");
        assert!(named && error.contains("qkv_proj"), "{error}");
    }
}

#[test]
fn a_choice_among_modules_that_none_are_named_for_is_refused() {
    for config in [
        "lora[layers=[0]]",
        "lora[exclude_modules=[value]]",
        "dora[layers=[0]]",
        "hira[layers_to_transform=[0]]",
        "loha[exclude_modules=[value]]",
        "oft[oft_block_size=4,r=0,layers_to_transform=0]",
    ] {
        let error = adapters::method(config).unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("target_modules"), "{config}: {error}: {why}");
    }
    for config in [
        "lora[target_modules=[query],layers=[0]]",
        "hira[layers_to_transform=[]]",
    ] {
        assert!(adapters::method(config).is_ok(), "{config}");
    }
}
