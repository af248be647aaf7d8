//! The codec of heads in peft's files: `modules_to_save` of `adapter_config.json`, and the modules' tensors next to the
//! adapter's.
//!
//! peft keeps no configuration of a head: the `task_type` stands for a class of transformers, and that class decides what the
//! head reads and which layers it has. For a class of a whole text or image they are those of [`ClassifierLayout`]; taggers and
//! heads of question answering have one layer, and in families whose classes have those of the masked language model below it
//! ([`MaskedLmLayout::below_tags`]) three.

use std::path::Path;

use adapters_core::{Format, Host, Tensors, is_outside};
use adapters_store::{is_there, read_json, read_safetensors, write_json, write_weights};
use burn::tensor::Device;
use serde_json::{Map, Value, json};

use crate::error::ModelError;
use crate::heads::config::{HeadConfig, HeadKind, refused};
use crate::heads::layers::{Head, HiddenLayer, LastLayer};
use crate::heads::pooling::Pooling;
use crate::model::Model;
use crate::transformer::{ClassifierLayout, MaskedLmLayout};
use crate::weights::Weights;

const CONFIG: &str = "adapter_config.json";
/// Prefixes of the keys of a head: that of an adapter inside the model, and of a prompt around it.
const PREFIXES: [&str; 2] = ["base_model.model.", "base_model."];
/// Modules of a head of one layer.
const MODULES: [&str; 3] = ["classifier", "score", "qa_outputs"];

/// What the class for sequence classification, or for classification of images, reads of this model.
fn class_pooling(base: &Model) -> Pooling {
    match base.classifier().reads_pooler {
        true => Pooling::Pooler,
        false => base.default_pooling(),
    }
}

/// What the class reads and predicts that the `task_type` of the configuration at `path` stands for.
fn kind_of(config: &Map<String, Value>, base: &Model, path: &Path) -> Result<HeadKind, ModelError> {
    let pooling = class_pooling(base);
    match config.get("task_type").and_then(Value::as_str) {
        Some("SEQ_CLS") => Ok(HeadKind::Classification { pooling }),
        None if auto_class(base).is_some() => Ok(HeadKind::Classification { pooling }),
        Some("TOKEN_CLS") => Ok(HeadKind::Tagging),
        Some("QUESTION_ANS") => Ok(HeadKind::QuestionAnswering),
        other => {
            let expected = "SEQ_CLS, TOKEN_CLS or QUESTION_ANS for a folder with a head";
            Err(refused(path, "task_type", expected, other.unwrap_or("none")))
        }
    }
}

/// `task_type`, and the layers of the head in the class that this type stands for; `None` where no class has this head.
fn class_of(config: &HeadConfig, base: &Model) -> Option<(Value, ClassifierLayout)> {
    let layout = base.classifier();
    let one_layer = |last| ClassifierLayout {
        hidden: None,
        last,
        ..layout
    };
    match config.kind {
        HeadKind::Classification { pooling } | HeadKind::MultiLabel { pooling } => {
            let layers = match layout.hidden {
                None => config.layers == 1,
                Some((_, activation)) => config.layers == 2 && config.activation.as_deref() == Some(activation),
            };
            let fits = layers && pooling == class_pooling(base) && config.bias == layout.bias;
            // Whether one label is right or several is not in peft's files: the scores are the same.
            let task_type = match auto_class(base) {
                Some(_) => Value::Null,
                None => json!("SEQ_CLS"),
            };
            fits.then_some((task_type, layout))
        }
        HeadKind::Tagging | HeadKind::QuestionAnswering if !fits_below(config, base.below_tags()) => None,
        _ if config.layers != 1 && !matches!(config.kind, HeadKind::Tagging | HeadKind::QuestionAnswering) => None,
        HeadKind::Tagging if base.default_pooling() != Pooling::Last => {
            Some((json!("TOKEN_CLS"), one_layer("classifier")))
        }
        HeadKind::QuestionAnswering => {
            // Classes with layers below it call it as those for tags do.
            let last = if base.below_tags().is_some() {
                "classifier"
            } else {
                "qa_outputs"
            };
            Some((json!("QUESTION_ANS"), one_layer(last)))
        }
        HeadKind::Tagging | HeadKind::MultipleChoice { .. } => None,
        HeadKind::LanguageModel { .. } => None,
    }
}

/// The class of transformers that `AutoPeftModel` makes the model of, where peft has no task type for it.
fn auto_class(base: &Model) -> Option<&'static str> {
    match (base.reads_images(), base.reads_sounds()) {
        (true, _) => Some("AutoModelForImageClassification"),
        (_, true) => Some("AutoModelForAudioClassification"),
        _ => None,
    }
}

