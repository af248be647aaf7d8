//! A checkpoint folder as the loader of an architecture gets it.

use std::path::{Path, PathBuf};

use adapters_store::from_fields;
use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::weights::checkpoint::Checkpoint;
use crate::weights::vocabulary::Vocabulary;
use crate::weights::{ReadErrors, Weights};

/// The field of the number of tokens.
pub(crate) const VOCABULARY: &str = "vocab_size";

/// A folder and its configuration, some values of which may be replaced for a load.
#[derive(Clone, Debug)]
pub struct CheckpointFolder {
    dir: PathBuf,
    config: Map<String, Value>,
    /// Whether the weights may be a pickle.
    pub(crate) allow_bin: bool,
    /// The tokens of an adapter, if they are others than those of the base.
    vocabulary: Option<Vocabulary>,
    /// What could not be read of the tensors that a loader asked for.
    read_errors: ReadErrors,
}

impl CheckpointFolder {
    pub(crate) fn new(dir: &Path, config: Map<String, Value>) -> Self {
        Self {
            dir: dir.to_owned(),
            config,
            allow_bin: false,
            vocabulary: None,
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

    /// Takes the token tables in the size that the adapter in the folder `adapter` has them in.
    pub(crate) fn resize_for(&mut self, adapter: &Path) -> Result<(), ModelError> {
        let tokens = self.config.get(VOCABULARY).and_then(Value::as_u64);
        // Without tokens there is no table to be resized.
        if let Some(tokens) = tokens.filter(|tokens| *tokens > 0) {
            let base = self.checkpoint()?;
            self.vocabulary = Vocabulary::of_adapter(adapter, &base, tokens as usize, self.allow_bin)?;
        }
        if let Some(vocabulary) = &self.vocabulary {
            self.config.insert(VOCABULARY.to_owned(), vocabulary.to.into());
        }
        Ok(())
    }

    /// The tokens of an adapter, if they are others than those of the base.
    pub(crate) fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    /// The tensors of the folder.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint, ModelError> {
        Checkpoint::open(&self.dir, self.allow_bin)
    }

    /// The tensors of the folder on their way into a model, each read when it is first needed; `prefix` (`"bert."`) is taken off keys that
    /// a larger class put it on.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`], [`ModelError::Store`] for damaged files.
    pub fn weights(&self, prefix: &str, device: &Device) -> Result<Weights, ModelError> {
        let weights = Weights::of_checkpoint(self.checkpoint()?, prefix, device);
        Ok(weights
            .with_vocabulary(self.vocabulary.clone())
            .on_demand(self.read_errors.clone()))
    }

    /// The configuration over the defaults of its class, for the loader of an architecture.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] naming the field that does not parse.
    pub(crate) fn config_with<T: DeserializeOwned>(&self, mut defaults: Map<String, Value>) -> Result<T, ModelError> {
        defaults.extend(self.config.clone());
        Ok(from_fields(&self.dir.join("config.json"), defaults)?)
    }
}

/// The fields of a JSON object; none of anything else.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
