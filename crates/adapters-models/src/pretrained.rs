//! From a checkpoint folder to a model, and back to a plain checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use adapters_core::SiteKind;
use adapters_core::store::{StoreError, read_json, write_json, write_safetensors};
use adapters_core::{Host, Quantization, float_weight, nearest, quantize};
use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::bert::{BertConfig, BertModel};
use crate::encoder::Encoder;
use crate::error::ModelError;
use crate::tokenizer::TextTokenizer;
use crate::weights::read_checkpoint;

/// `model_type` of every architecture that loads.
pub const SUPPORTED: &[&str] = &["bert"];

/// A checkpoint folder whose architecture is known.
#[derive(Clone, Debug)]
pub struct Pretrained {
    dir: PathBuf,
    config: Map<String, Value>,
    model_type: &'static str,
    quantization: Option<Quantization>,
}

impl Pretrained {
    /// Opens a folder with `config.json`; weights are read later. `model_type` decides the architecture.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`], [`ModelError::UnknownArchitecture`] listing what is supported.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        if !path.exists() {
            return Err(ModelError::NotACheckpoint {
                path: dir.to_owned(),
                missing: "it has no config.json",
            });
        }
        let config: Map<String, Value> = read_json(&path)?;
        let found = config
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("(no model_type)");
        match SUPPORTED.iter().find(|known| **known == found) {
            Some(model_type) => Ok(Self {
                dir: dir.to_owned(),
                model_type,
                config,
                quantization: None,
            }),
            None => Err(ModelError::UnknownArchitecture {
                path,
                nearest: nearest(found, SUPPORTED.iter().copied()),
                found: found.to_owned(),
                supported: SUPPORTED.join(", "),
            }),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `model_type` of the checkpoint.
    pub fn model_type(&self) -> &str {
        self.model_type
    }

    /// Replaces a value of `config.json` for this load, e.g. a dropout probability.
    #[must_use]
    pub fn with_config(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// Replaces every dropout probability of the model for this load, that of hidden states and of attention.
    #[must_use]
    pub fn with_dropout(mut self, probability: f64) -> Self {
        for key in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
            self.config.insert(key.to_owned(), probability.into());
        }
        self
    }

    /// Holds the linear weights of the model in fewer bits (see [`quantize`]); `None` leaves them in floats.
    #[must_use]
    pub fn with_quantization(mut self, quantization: impl Into<Option<Quantization>>) -> Self {
        self.quantization = quantization.into();
        self
    }

    /// Loads the encoder, strictly.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`], [`ModelError::Store`] listing every tensor that does not fit.
    pub fn encoder(&self, device: &Device) -> Result<Encoder, ModelError> {
        let mut encoder = match self.model_type {
            "bert" => Encoder::Bert(BertModel::load(&self.dir, self.parse::<BertConfig>()?, device)?),
            other => unreachable!("{other} is in SUPPORTED and has no loader"),
        };
        if let Some(quantization) = self.quantization {
            quantize(&mut encoder, quantization);
        }
        Ok(encoder)
    }

    /// Loads the tokenizer.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::load`].
    pub fn tokenizer(&self, max_length: usize) -> Result<TextTokenizer, ModelError> {
        TextTokenizer::load(&self.dir, max_length)
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        serde_json::from_value(Value::Object(self.config.clone())).map_err(|source| {
            StoreError::Json {
                path: self.dir.join("config.json"),
                source,
            }
            .into()
        })
    }
}

/// Writes a plain checkpoint: everything `source` has, with the linear weights `model` holds now. What Python loads
/// after an adapter was merged into `model`.
///
/// # Errors
///
/// [`ModelError::Store`]; [`ModelError::NotACheckpoint`] if `out` is the source folder.
pub fn save_checkpoint(model: &impl Host, source: &Path, out: &Path) -> Result<(), ModelError> {
    fs::create_dir_all(out).map_err(|e| StoreError::Folder {
        path: out.to_owned(),
        source: e,
    })?;
    if let (Ok(a), Ok(b)) = (source.canonicalize(), out.canonicalize())
        && a == b
    {
        return Err(ModelError::NotACheckpoint {
            path: out.to_owned(),
            missing: "it is the base checkpoint itself, which is never overwritten; choose another folder",
        });
    }
    let (_, mut tensors) = read_checkpoint(source)?;
    for info in model.module_sites() {
        let prefixed = format!("{}{}", model.base_prefix(), info.path);
        let path = match tensors.contains_key(&format!("{prefixed}.weight")) {
            true => prefixed,
            false => info.path.clone(),
        };
        let (weight, bias) = match info.kind {
            SiteKind::Norm { .. } => match model.norm(info.site) {
                Some(norm) => (norm.gamma.val().into_data(), norm.beta.as_ref()),
                None => continue,
            },
            SiteKind::Table { .. } => match model.table(info.site) {
                Some(table) => (table.weight.val().into_data(), None),
                None => continue,
            },
            _ => match model.linear(info.site) {
                Some(layer) => (float_weight(layer).transpose().into_data(), layer.bias.as_ref()),
                None => continue,
            },
        };
        tensors.insert(format!("{path}.weight"), weight);
        if let Some(bias) = bias {
            tensors.insert(format!("{path}.bias"), bias.val().into_data());
        }
    }
    let mut config: Map<String, Value> = read_json(&source.join("config.json"))?;
    // Restored and merged weights are 32 bits wide, whatever the source said under either name.
    let key = if config.contains_key("dtype") {
        "dtype"
    } else {
        "torch_dtype"
    };
    config.insert(key.to_owned(), Value::from("float32"));
    write_json(&out.join("config.json"), &config)?;
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    ] {
        let from = source.join(file);
        if from.exists() {
            let bytes = fs::read(&from).map_err(|e| StoreError::Read { path: from, source: e })?;
            adapters_core::atomic::write(&out.join(file), &bytes).map_err(StoreError::from)?;
        }
    }
    Ok(write_safetensors(&out.join("model.safetensors"), &tensors, [])?)
}