/// The tensors of a peft file under the names of a larger class around the base. What that class has outside the base is named alike.
pub(crate) fn named_by_larger_class(tensors: Tensors, base: &Model) -> Tensors {
    let (prefix, inside) = (Format::Peft.key_prefix(), base.base_prefix());
    let outside: Vec<String> = base
        .sites()
        .into_iter()
        .filter(|info| is_outside(info, base))
        .map(|info| info.path)
        .collect();
    let renamed = tensors.into_iter().map(|(key, data)| match key.strip_prefix(prefix) {
        // A layer outside the base has given the others their prefix already.
        Some(path) if !path.starts_with(inside) && !outside.iter().any(|outside| path.starts_with(outside)) => {
            (format!("{prefix}{inside}{path}"), data)
        }
        _ => (key, data),
    });
    renamed.collect()
}

/// Whether a head of tags or answers has the layers of its class: those below the last, or none.
fn fits_below(config: &HeadConfig, below: Option<MaskedLmLayout>) -> bool {
    match below {
        None => config.layers == 1,
        Some(layout) => config.layers == 2 && config.activation.as_deref() == layout.activation.as_deref(),
    }
}

/// The module below the model that a path is in.
fn module(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

impl HeadConfig {
    /// With the layers that the class of transformers for a class of a whole text or image has over `base`, if this head reads what
    /// that class reads: both libraries' files can hold such a head.
    #[must_use]
    pub fn as_published(self, base: &Model) -> Self {
        let layout = base.classifier();
        match self.kind {
            HeadKind::Classification { pooling } | HeadKind::MultiLabel { pooling }
                if pooling == class_pooling(base) =>
            {
                let config = match layout.hidden {
                    Some((_, activation)) => self.with_layers(2).with_activation(Some(activation)),
                    None => self.with_layers(1),
                };
                Self {
                    bias: layout.bias,
                    ..config
                }
            }
            _ => self,
        }
    }

    /// What a head of this kind has to read over `base` for the files of AdapterHub and of peft to hold it; `None` for a head
    /// that does not read a whole text or image.
    pub fn published_pooling(&self, base: &Model) -> Option<Pooling> {
        self.kind.pooling().map(|_| class_pooling(base))
    }
}

impl Head {
    /// Adds the head to a folder that an adapter was saved in, in peft's format; `false` where no class of transformers has
    /// such a head, and then nothing is written. The adapter's keys become those of the larger class.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`].
    pub fn save_peft(&self, dir: &Path, base: &Model) -> Result<bool, ModelError> {
        let Some((task_type, layout)) = class_of(self.config(), base) else {
            return Ok(false);
        };
        let (config_path, weights_path) = (dir.join(CONFIG), dir.join(Format::Peft.weights_file()));
        let mut config: Map<String, Value> = read_json(&config_path)?;
        let (tensors, _) = read_safetensors(&weights_path)?;
        let prefix = Format::Peft.key_prefix();
        let mut tensors = match base.is_larger_class() || !layout.prefixed {
            true => tensors,
            false => named_by_larger_class(tensors, base),
        };
        let inside = tensors.keys().any(|key| key.starts_with(prefix));
        let of_head = PREFIXES[usize::from(!inside)];
        let key = |path: &str, rest: &str| format!("{of_head}{path}.{rest}");
        let saved = config.get("modules_to_save").and_then(Value::as_array).cloned();
        let mut saved = saved.unwrap_or_default();
        if let (Some((path, _)), Some(layer)) = (layout.hidden, self.hidden.first()) {
            tensors.insert(key(path, "weight"), layer.dense.weight.val().transpose().into_data());
            let bias = layer.dense.bias.iter();
            tensors.extend(bias.map(|bias| (key(path, "bias"), bias.val().into_data())));
            saved.push(module(path).into());
        }
        // What the checkpoint of the base has is not repeated.
        let below = base.below_tags();
        let own = self.hidden.first().filter(|layer| layer.of_model.is_none());
        if let (
            Some(below),
            Some(HiddenLayer {
                dense,
                norm: Some(norm),
                ..
            }),
        ) = (below, own)
        {
            let parts = [
                (
                    below.dense,
                    Some(dense.weight.val().transpose().into_data()),
                    dense.bias.as_ref(),
                ),
                (below.norm, Some(norm.gamma.val().into_data()), norm.beta.as_ref()),
            ];
            for (path, weight, bias) in parts {
                tensors.extend(weight.map(|weight| (key(path, "weight"), weight)));
                tensors.extend(bias.map(|bias| (key(path, "bias"), bias.val().into_data())));
            }
            saved.push(module(below.dense).into());
        }
        tensors.insert(key(layout.last, "weight"), self.last_weight(base).into_data());
        let bias = self.last.bias.iter();
        tensors.extend(bias.map(|bias| (key(layout.last, "bias"), bias.val().into_data())));
        write_weights(&weights_path, &tensors)?;
        saved.push(module(layout.last).into());
        saved.dedup();
        config.insert("modules_to_save".to_owned(), saved.into());
        config.insert("task_type".to_owned(), task_type);
        if let Some(class) = auto_class(base) {
            let mapping = json!({"base_model_class": class, "parent_library": "transformers"});
            config.insert("auto_mapping".to_owned(), mapping);
        }
        write_json(&config_path, &config)?;
        Ok(true)
    }

    /// The head in a folder of peft's format; `None` where it has none. A layer below the last that the folder lacks is that of
    /// `checkpoint`, the folder of the base: peft saves only the modules that it is told.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for files; [`ModelError::Config`] for a `task_type` whose head is not computed here, and for a class
    /// that reads a pooler the model lacks.
    pub fn load_peft(dir: &Path, checkpoint: &Path, base: &Model, device: &Device) -> Result<Option<Self>, ModelError> {
        let (path, weights) = (dir.join(CONFIG), dir.join(Format::Peft.weights_file()));
        if !is_there(&path) || !is_there(&weights) {
            return Ok(None);
        }
        let config: Map<String, Value> = read_json(&path)?;
        if config.contains_key("config") {
            return Ok(None); // AdapterHub's
        }
        let (mut tensors, _) = read_safetensors(&weights)?;
        let whole = base.classifier();
        let found = PREFIXES.iter().find_map(|prefix| {
            let lasts = [whole.last].into_iter().chain(MODULES);
            let mut present = lasts.filter(|last| tensors.contains_key(&format!("{prefix}{last}.weight")));
            Some((*prefix, present.next()?))
        });
        let Some((prefix, last)) = found else {
            return Ok(None);
        };
        let kind = kind_of(&config, base, &path)?;
        let is_whole = matches!(kind, HeadKind::Classification { .. });
        let (hidden, below) = (
            whole.hidden.filter(|_| is_whole),
            base.below_tags().filter(|_| !is_whole),
        );
        let modules = hidden.iter().map(|(path, _)| *path).chain([last]).map(module);
        let mut of_head: Vec<String> = modules.map(|module| format!("{prefix}{module}.")).collect();
        // Adapters may act on these.
        for path in below.iter().flat_map(|below| [below.dense, below.norm]) {
            of_head.extend(["weight", "bias"].map(|what| format!("{prefix}{path}.{what}")));
        }
        tensors.retain(|key, _| of_head.iter().any(|module| key.starts_with(module)));
        let rows = |key| {
            let data = tensors.get(&format!("{prefix}{last}.{key}"))?;
            data.shape().to_vec().first().copied()
        };
        let outputs = rows("weight").unwrap_or_default();
        let labels = (0..outputs).map(|label| format!("LABEL_{label}"));
        let config = HeadConfig {
            bias: rows("bias").is_some(),
            ..HeadConfig::new(kind, labels).with_layers(1 + usize::from(hidden.is_some() || below.is_some()))
        };
        let config = match (hidden, &below) {
            (Some((_, activation)), _) => config.with_activation(Some(activation)),
            (None, Some(below)) => config.with_activation(below.activation.as_deref()),
            (None, None) => config,
        };
        let activation = config.check(base, &path)?;
        let d = base.d_model();
        // A layer below the last is as wide as what the last one reads.
        let wide = tensors
            .get(&format!("{prefix}{last}.weight"))
            .map(|data| data.shape().to_vec());
        let wide = hidden
            .and(wide.as_ref().and_then(|shape| shape.get(1)))
            .map_or(d, |width| *width);
        let mut w = Weights::from_tensors(weights, tensors, prefix, device);
        let hidden = match (hidden, &below) {
            (None, None) => None,
            (None, Some(below)) if w.has(&format!("{}.weight", below.dense)) => {
                Some(HiddenLayer::of_masked_lm(below, [d, d], base, None, &mut w))
            }
            (None, Some(below)) => {
                let mut published = Weights::read(checkpoint, "", device)?;
                let layer = HiddenLayer::of_masked_lm(below, [d, d], base, below.site(base), &mut published);
                published.finish(&[""])?;
                Some(layer)
            }
            (Some((path, _)), _) if w.has(&format!("{path}.weight")) => {
                Some(HiddenLayer::plain(w.linear(path, d, wide)))
            }
            (Some((path, _)), _) => {
                let mut published = Weights::read(checkpoint, "", device)?;
                let dense = published.linear(path, d, wide);
                published.finish(&[""])?;
                Some(HiddenLayer::plain(dense))
            }
        };
        let last_layer = LastLayer {
            weight: Some(w.matrix(&format!("{last}.weight"), outputs, wide)),
            bias: config.bias.then(|| w.vector(&format!("{last}.bias"), outputs)),
        };
        w.finish(&[])?;
        Ok(Some(
            Self::from_layers(hidden.into_iter().collect(), last_layer, activation, config).trainable(),
        ))
    }
}
