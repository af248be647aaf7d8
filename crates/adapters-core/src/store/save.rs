//! Writing an adapter folder.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::host::Host;
use crate::set::AdapterSet;
use crate::store::{Grammar, StoreError, Tensors, write_json, write_safetensors};

/// The files an adapter was saved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedFiles {
    /// The configuration.
    pub config: PathBuf,
    /// The weights.
    pub weights: PathBuf,
}

/// Values of all float parameters of a module, by id.
pub fn values(module: &impl Module) -> HashMap<ParamId, TensorData> {
    struct Collect(HashMap<ParamId, TensorData>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.insert(param.id, param.val().into_data());
        }
    }
    let mut collect = Collect(HashMap::new());
    module.visit(&mut collect);
    collect.0
}

/// The first grammar that can express adapter `name` of `set`: AdapterHub's where it can.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`]; AdapterHub's [`Error::Config`] where neither can.
pub fn expressible(set: &AdapterSet, name: &str, host: &dyn Host) -> Result<Grammar, Error> {
    let adapter = set.attached(name)?;
    let written = |grammar| {
        let stored = adapter.method().stored(grammar, adapter, host)?;
        let adapter = stored.as_ref().unwrap_or(adapter);
        let sites: Vec<_> = adapter.layers().map(|l| &l.info).collect();
        adapter.method().wire(grammar, &sites, host)
    };
    match written(Grammar::AdapterHub) {
        Ok(_) => Ok(Grammar::AdapterHub),
        Err(refused) => match written(Grammar::Peft) {
            Ok(_) => Ok(Grammar::Peft),
            Err(_) => Err(refused),
        },
    }
}

/// Saves adapter `name` of `set` into the folder `dir` in `grammar`, each file atomically.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`]; [`Error::Config`] where the grammar cannot express the configuration; [`StoreError`].
pub fn save_adapter(
    dir: &Path,
    grammar: Grammar,
    set: &AdapterSet,
    name: &str,
    host: &dyn Host,
) -> Result<SavedFiles, Error> {
    let adapter = set.attached(name)?;
    let stored = adapter.method().stored(grammar, adapter, host)?;
    let adapter = stored.as_ref().unwrap_or(adapter);
    let sites: Vec<_> = adapter.layers().map(|l| &l.info).collect();
    let config = adapter.method().wire(grammar, &sites, host)?;
    let mut values = adapter.values_by_id();
    let tensors: Tensors = adapter
        .params()
        .map(|p| (p.key(grammar, name, host), p.id))
        .filter_map(|(key, id)| Some((key, values.remove(&id)?)))
        .collect();
    fs::create_dir_all(dir).map_err(|source| StoreError::Folder {
        path: dir.to_owned(),
        source,
    })?;
    let files = SavedFiles {
        config: dir.join("adapter_config.json"),
        weights: dir.join(grammar.weights_file()),
    };
    write_safetensors(&files.weights, &tensors, [])?;
    write_json(&files.config, &envelope(grammar, config, name, host))?;
    Ok(files)
}

/// The configuration file around a method's own object.
fn envelope(grammar: Grammar, config: Map<String, Value>, name: &str, host: &dyn Host) -> Value {
    match grammar {
        Grammar::AdapterHub => json!({
            "config": config,
            "hidden_size": host.d_model(),
            "model_class": host.class_name(),
            "model_name": "",
            "model_type": host.architecture(),
            "name": name,
            // Decides how the reference reads the file: from 1.1.0 on, alpha means what it says.
            "version": "adapters.1.3.0",
        }),
        Grammar::Peft => Value::Object(config),
    }
}
