//! From a checkpoint folder to a model.

use std::path::{Path, PathBuf};

use adapters_adapted::quantize;
use adapters_core::Format;
use adapters_nn::Precision;
use adapters_store::{Fingerprint, is_there, read_json, read_json_if_there, read_safetensors, write_weights};
use burn::tensor::Device;
use serde_json::{Map, Value};

use crate::architecture::{Architecture, Architectures};
#[cfg(feature = "tokenizers")]
use crate::chat::ChatTemplate;
use crate::checkpoint_folder::CheckpointFolder;
#[cfg(feature = "tokenizers")]
use crate::checkpoint_folder::VOCABULARY;
use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::kind::ModelKind;
use crate::model::Model;
#[cfg(feature = "audio")]
use crate::speech::LogMel;
#[cfg(feature = "tokenizers")]
use crate::tokenizer::TextTokenizer;
use crate::weights::{ReadErrors, read_all};

/// A checkpoint folder whose architecture is known.
#[derive(Clone, Debug)]
pub struct Pretrained {
    folder: CheckpointFolder,
    architecture: Architecture,
    /// The architectures that the program knows.
    architectures: Architectures,
    precision: Precision,
    /// The folder of an adapter, whose tokenizer and chat template are in place of those of the checkpoint.
    adapter: Option<PathBuf>,
}

