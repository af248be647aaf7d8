//! A checkpoint folder as the loader of an architecture gets it.

use std::path::{Path, PathBuf};

use adapters_store::StoreError;
use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::weights::{ReadErrors, Weights};

/// A folder and its configuration, some values of which may be replaced for a load.
#[derive(Clone, Debug)]
pub struct CheckpointFolder {
    dir: PathBuf,
    config: Map<String, Value>,
    /// What could not be read of the tensors that a loader asked for.
    read_errors: ReadErrors,
}

impl CheckpointFolder {
    pub(crate) fn new(dir: &Path, config: Map<String, Value>) -> Self {
        Self {
            dir: dir.to_owned(),
            config,
            read_errors: ReadErrors::default(),
        }
    }

    /// The same folder for a load, with the errors of that load alone.
    pub(crate) fn for_a_load(&self) -> (Self, ReadErrors) {
        let read_errors = ReadErrors::default();
        let folder = Self {
            read_errors: read_errors.clone(),
            ..self.clone()
        };
        (folder, read_errors)
    }

    /// The tensors, each of which is read when it is first needed; `prefix` is as in [`Weights::read`].
    ///
    /// # Errors
    ///
    /// As [`Weights::read`].
    pub fn weights(&self, prefix: &str, device: &Device) -> Result<Weights, ModelError> {
        Weights::on_demand(&self.dir, prefix, device, self.read_errors.clone())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.json`, with what is replaced in it.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.config.insert(key.to_owned(), value);
    }

    /// The configuration over the defaults of its class, for the loader of an architecture.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] naming the field that does not parse.
    pub fn config_with<T: DeserializeOwned>(&self, mut defaults: Map<String, Value>) -> Result<T, ModelError> {
        defaults.extend(self.config.clone());
        serde_json::from_value(Value::Object(defaults)).map_err(|source| {
            StoreError::Json {
                path: self.dir.join("config.json"),
                source,
            }
            .into()
        })
    }
}
