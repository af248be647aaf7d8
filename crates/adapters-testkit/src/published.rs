//! Configurations as they are published, without weights: every option is computed or refused by its name, and the modules
//! that published adapters name are found.
//!
//! A case is a JSON file: the `config` of the `checkpoint`, the sizes that make it `smaller`, and the `adapter_config.json` of
//! `adapters` of that family. With `refused` it is a configuration that is refused, by the name of that field.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::iter;
use std::path::Path;

use adapters::core::{Format, StoredConfig};
use adapters::models::{Architectures, Model, ModelError};
use adapters::store::{LoadOptions, StoreError, TensorProblem, load_adapter, read_json, save_adapter, write_json};
use adapters::{AdapterSet, Ctx, METHODS};
use burn::tensor::Device;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::model_contract::{ModelCase, everything, random_checkpoint, write_and_load};
use crate::model_inputs::two_rows;

/// A case.
#[derive(Clone, Debug, Deserialize)]
pub struct Published {
    /// Where it was published.
    pub checkpoint: String,
    /// Its `config.json`.
    pub config: Map<String, Value>,
    /// Values in place of those of `config`, nested like them, for a model that a test can run.
    pub smaller: Map<String, Value>,
    /// The `adapter_config.json` of LoRA adapters for this family.
    pub adapters: Vec<Map<String, Value>>,
    /// Options that the class of transformers does not read either, and what else there is to say about them.
    #[serde(default)]
    pub unread: BTreeMap<String, String>,
    /// The field for which the configuration is refused.
    pub refused: Option<String>,
}

/// Options that change nothing a model computes: descriptions, initial values, how texts are generated, what is returned next to the
/// last hidden state, the library's own switches of memory and speed, and parameters of heads that a task adds.
const INERT: &[&str] = &[
    // Descriptions.
    "_name_or_path",
    "_num_labels",
    "architectures",
    "auto_map",
    "bos_token_id",
    "cls_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "sep_token_id",
    "stage_names",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    // Initial values.
    "init_std",
    "initializer_cutoff_factor",
    "initializer_factor",
    "initializer_range",
    "logit_scale_init_value",
    // Generation.
    "bad_words_ids",
    "begin_suppress_tokens",
    "cache_implementation",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "forced_bos_token_id",
    "forced_decoder_ids",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "prefix",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    // Heads that a task adds, and losses of training.
    "classif_dropout",
    "qa_dropout",
    "router_aux_loss_coef",
    "semantic_loss_ignore_index",
    "summary_activation",
    "summary_first_dropout",
    "summary_last_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    // Outputs, memory and speed.
    "chunk_size_feed_forward",
    "deterministic_flash_attn",
    "gradient_checkpointing",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_past",
    "repad_logits_with_grad",
    "return_dict",
    "torchscript",
    "use_bfloat16",
    "use_cache",
];

/// Probabilities of dropout, which an evaluation does not show; one above 1 is refused.
const DROPOUTS: &[&str] = &[
    "drop_path_rate",
    "decoder_layerdrop",
    "encoder_layerdrop",
    "layerdrop",
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "embedding_dropout",
    "feat_proj_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
    "resid_pdrop",
    "router_jitter_noise",
];