impl Pretrained {
    /// Opens a folder with `config.json`; weights are read later. `model_type` decides the architecture and, where it has several
    /// (Whisper and its encoder alone), the published class that `architectures` names.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`], [`ModelError::UnknownArchitecture`] listing what is supported.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ModelError> {
        Self::open_with(dir, Architectures::default())
    }

    /// The same with the architectures a program has registered.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(dir: impl AsRef<Path>, architectures: Architectures) -> Result<Self, ModelError> {
        let dir = dir.as_ref();
        let path = dir.join("config.json");
        if !is_there(&path) {
            return Err(ModelError::NotACheckpoint {
                path: dir.to_owned(),
                missing: "it has no config.json",
            });
        }
        let mut config: Map<String, Value> = read_json(&path)?;
        ConfigCheck::new(&path).published(&mut config)?;
        let found = config.get("model_type").and_then(Value::as_str);
        let architecture = architectures.find(found.unwrap_or("(no model_type)"), &path)?;
        let class = config.get("architectures").and_then(|classes| classes.get(0)).cloned();
        let opened = Self {
            folder: CheckpointFolder::new(dir, config),
            architecture,
            architectures,
            precision: Precision::F32,
            adapter: None,
        };
        Ok(opened.of_class(class.as_ref()))
    }

    /// With the model of a published class, where that is not the one that most classes have.
    fn of_class(mut self, class: Option<&Value>) -> Self {
        let class = class.and_then(Value::as_str).unwrap_or_default();
        if let Some(own) = self.architectures.of_class(self.model_type(), class) {
            self.architecture = own;
        }
        self
    }

    /// With the model that is of one of these kinds, if the checkpoint holds one: of a Whisper's the encoder alone is a
    /// [`SoundEncoder`](ModelKind::SoundEncoder).
    #[must_use]
    pub fn of_kinds(mut self, kinds: &[ModelKind]) -> Self {
        let fits = |known: &&Architecture| known.model_type == self.model_type() && kinds.contains(&known.kind);
        if !kinds.contains(&self.kind())
            && let Some(fitting) = self.architectures.iter().find(fits)
        {
            self.architecture = *fitting;
        }
        self
    }

    /// Permits weights in `pytorch_model.bin`, a pickle, which is read without being executed.
    #[must_use]
    pub fn with_bin(mut self, allow: bool) -> Self {
        self.folder.allow_bin = allow;
        self
    }

    /// The base as the adapter in a folder was trained with it: the model of the class that the folder names, with the tokenizer and
    /// the chat template that the folder has, and token tables in the size that they have there. Tokens that were added get the
    /// rows that the folder stores.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for a file of the adapter or of the checkpoint that cannot be read.
    pub fn for_adapter(mut self, adapter: &Path) -> Result<Self, ModelError> {
        self.folder.resize_for(adapter)?;
        self.adapter = Some(adapter.to_owned());
        self.as_class_of(adapter)
    }

    /// With the model of the published class that the adapter in a folder was trained on, where it names one.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for a configuration of the adapter that cannot be read.
    pub fn as_class_of(self, adapter: &Path) -> Result<Self, ModelError> {
        let config = adapter.join("adapter_config.json");
        let Some(config) = read_json_if_there::<Value>(&config)? else {
            return Ok(self);
        };
        let classes = [&config["model_class"], &config["auto_mapping"]["base_model_class"]];
        Ok(classes.into_iter().fold(self, |base, class| base.of_class(Some(class))))
    }

    /// The tokens of the base and those with the adapter, where they are [another number](Self::for_adapter).
    pub fn resized(&self) -> Option<[usize; 2]> {
        self.folder
            .vocabulary()
            .map(|vocabulary| [vocabulary.from, vocabulary.to])
    }

    /// Writes the token tables of a base that was [resized](Self::resized) into the folder of an adapter of peft that was saved over it, as
    /// peft does, where the adapter has none of its own; nothing otherwise.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for files that cannot be read or written.
    pub fn save_token_tables(&self, adapter: &Path) -> Result<(), ModelError> {
        let Some(vocabulary) = self.folder.vocabulary() else {
            return Ok(());
        };
        let path = adapter.join(Format::Peft.weights_file());
        let (mut tensors, _) = read_safetensors(&path)?;
        tensors.extend(vocabulary.missing_tables(&tensors, &self.folder.checkpoint()?)?);
        Ok(write_weights(&path, &tensors)?)
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
            "hidden_dropout",
            "embedding_dropout",
            "mlp_dropout",
            "feat_proj_dropout",
            "attention_probs_dropout_prob",
            "attention_dropout",
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

    /// Holds the linear weights of the model in this form (see [`quantize`]).
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The fingerprint of the tensors in the files: of every byte if `whole`, else of a sample of each tensor, which takes
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`], [`ModelError::Store`].
    pub fn fingerprint(&self, whole: bool) -> Result<Fingerprint, ModelError> {
        Ok(self.folder.checkpoint()?.fingerprint(whole)?)
    }

    /// Loads the model of whatever kind, strictly.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`], [`ModelError::Store`] listing every tensor that does not fit.
    pub fn model(&self, device: &Device) -> Result<Model, ModelError> {
        let (mut model, read_errors) = self.model_on_demand(device)?;
        // A layer at a time: of each, one form is in memory.
        quantize(&mut model, self.precision);
        read_all(&model);
        read_errors.check()?;
        Ok(model)
    }

    /// The model with each tensor read when it is first needed, at full precision: for what needs few of them, or one after the
    /// other. What could not be read then is in the errors.
    ///
    /// # Errors
    ///
    /// As [`model`](Self::model), but for elements that are not finite.
    pub fn model_on_demand(&self, device: &Device) -> Result<(Model, ReadErrors), ModelError> {
        let (folder, read_errors) = self.folder.for_a_load();
        let model = self.architecture.load(&folder, device)?;
        ConfigCheck::new(&self.dir().join("config.json")).special_tokens(&model)?;
        Ok((model, read_errors))
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

    #[cfg(feature = "tokenizers")]
    /// The `eos_token` of `tokenizer_config.json`, if the tokenizer has it.
    pub(crate) fn tokenizers_end(&self) -> Result<Option<u32>, ModelError> {
        let path = self.text_dir().join("tokenizer_config.json");
        let config = read_json_if_there::<Map<String, Value>>(&path)?;
        let Some(config) = config.filter(|_| TextTokenizer::is_in(self.text_dir())) else {
            return Ok(None);
        };
        let token = config.get("eos_token");
        let token = token.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        match token {
            // No text is encoded, so that none is too long.
            Some(token) => Ok(self.tokenizer(usize::MAX)?.token_id(token)),
            None => Ok(None),
        }
    }

    #[cfg(feature = "audio")]
    /// What makes spectrograms of sounds for this model.
    ///
    /// # Errors
    ///
    /// As [`LogMel::load`]; [`ModelError::Config`] where the model reads other spectrograms.
    pub fn log_mel(&self) -> Result<LogMel, ModelError> {
        let log_mel = LogMel::load(self.dir())?;
        let path = self.dir().join("preprocessor_config.json");
        let read = |field: &str, default: u64| {
            let found = self.folder.config().get(field).and_then(Value::as_u64);
            usize::try_from(found.unwrap_or(default)).unwrap_or(usize::MAX)
        };
        let ([bands, frames], check) = (log_mel.dims(), ConfigCheck::new(&path));
        let expected = read("num_mel_bins", 80);
        check.require(
            bands == expected,
            "feature_size",
            format!("{expected}, the bands of the model"),
            bands,
        )?;
        let expected = read("max_source_positions", 1500).saturating_mul(2);
        let in_words = format!("a length of {expected} frames, which the model reads");
        check.require(
            frames == expected,
            "chunk_length",
            in_words,
            format!("that of {frames} frames"),
        )?;
        Ok(log_mel)
    }

    #[cfg(feature = "tokenizers")]
    /// Loads the tokenizer.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::load`].
    pub fn tokenizer(&self, max_length: usize) -> Result<TextTokenizer, ModelError> {
        TextTokenizer::load(self.text_dir(), max_length)
    }

    #[cfg(feature = "tokenizers")]
    /// Whether the folder of the adapter has a tokenizer.
    pub(crate) fn has_own_tokenizer(&self) -> bool {
        self.text_dir() != self.dir()
    }

    #[cfg(feature = "tokenizers")]
    /// The folder of the tokenizer: that of the adapter if it has one.
    fn text_dir(&self) -> &Path {
        let own = self.adapter.as_deref().filter(|dir| TextTokenizer::is_in(dir));
        own.unwrap_or(self.dir())
    }

    #[cfg(feature = "tokenizers")]
    /// Loads the chat template: that of the adapter if it has one.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::load`].
    pub fn chat_template(&self) -> Result<ChatTemplate, ModelError> {
        match self.adapter.as_deref().filter(|dir| ChatTemplate::is_in(dir)) {
            Some(own) => ChatTemplate::load_over(own, self.dir()),
            None => ChatTemplate::load(self.dir()),
        }
    }

    /// The number of tokens, where the configuration says it: that of the decoder, if a part of the model is one.
    #[cfg(feature = "tokenizers")]
    pub(crate) fn vocabulary_size(&self) -> Option<u64> {
        let config = self.folder.config();
        let parts = ["decoder", "text_config"].map(|part| config.get(part).and_then(Value::as_object));
        let parts = parts.into_iter().flatten().chain([config]);
        parts.filter_map(|part| part.get(VOCABULARY)?.as_u64()).next()
    }

    /// The checkpoint folder with what is replaced in it.
    pub(crate) fn folder(&self) -> &CheckpointFolder {
        &self.folder
    }
}

