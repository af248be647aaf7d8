//! The codec of heads in peft's files: `modules_to_save` of `adapter_config.json`, and the modules' tensors next to the
//! adapter's.
//!
//! peft keeps no configuration of a head: the `task_type` stands for a class of transformers, and that class decides what the
//! head reads. Only heads of one layer are covered, which is what `BertForSequenceClassification`,
//! `LlamaForSequenceClassification`, `BertForTokenClassification`, `BertForQuestionAnswering` and their relatives have.

use std::path::Path;

use adapters_core::Format;
use adapters_store::{read_json, read_safetensors, write_json, write_safetensors};
use burn::tensor::Device;
use serde_json::{Map, Value, json};

use crate::error::ModelError;
use crate::heads::config::{HeadConfig, HeadKind, refused};
use crate::heads::layers::LastLayer;
use crate::heads::{Head, HeadBase, Pooling, fits};
use crate::weights::Weights;

const CONFIG: &str = "adapter_config.json";
/// Prefixes of the keys of a head: that of an adapter inside the model, and of a prompt around it.
const PREFIXES: [&str; 2] = ["base_model.model.", "base_model."];
/// Modules that hold the head of a class of transformers.
const MODULES: [&str; 3] = ["classifier", "score", "qa_outputs"];

/// What the classes of transformers for sequence classification read of this model.
fn class_pooling(base: &impl HeadBase) -> Pooling {
    match base.default_pooling() {
        Pooling::First => Pooling::Pooler,
        other => other,
    }
}

/// `task_type`, and the module that holds the head in the class that this type stands for; `None` where no class has this
/// head.
fn module(config: &HeadConfig, base: &impl HeadBase) -> Option<(&'static str, &'static str)> {
    let decoder = base.default_pooling() == Pooling::Last;
    match config.kind {
        _ if config.layers != 1 => None,
        HeadKind::Classification { pooling } => {
            // A decoder's class has no bias there.
            let fits = pooling == class_pooling(base) && config.bias != decoder;
            fits.then_some(("SEQ_CLS", if decoder { "score" } else { "classifier" }))
        }
        HeadKind::Tagging if !decoder => Some(("TOKEN_CLS", "classifier")),
        HeadKind::QuestionAnswering => Some(("QUESTION_ANS", "qa_outputs")),
        // Of several labels only the checkpoint's `problem_type` tells, which peft does not store.
        HeadKind::MultiLabel { .. } | HeadKind::Tagging | HeadKind::MultipleChoice { .. } => None,
        HeadKind::LanguageModel { .. } => None,
    }
}

impl Head {
    /// Adds the head to a folder that an adapter was saved in, in peft's format; `false` where no class of transformers has
    /// such a head, and then nothing is written. The adapter's keys become those of the larger class.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`].
    pub fn save_peft(&self, dir: &Path, base: &impl HeadBase) -> Result<bool, ModelError> {
        let Some((task_type, module)) = module(self.config(), base) else {
            return Ok(false);
        };
        let (config_path, weights_path) = (dir.join(CONFIG), dir.join(Format::Peft.weights_file()));
        let mut config: Map<String, Value> = read_json(&config_path)?;
        let (tensors, _) = read_safetensors(&weights_path)?;
        let prefix = Format::Peft.key_prefix();
        let inside = if base.is_larger_class() { "" } else { base.base_prefix() };
        let renamed = tensors.into_iter().map(|(key, data)| match key.strip_prefix(prefix) {
            Some(path) => (format!("{prefix}{inside}{path}"), data),
            None => (key, data),
        });
        let mut tensors: adapters_core::Tensors = renamed.collect();
        let inside = tensors.keys().any(|key| key.starts_with(prefix));
        let of_head = PREFIXES[usize::from(!inside)];
        let key = |rest: &str| format!("{of_head}{module}.{rest}");
        tensors.insert(key("weight"), self.last_weight(base).into_data());
        let bias = self.last.bias.iter().map(|bias| (key("bias"), bias.val().into_data()));
        tensors.extend(bias);
        write_safetensors(&weights_path, &tensors, [])?;
        let saved = config.get("modules_to_save").and_then(Value::as_array).cloned();
        let mut saved = saved.unwrap_or_default();
        saved.push(module.into());
        config.insert("modules_to_save".to_owned(), saved.into());
        config.insert("task_type".to_owned(), json!(task_type));
        write_json(&config_path, &config)?;
        Ok(true)
    }

    /// The head in a folder of peft's format; `None` where it has none.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for files; [`ModelError::Config`] for a `task_type` whose head is not computed here, and for a class
    /// that reads a pooler the model lacks.
    pub fn load_peft(dir: &Path, base: &impl HeadBase, device: &Device) -> Result<Option<Self>, ModelError> {
        let (path, weights) = (dir.join(CONFIG), dir.join(Format::Peft.weights_file()));
        if !path.exists() || !weights.exists() {
            return Ok(None);
        }
        let config: Map<String, Value> = read_json(&path)?;
        if config.contains_key("config") {
            return Ok(None); // AdapterHub's
        }
        let (mut tensors, _) = read_safetensors(&weights)?;
        let mut prefixes = PREFIXES
            .iter()
            .flat_map(|prefix| MODULES.map(|module| format!("{prefix}{module}.")));
        let Some(prefix) = prefixes.find(|prefix| tensors.contains_key(&format!("{prefix}weight"))) else {
            return Ok(None);
        };
        tensors.retain(|key, _| key.starts_with(&prefix));
        let rows = |key| {
            let data = tensors.get(&format!("{prefix}{key}"))?;
            data.shape().to_vec().first().copied()
        };
        let outputs = rows("weight").unwrap_or_default();
        let pooling = class_pooling(base);
        let kind = match config.get("task_type").and_then(Value::as_str).unwrap_or_default() {
            "SEQ_CLS" => HeadKind::Classification { pooling },
            "TOKEN_CLS" => HeadKind::Tagging,
            "QUESTION_ANS" => HeadKind::QuestionAnswering,
            other => {
                let expected = "SEQ_CLS, TOKEN_CLS or QUESTION_ANS for a folder with a head";
                return Err(refused(&path, "task_type", expected, other));
            }
        };
        let labels = (0..outputs).map(|label| format!("LABEL_{label}"));
        let config = HeadConfig {
            bias: rows("bias").is_some(),
            ..HeadConfig::new(kind, labels).with_layers(1)
        };
        let activation = config.check(&path)?;
        fits(&config, base, &path)?;
        let mut w = Weights::from_tensors(weights, tensors, &prefix, device);
        let last = LastLayer {
            weight: Some(w.matrix("weight", outputs, base.d_model())),
            bias: config.bias.then(|| w.vector("bias", outputs)),
        };
        w.finish(&[])?;
        Ok(Some(
            Self::from_layers(Vec::new(), last, activation, config).trainable(),
        ))
    }
}