impl Published {
    /// Reads a case.
    ///
    /// # Errors
    ///
    /// [`StoreError`] naming the file.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        read_json(path)
    }

    /// Runs every check.
    ///
    /// # Panics
    ///
    /// Panics where a promise is broken, naming it and the checkpoint.
    pub fn check(&self) {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        match &self.refused {
            Some(field) => self.is_refused(dir.path(), field),
            None => {
                self.is_accepted(dir.path());
                self.options_are_computed_or_refused(dir.path());
                self.adapters_find_their_modules(dir.path());
            }
        }
    }

    /// What loading the configuration says where the checkpoint has no tensors.
    fn without_weights(&self, dir: &Path) -> ModelError {
        let case = case(Value::Object(self.config.clone()));
        let loaded = write_and_load(&case, dir, &Default::default(), &Device::flex());
        loaded.expect_err("a checkpoint without tensors is refused")
    }

    fn is_refused(&self, dir: &Path, field: &str) {
        let message = self.without_weights(dir).to_string();
        assert!(
            message.contains(&format!("`{field}`")),
            "{}: {message}",
            self.checkpoint
        );
    }

    /// At its published size the configuration lacks nothing but the tensors.
    fn is_accepted(&self, dir: &Path) {
        let error = self.without_weights(dir);
        let ModelError::Store(StoreError::Mismatch { problems, .. }) = &error else {
            panic!("{}: {error}", self.checkpoint);
        };
        let only_missing = problems
            .iter()
            .all(|problem| matches!(problem, TensorProblem::Missing { .. }));
        assert!(only_missing, "{}: {error}", self.checkpoint);
    }

    /// Each option in turn gets another value. Then the model is refused by the name of the option or for the shapes of its
    /// tensors, or computes something else.
    fn options_are_computed_or_refused(&self, dir: &Path) {
        let device = Device::flex();
        let smaller = Value::Object(merged(&self.config, &self.smaller));
        let (model, tensors) = random_checkpoint(&case(smaller.clone()), dir, &device);
        let outcome = |model: &Model| {
            let computed = everything(model, two_rows(model, &smaller, &device), &mut Ctx::plain());
            (model.info(), computed.into_data())
        };
        let before = outcome(&model);
        let mut silent = Vec::new();
        for (path, other) in changes(&smaller) {
            let skipped = |part: &str| INERT.contains(&part) || self.unread.contains_key(part);
            if path.split('/').any(skipped) {
                continue;
            }
            let named = path.rsplit('/').find(|part| part.parse::<usize>().is_err());
            let mut changed = smaller.clone();
            *changed.pointer_mut(&path).expect("the path is one of its own") = other.clone();
            let heard = match write_and_load(&case(changed), dir, &tensors, &device) {
                Ok(model) => outcome(&model) != before,
                Err(ModelError::Store(StoreError::Mismatch { .. })) => true,
                Err(error) => {
                    let said = iter::successors(Some(&error as &dyn Error), |error| (*error).source());
                    let said: Vec<String> = said.map(ToString::to_string).collect();
                    named.is_some_and(|field| said.iter().any(|line| line.contains(field)))
                }
            };
            if !heard {
                silent.push(format!("{path} = {other}"));
            }
        }
        assert!(
            silent.is_empty(),
            "{}: neither computed nor refused: {silent:#?}",
            self.checkpoint
        );
    }

    /// Every published adapter configuration loads: all modules that it names are found, and its options are computed.
    fn adapters_find_their_modules(&self, dir: &Path) {
        let device = Device::flex();
        let smaller = Value::Object(merged(&self.config, &self.smaller));
        let (model, _) = random_checkpoint(&case(smaller), dir, &device);
        for fields in &self.adapters {
            let because = |e: &dyn Display| format!("{}, {}: {e}", self.checkpoint, fields["target_modules"]);
            let stored = StoredConfig {
                format: Format::Peft,
                fields,
                version: None,
                versioned: false,
            };
            let method = METHODS.read(&stored).unwrap_or_else(|e| panic!("{}", because(&e)));
            let mut set = AdapterSet::new();
            let attached = set.attach("a", method, &model, 1, &device);
            attached.unwrap_or_else(|e| panic!("{}", because(&e)));
            let saved = save_adapter(dir, Format::Peft, &set, "a", &model);
            saved.unwrap_or_else(|e| panic!("{}", because(&e)));
            write_json(&dir.join("adapter_config.json"), fields).expect("the folder can be written");
            let options = LoadOptions::default();
            let loaded = load_adapter(dir, &mut AdapterSet::new(), &model, &METHODS, &options, &device);
            loaded.unwrap_or_else(|e| panic!("{}", because(&e)));
        }
    }
}

/// A case of the model contract.
fn case(config: Value) -> ModelCase {
    ModelCase {
        config,
        optional_keys: &["pooler.dense.weight", "pooler.weight"],
        architectures: Architectures::default(),
    }
}

/// `fields` with `others` in place of theirs; objects are merged.
fn merged(fields: &Map<String, Value>, others: &Map<String, Value>) -> Map<String, Value> {
    let mut merged_fields = fields.clone();
    for (field, other) in others {
        let value = match (fields.get(field), other) {
            (Some(Value::Object(own)), Value::Object(other)) => Value::Object(merged(own, other)),
            _ => other.clone(),
        };
        merged_fields.insert(field.clone(), value);
    }
    merged_fields
}

/// A pointer to each value, and another value; of a list to its first element. What is `null` is left out.
fn changes(value: &Value) -> Vec<(String, Value)> {
    let below = |key: &str, value: &Value| {
        let changes = changes_of(key, value);
        changes
            .into_iter()
            .map(|(path, other)| (format!("/{key}{path}"), other))
            .collect::<Vec<_>>()
    };
    match value {
        Value::Object(fields) => fields.iter().flat_map(|(key, value)| below(key, value)).collect(),
        Value::Array(elements) => elements.first().map_or_else(Vec::new, |first| below("0", first)),
        _ => Vec::new(),
    }
}

/// The changes of the value of a key: those inside it, or another value.
fn changes_of(key: &str, value: &Value) -> Vec<(String, Value)> {
    let other = match value {
        Value::Object(_) | Value::Array(_) => return changes(value),
        Value::Null => return Vec::new(),
        _ if DROPOUTS.contains(&key) => json!(1.5),
        Value::Bool(on) => json!(!on),
        Value::String(_) => json!("another"),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) if whole > 999 => json!(2 * whole),
            (Some(whole), _) => json!(whole + 1),
            (None, Some(x)) if x < 1e-3 => json!(0.5),
            (None, x) => json!(x.unwrap_or_default() * 1.5),
        },
    };
    vec![(String::new(), other)]
}
