//! Writing an adapter folder.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::tensors::with_shape;
use crate::{StoreError, write_json, write_weights};
use adapters_core::{AdapterSet, Error, Format, Host, SiteInfo, Tensors, is_outside};

/// The version of the reference that folders in AdapterHub's format name. It decides how the reference reads a file: from 1.1.0 on,
/// alpha means what it says.
pub const REFERENCE_VERSION: &str = "adapters.1.3.0";

/// The files an adapter was saved to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedFiles {
    /// The configuration.
    pub config: PathBuf,
    /// The weights. In AdapterHub's format they are there a second time, in the file that its library opens by default.
    pub weights: PathBuf,
}

/// The first format that can express adapter `name` of `set`: AdapterHub's where it can.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`](adapters_core::Error::NoSuchAdapter); AdapterHub's [`Error::Config`](adapters_core::Error::Config) where neither can.
pub fn expressible(set: &AdapterSet, name: &str, host: &dyn Host) -> Result<Format, StoreError> {
    let adapter = set.attached(name)?;
    let written = |format| -> Result<_, Error> {
        let adapter = adapter.as_stored(format, host)?;
        let sites: Vec<_> = adapter.own_layers().map(|l| &l.info).collect();
        adapter.method().write(format, &sites, host)
    };
    match written(Format::AdapterHub) {
        Ok(_) => Ok(Format::AdapterHub),
        Err(refused) => match written(Format::Peft) {
            Ok(_) => Ok(Format::Peft),
            Err(_) => Err(refused.into()),
        },
    }
}

/// Saves adapter `name` of `set` into the folder `dir` in `format`, each file atomically.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`](adapters_core::Error::NoSuchAdapter); [`Error::Config`](adapters_core::Error::Config) where the format cannot express the configuration; [`StoreError`].
pub fn save_adapter(
    dir: &Path,
    format: Format,
    set: &AdapterSet,
    name: &str,
    host: &dyn Host,
) -> Result<SavedFiles, StoreError> {
    let router = set
        .fusion(name)
        .ok()
        .filter(|fusion| fusion.method().capabilities().routes.is_some());
    let adapter = match router {
        Some(router) => router,
        None => set.attached(name)?,
    };
    let adapter = adapter.as_stored(format, host)?;
    let sites: Vec<_> = adapter.own_layers().map(|l| &l.info).collect();
    let config = adapter.method().write(format, &sites, host)?;
    let values = adapter.values_by_id();
    let prefix = key_prefix(format, &config, &sites, host);
    let tensors: Tensors = adapter
        .params()
        .filter_map(|p| {
            let data = values.get(&p.id)?.clone();
            let shape = p.stored_shape(format, data.shape().to_vec());
            let key = p.key(format, name, host);
            let key = match p.info.filter(|info| !is_outside(info, host)) {
                Some(_) => key.replacen(format.key_prefix(), &prefix, 1),
                None => key,
            };
            Some((key, with_shape(data, shape)))
        })
        .collect();
    fs::create_dir_all(dir).map_err(|source| StoreError::Folder {
        path: dir.to_owned(),
        source,
    })?;
    let files = SavedFiles {
        config: dir.join("adapter_config.json"),
        weights: dir.join(format.weights_file()),
    };
    write_weights(&files.weights, &tensors)?;
    write_json(&files.config, &envelope(format, config, name, host))?;
    Ok(files)
}

/// What the keys of a file begin with: with the prefix of the larger class where a layer of that class is adapted, or the
/// configuration names it, and the other paths are those of the model.
fn key_prefix(format: Format, config: &Map<String, Value>, sites: &[&SiteInfo], host: &dyn Host) -> String {
    let (plain, inside) = (format.key_prefix(), host.base_prefix());
    let is_of_head = |info: &&SiteInfo| is_outside(info, host);
    let is_long = |info: &&SiteInfo| !is_of_head(info) && info.path.starts_with(inside);
    let is_short = !host.is_larger_class() && !sites.iter().any(is_long);
    match format == Format::Peft && is_short && (sites.iter().any(is_of_head) || opens_in_masked_lm(config)) {
        true => format!("{plain}{inside}"),
        false => plain.to_owned(),
    }
}

/// Whether peft opens the folder with this configuration in a masked language model, which has the base under its prefix.
pub(crate) fn opens_in_masked_lm(config: &Map<String, Value>) -> bool {
    let class = config
        .get("auto_mapping")
        .and_then(|mapping| mapping.get("base_model_class"));
    let is_masked_lm = class
        .and_then(Value::as_str)
        .is_some_and(|class| class.ends_with("ForMaskedLM"));
    is_masked_lm && config.get("task_type").is_none_or(Value::is_null)
}

/// The configuration file around a method's own object.
fn envelope(format: Format, config: Map<String, Value>, name: &str, host: &dyn Host) -> Value {
    match format {
        Format::AdapterHub => json!({
            "config": config,
            "hidden_size": host.d_model(),
            "model_class": host.class_name(),
            "model_name": "",
            "model_type": host.architecture(),
            "name": name,
            "version": REFERENCE_VERSION,
        }),
        Format::Peft => Value::Object(config),
    }
}
