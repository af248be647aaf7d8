//! From a checkpoint folder to a model, and back to a plain checkpoint.

use std::fs;
use std::path::Path;

use adapters_core::{Host, SiteKind, quantize};
use adapters_nn::{Quantization, float_weight};
use adapters_store::{StoreError, read_json, write_json, write_safetensors};
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Map, Value};

use crate::architecture::{Architecture, Architectures};
use crate::checkpoint_folder::CheckpointFolder;
use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::kind::ModelKind;
use crate::model::Model;
use crate::tokenizer::TextTokenizer;
use crate::weights::checkpoint::Checkpoint;

/// A checkpoint folder whose architecture is known.
#[derive(Clone, Debug)]
pub struct Pretrained {
    folder: CheckpointFolder,
    architecture: Architecture,
    /// The `model_type`s of the kinds that were asked for, for messages.
    architectures: Architectures,
    quantization: Option<Quantization>,
}

impl Pretrained {
    /// Opens a folder with `config.json`; weights are read later. `model_type` decides the architecture.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`], [`ModelError::UnknownArchitecture`] listing what is supported.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        Self::open_with(dir, Architectures::default())
    }

    /// The same with the architectures a program has registered.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(dir: &Path, architectures: Architectures) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        if !path.exists() {
            return Err(ModelError::NotACheckpoint {
                path: dir.to_owned(),
                missing: "it has no config.json",
            });
        }
        let mut config: Map<String, Value> = read_json(&path)?;
        ConfigCheck::new(&path).published(&mut config)?;
        let found = config.get("model_type").and_then(Value::as_str);
        let architecture = architectures.find(found.unwrap_or("(no model_type)"), &path)?;
        Ok(Self {
            folder: CheckpointFolder::new(dir, config),
            architecture,
            architectures,
            quantization: None,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.folder.dir()
    }

    /// `model_type` of the checkpoint.
    pub fn model_type(&self) -> &str {
        self.architecture.model_type
    }

    /// What the architecture reads and writes.
    pub fn kind(&self) -> ModelKind {
        self.architecture.kind
    }

    /// Replaces a value of `config.json` for this load, e.g. a dropout probability.
    #[must_use]
    pub fn with_config(mut self, key: &str, value: Value) -> Self {
        self.folder.set(key, value);
        self
    }

    /// Replaces every dropout probability of the model for this load, that of hidden states and of attention.
    #[must_use]
    pub fn with_dropout(mut self, probability: f64) -> Self {
        for key in [
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "attention_dropout",
            "dropout",
            "resid_pdrop",
            "embd_pdrop",
            "attn_pdrop",
            "dropout_rate",
            "dropout",
            "activation_dropout",
        ] {
            self.folder.set(key, probability.into());
        }
        self
    }

    /// Holds the linear weights of the model in fewer bits (see [`quantize`]); `None` leaves them in floats.
    #[must_use]
    pub fn with_quantization(mut self, quantization: impl Into<Option<Quantization>>) -> Self {
        self.quantization = quantization.into();
        self
    }

    /// Loads the model of whatever kind, strictly.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`], [`ModelError::Store`] listing every tensor that does not fit.
    pub fn model(&self, device: &Device) -> Result<Model, ModelError> {
        let mut model = self.architecture.load(&self.folder, device)?;
        if let Some(quantization) = self.quantization {
            quantize(&mut model, quantization);
        }
        Ok(model)
    }

    /// Loads an encoder of text, strictly.
    ///
    /// # Errors
    ///
    /// [`ModelError::OtherKind`] if it is not one, otherwise as [`model`](Self::model).
    pub fn encoder(&self, device: &Device) -> Result<Model, ModelError> {
        self.of_kind(ModelKind::Encoder, device)
    }

    /// Loads a causal language model, strictly.
    ///
    /// # Errors
    ///
    /// As [`encoder`](Self::encoder).
    pub fn causal_lm(&self, device: &Device) -> Result<Model, ModelError> {
        self.of_kind(ModelKind::CausalLm, device)
    }

    /// Loads an encoder-decoder, strictly.
    ///
    /// # Errors
    ///
    /// As [`encoder`](Self::encoder).
    pub fn encoder_decoder(&self, device: &Device) -> Result<Model, ModelError> {
        self.of_kind(ModelKind::EncoderDecoder, device)
    }

    fn of_kind(&self, wanted: ModelKind, device: &Device) -> Result<Model, ModelError> {
        if self.kind() == wanted {
            return self.model(device);
        }
        Err(ModelError::OtherKind {
            path: self.dir().join("config.json"),
            found: self.model_type().to_owned(),
            wanted,
            supported: self.architectures.named(|known| known.kind == wanted),
        })
    }

    /// Ids that end a text: `eos_token_id` of `generation_config.json`, else of `config.json`; none if neither says.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] if the first does not parse; [`ModelError::Config`] for what is no token id.
    pub fn stop_tokens(&self) -> Result<Vec<u32>, ModelError> {
        let path = self.dir().join("generation_config.json");
        let generation: Map<String, Value> = match path.exists() {
            true => read_json(&path)?,
            false => Map::new(),
        };
        let files = [
            (path, &generation),
            (self.dir().join("config.json"), self.folder.config()),
        ];
        let said = files
            .into_iter()
            .find_map(|(path, config)| Some((path, config.get("eos_token_id").filter(|ids| !ids.is_null())?)));
        let Some((path, ids)) = said else {
            return Ok(self.tokenizers_end()?.into_iter().collect());
        };
        let number = |id: &Value| {
            let found = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let expected = "a token id, or a list of token ids";
            found.ok_or_else(|| ConfigCheck::new(&path).refusal("eos_token_id", expected, id))
        };
        match ids {
            Value::Array(ids) => ids.iter().map(number).collect(),
            id => Ok(vec![number(id)?]),
        }
    }

    /// The `eos_token` of `tokenizer_config.json`, if the tokenizer has it.
    fn tokenizers_end(&self) -> Result<Option<u32>, ModelError> {
        let path = self.dir().join("tokenizer_config.json");
        if !path.exists() || !self.dir().join("tokenizer.json").exists() {
            return Ok(None);
        }
        let config: Map<String, Value> = read_json(&path)?;
        let token = config.get("eos_token");
        let token = token.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        match token {
            Some(token) => Ok(self.tokenizer(1)?.token_id(token)),
            None => Ok(None),
        }
    }

    /// Loads the tokenizer.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::load`].
    pub fn tokenizer(&self, max_length: usize) -> Result<TextTokenizer, ModelError> {
        TextTokenizer::load(self.dir(), max_length)
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
    let mut tensors = Checkpoint::open(source)?.read_all()?;
    // Whether a head that was the table of the embeddings has another weight now.
    let mut untied = false;
    for info in model.sites() {
        // The source has the prefix of a larger class or not, whatever this one is.
        let prefix = model.base_prefix();
        let inner = info.path.strip_prefix(prefix).unwrap_or(&info.path).to_owned();
        let prefixed = format!("{prefix}{inner}");
        let has = |path: &String| tensors.contains_key(&format!("{path}.weight"));
        let path = match [&prefixed, &inner].into_iter().find(|path| has(path)) {
            Some(path) => path.clone(),
            None => info.path.clone(),
        };
        let (weight, bias) = match info.kind {
            SiteKind::Matrices { .. } => {
                if let (Some(matrices), Some(parameter)) = (model.matrices(info.site), &info.parameter) {
                    let bare = |path: &String| format!("{path}.{}", parameter.name);
                    let known = [&prefixed, &inner]
                        .into_iter()
                        .map(bare)
                        .find(|key| tensors.contains_key(key));
                    let key = known.unwrap_or_else(|| bare(&info.path));
                    tensors.insert(key, matrices.weight.val().into_data());
                }
                continue;
            }
            SiteKind::Norm { .. } => match model.norm(info.site) {
                Some(norm) => (norm.weight.into_data(), norm.bias),
                None => continue,
            },
            SiteKind::Table { .. } => match model.table(info.site) {
                Some(table) => (table.weight.val().into_data(), None),
                None => continue,
            },
            _ => match model.linear(info.site) {
                Some(layer) => (
                    match model.stores_input_first(info.site) {
                        true => float_weight(layer).into_data(),
                        false => float_weight(layer).transpose().into_data(),
                    },
                    layer.bias.as_ref().map(|bias| bias.val()),
                ),
                None => continue,
            },
        };
        let weight = match info.kernel.is_empty() {
            true => weight,
            // The published kernel is that of a convolution.
            false => {
                let d_out = weight.shape().to_vec().into_iter().take(1);
                let shape: Vec<usize> = d_out.chain(info.kernel.iter().copied()).collect();
                TensorData::new(weight.iter::<f32>().collect(), shape)
            }
        };
        let key = format!("{path}.weight");
        let table = info.tied_to.and_then(|table| model.table(table));
        let weight = match table.map(|table| table.weight.val().into_data() == weight) {
            Some(true) if !tensors.contains_key(&key) => continue,
            Some(false) => {
                untied = true;
                let weight = Tensor::<2>::from_data(weight, &Device::default());
                (weight * model.tied_head_scale()).into_data()
            }
            Some(true) | None => weight,
        };
        tensors.insert(key, weight);
        if let Some(bias) = bias {
            tensors.insert(format!("{path}.bias"), bias.into_data());
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
    if untied {
        config.insert("tie_word_embeddings".to_owned(), false.into());
    }
    write_json(&out.join("config.json"), &config)?;
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "generation_config.json",
        "preprocessor_config.json",
        "vocab.txt",
    ] {
        let from = source.join(file);
        if from.exists() {
            let bytes = fs::read(&from).map_err(|e| StoreError::Read { path: from, source: e })?;
            adapters_store::atomic::write(&out.join(file), &bytes).map_err(StoreError::from)?;
        }
    }
    Ok(write_safetensors(&out.join("model.safetensors"), &tensors, [])?)
}
