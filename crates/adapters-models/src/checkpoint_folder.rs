//! A checkpoint folder as the loader of an architecture gets it.

use std::path::{Path, PathBuf};

use adapters_store::StoreError;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ModelError;

/// A folder and its configuration, some values of which may be replaced for a load.
#[derive(Clone, Debug)]
pub struct CheckpointFolder {
    dir: PathBuf,
    config: Map<String, Value>,
}

impl CheckpointFolder {
    pub(crate) fn new(dir: &Path, config: Map<String, Value>) -> Self {
        Self {
            dir: dir.to_owned(),
            config,
        }
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
    pub(crate) fn config_with<T: DeserializeOwned>(&self, mut defaults: Map<String, Value>) -> Result<T, ModelError> {
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