#[cfg(all(test, feature = "tokenizers"))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_dropout_of_a_family_is_replaced() {
        let families: [(&str, &[&str]); 3] = [
            ("modernbert", &["attention_dropout", "embedding_dropout", "mlp_dropout"]),
            ("gpt_neox", &["attention_dropout", "hidden_dropout"]),
            (
                "wav2vec2",
                &[
                    "attention_dropout",
                    "activation_dropout",
                    "hidden_dropout",
                    "feat_proj_dropout",
                ],
            ),
        ];
        for (family, fields) in families {
            let dir = tempfile::tempdir().unwrap();
            let config = format!(r#"{{"model_type": "{family}"}}"#);
            fs::write(dir.path().join("config.json"), config).unwrap();
            let pretrained = Pretrained::open(dir.path()).unwrap().with_dropout(0.25);
            for field in fields {
                let found = pretrained.folder.config().get(*field).and_then(Value::as_f64);
                assert_eq!(found, Some(0.25), "{family}: {field}");
            }
        }
    }

    #[test]
    fn an_adapter_brings_its_tokenizer_its_end_and_its_template() {
        let (base, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |dir: &tempfile::TempDir, name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let tokenizer = |dir, vocab: &str| {
            let model = format!(r#"{{"type": "WordLevel", "vocab": {vocab}, "unk_token": "a"}}"#);
            write(
                dir,
                "tokenizer.json",
                &format!(r#"{{"version": "1.0", "model": {model}}}"#),
            );
        };
        write(&base, "config.json", r#"{"model_type": "llama", "eos_token_id": 1}"#);
        write(
            &base,
            "tokenizer_config.json",
            r#"{"bos_token": "<s>", "eos_token": "</s>", "chat_template": "base"}"#,
        );
        tokenizer(&base, r#"{"a": 0, "</s>": 1}"#);
        let open = || Pretrained::open(base.path()).unwrap();
        let of_adapter = || open().for_adapter(adapter.path()).unwrap();
        assert_eq!(of_adapter().stop_tokens().unwrap(), [1]);

        tokenizer(&adapter, r#"{"a": 0, "</s>": 1, "<end>": 2}"#);
        write(
            &adapter,
            "tokenizer_config.json",
            r#"{"eos_token": {"content": "<end>"}}"#,
        );
        write(
            &adapter,
            "chat_template.json",
            r#"{"chat_template": "{{ bos_token }}{{ eos_token }}"}"#,
        );
        assert_eq!(open().stop_tokens().unwrap(), [1]);
        assert_eq!(of_adapter().stop_tokens().unwrap(), [1, 2]);
        assert_eq!(of_adapter().tokenizer(8).unwrap().token_id("<end>"), Some(2));
        let text = |of: Pretrained| of.chat_template().unwrap().render(&[], true).unwrap();
        assert_eq!(
            (text(open()).as_str(), text(of_adapter()).as_str()),
            ("base", "<s><end>")
        );

        // A merged checkpoint ends at the same tokens.
        fs::copy(base.path().join("config.json"), adapter.path().join("config.json")).unwrap();
        of_adapter().save_stop_tokens(adapter.path()).unwrap();
        assert_eq!(Pretrained::open(adapter.path()).unwrap().stop_tokens().unwrap(), [1, 2]);
    }

    #[test]
    fn the_ends_of_a_text_are_found_where_they_stand() {
        let vocab = r#"{"a": 0, "</s>": 1, "<end>": 2}"#;
        let tokenizer =
            format!(r#"{{"version": "1.0", "model": {{"type": "WordLevel", "vocab": {vocab}, "unk_token": "a"}}}}"#);
        let config = ("config.json", r#"{"model_type": "llama", "eos_token_id": 1}"#);
        let none = ("config.json", r#"{"model_type": "llama"}"#);
        let list = ("generation_config.json", r#"{"eos_token_id": [2, 1]}"#);
        let of_tokenizer = ("tokenizer_config.json", r#"{"eos_token": "<end>"}"#);
        for (files, ends) in [
            (vec![config], vec![1]),
            (vec![config, list], vec![2, 1]),
            (vec![config, of_tokenizer], vec![1]),
            (vec![none, of_tokenizer], vec![2]),
            (vec![none], vec![]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("tokenizer.json"), &tokenizer).unwrap();
            for (name, text) in &files {
                fs::write(dir.path().join(name), text).unwrap();
            }
            assert_eq!(
                Pretrained::open(dir.path()).unwrap().stop_tokens().unwrap(),
                ends,
                "{files:?}"
            );
        }
    }

    /// A checkpoint of another kind, and what the refusal says.
    #[test]
    fn other_peoples_checkpoints_are_refused_in_one_sentence() {
        let config = r#"{"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}"#;
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[("config.json", config)], "gptq"),
            (&[("pytorch_model.bin", "")], "pytorch_model.bin"),
            (&[("model.safetensors", ""), ("tokenizer.model", "")], "tokenizer.model"),
            (&[("model.safetensors", ""), ("spiece.model", "")], "spiece.model"),
        ];
        for (files, said) in cases {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
            for (name, text) in files {
                fs::write(dir.path().join(name), text).unwrap();
            }
            let refused = Pretrained::open(dir.path()).and_then(|found| match said.starts_with("pytorch") {
                true => found.model(&Device::flex()).map(drop),
                false => found.tokenizer(64).map(drop),
            });
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(said) && message.lines().count() == 1, "{message}");
        }
    }
}
