//! Folders of fusion layers: `adapter_fusion_config.json` and `model_adapter_fusion.safetensors`.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::load::fill;
use crate::{
    LoadOptions, LoadReport, REFERENCE_VERSION, SavedFiles, StoreError, is_there, read_json, read_pytorch,
    read_safetensors, write_json, write_weights,
};
use adapters_core::{AdapterSet, AttachReport, Format, Host, Tensors};
use adapters_fusion::{Fusion, FusionConfig};

const CONFIG: &str = "adapter_fusion_config.json";
const WEIGHTS: &str = "model_adapter_fusion.safetensors";
const PICKLE: &str = "pytorch_model_adapter_fusion.bin";

/// The configuration file.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adapter_names: Option<Names>,
    config: Stored,
    name: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The fused adapters, as a list or joined by commas.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of names, or names with commas between them")]
enum Names {
    List(Vec<String>),
    Joined(String),
}

/// The configuration, or the name of one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a name, or an object")]
enum Stored {
    Named(String),
    Fields(Map<String, Value>),
}

/// Saves fusion `name` of `set` into the folder `dir`, each file atomically. Of the adapters only the names are written.
///
/// # Errors
///
/// [`Error::NoSuchFusion`](adapters_core::Error::NoSuchFusion); [`StoreError`].
pub fn save_fusion(dir: &Path, set: &AdapterSet, name: &str, host: &dyn Host) -> Result<SavedFiles, StoreError> {
    let format = Format::AdapterHub;
    let attached = set.fusion(name)?;
    let config = attached.method().write(format, &[], host)?;
    let mut values = attached.values_by_id();
    let tensors: Tensors = attached
        .params()
        .map(|p| (p.key(format, name, host), p.id))
        .filter_map(|(key, id)| Some((key, values.remove(&id)?)))
        .collect();
    fs::create_dir_all(dir).map_err(|source| StoreError::Folder {
        path: dir.to_owned(),
        source,
    })?;
    let rest = [
        ("hidden_size", Value::from(host.d_model())),
        ("model_class", host.class_name().into()),
        ("model_name", "".into()),
        ("model_type", host.architecture().into()),
        ("version", REFERENCE_VERSION.into()),
    ];
    let envelope = Envelope {
        adapter_names: Fusion::of(attached).map(|fusion| Names::List(fusion.adapters().to_vec())),
        config: Stored::Fields(config),
        name: name.to_owned(),
        rest: rest.map(|(key, value)| (key.to_owned(), value)).into_iter().collect(),
    };
    let files = SavedFiles {
        config: dir.join(CONFIG),
        weights: dir.join(WEIGHTS),
    };
    write_weights(&files.weights, &tensors)?;
    write_json(&files.config, &envelope)?;
    Ok(files)
}

/// Loads the fusion in the folder `dir` into `set`, trainable. The adapters it fuses must be there.
///
/// # Errors
///
/// [`StoreError`] for files, with every missing, unexpected, misshapen or non-finite tensor; [`StoreError::ConfigFile`] for the
/// configuration; [`Error::NoSuchAdapter`](adapters_core::Error::NoSuchAdapter), [`Error::CannotFuse`](adapters_core::Error::CannotFuse), [`Error::NameTaken`](adapters_core::Error::NameTaken) as for
/// [`adapters_fusion::attach`]. The set is unchanged on error.
pub fn load_fusion(
    dir: &Path,
    set: &mut AdapterSet,
    host: &dyn Host,
    options: &LoadOptions,
    device: &Device,
) -> Result<LoadReport, StoreError> {
    let path = dir.join(CONFIG);
    let lacks = |missing| StoreError::NotAnAdapter {
        path: dir.to_owned(),
        missing,
    };
    if !is_there(&path) {
        return Err(lacks(CONFIG));
    }
    let envelope: Envelope = read_json(&path)?;
    let config = match envelope.config {
        Stored::Named(name) => FusionConfig::named(&name),
        Stored::Fields(fields) => FusionConfig::read(fields),
    };
    let config = config.map_err(|source| StoreError::ConfigFile {
        path,
        source: Box::new(source),
    })?;
    let stored_name = envelope.name;
    let adapters: Vec<String> = match envelope.adapter_names {
        Some(Names::List(names)) => names,
        Some(Names::Joined(names)) => names.split(',').map(str::to_owned).collect(),
        None => stored_name.split(',').map(str::to_owned).collect(),
    };
    let (safe, pickle) = (dir.join(WEIGHTS), dir.join(PICKLE));
    let (weights, mut tensors) = match (is_there(&safe), is_there(&pickle), options.allow_bin) {
        (true, ..) => {
            let (tensors, _) = read_safetensors(&safe)?;
            (safe, tensors)
        }
        (false, true, true) => {
            let tensors = read_pytorch(&pickle)?;
            (pickle, tensors)
        }
        (false, true, false) => return Err(StoreError::PickleNotAllowed { path: pickle }),
        (false, false, _) => return Err(lacks(WEIGHTS)),
    };
    for path in &options.extra {
        tensors.extend(read_safetensors(path)?.0);
    }
    let name = options.name.clone().unwrap_or_else(|| stored_name.clone());
    let names: Vec<&str> = adapters.iter().map(String::as_str).collect();
    let (fusion, attached): (_, AttachReport) = adapters_fusion::build(set, &name, &names, config, host, 0, device)?;
    let format = Format::AdapterHub;
    set.insert_fusion(fill(fusion, format, &stored_name, host, &weights, tensors)?)?;
    Ok(LoadReport {
        format,
        weights,
        attached,
    })
}
