//! What a head computes: its checked configuration, and the published form of it.

use adapters_core::Host;
use std::path::Path;

use adapters_nn::nearest;
use adapters_nn::ops::Activation;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::heads::pooling::Pooling;
use crate::model::Model;

/// The published `head_type` of a head over images, of one class or of several labels.
const IMAGES: &str = "image_classification";

/// What a head predicts, with the options that only this kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadKind {
    /// One class of a text; with a single label a number (regression).
    Classification {
        /// What it reads.
        pooling: Pooling,
    },
    /// Which of several labels a text has.
    MultiLabel {
        /// What it reads.
        pooling: Pooling,
    },
    /// Which of several texts is the right one. The texts of a question are neighboring rows.
    MultipleChoice {
        /// Texts to choose from.
        choices: usize,
        /// What it reads.
        pooling: Pooling,
    },
    /// A class of every token.
    Tagging,
    /// Where in a text an answer begins and ends.
    QuestionAnswering,
    /// A token of the vocabulary at every position.
    LanguageModel {
        /// Which one.
        objective: Objective,
        /// A normalization after each layer but the last.
        layer_norm: bool,
        /// Whether a position predicts the token after it.
        shift_labels: bool,
    },
}

/// What a language model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Tokens that were hidden.
    Masked,
    /// The next token.
    Causal,
}

impl HeadKind {
    const NAMES: [&str; 8] = [
        "classification",
        IMAGES,
        "multilabel_classification",
        "multiple_choice",
        "tagging",
        "question_answering",
        "masked_lm",
        "causal_lm",
    ];

    /// The published `head_type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Classification { .. } => "classification",
            Self::MultiLabel { .. } => "multilabel_classification",
            Self::MultipleChoice { .. } => "multiple_choice",
            Self::Tagging => "tagging",
            Self::QuestionAnswering => "question_answering",
            Self::LanguageModel { objective, .. } => match objective {
                Objective::Masked => "masked_lm",
                Objective::Causal => "causal_lm",
            },
        }
    }

    /// What a head of a whole text reads; `None` where it reads every position.
    pub fn pooling(&self) -> Option<Pooling> {
        match self {
            Self::Classification { pooling } | Self::MultiLabel { pooling } | Self::MultipleChoice { pooling, .. } => {
                Some(*pooling)
            }
            Self::Tagging | Self::QuestionAnswering | Self::LanguageModel { .. } => None,
        }
    }

    pub(super) fn is_language_model(&self) -> bool {
        matches!(self, Self::LanguageModel { .. })
    }

    /// Whether the published configuration has a field for the bias of the last layer.
    fn has_bias_option(&self) -> bool {
        !matches!(
            self,
            Self::MultipleChoice { .. } | Self::Tagging | Self::QuestionAnswering
        )
    }

    /// Whether the published configuration has a dropout probability.
    fn has_dropout_option(&self) -> bool {
        !matches!(
            self,
            Self::LanguageModel {
                objective: Objective::Masked,
                ..
            }
        )
    }
}

/// A head: `layers` linear layers with dropout before each and an activation between them, or those of a language model.
///
/// | field | default | what it is |
/// |---|---|---|
/// | `layers` | 2; tagging, question answering and causal language models 1 | linear layers, at least 1 |
/// | `activation` | `tanh`; masked language models `gelu`, causal ones none | between the layers, by its published name |
/// | `bias` | true; causal language models false | whether the last layer has a bias |
/// | `dropout` | the model's | probability before each layer, in training |
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    /// What it tells.
    pub kind: HeadKind,
    /// Names of what it tells apart, in order; empty for language models.
    pub labels: Vec<String>,
    /// Linear layers.
    pub layers: usize,
    /// Activation between them, by its published name.
    pub activation: Option<String>,
    /// Whether the last layer has a bias.
    pub bias: bool,
    /// Dropout before each layer; `None` for the model's.
    pub dropout: Option<f64>,
    /// Fields of a file that this version does not know, written back.
    pub extra: Map<String, Value>,
}

impl HeadConfig {
    /// A head of this kind with the published defaults. `labels` are the classes; for multiple choice, question answering and
    /// language models they follow from the kind.
    pub fn new<S: Into<String>>(kind: HeadKind, labels: impl IntoIterator<Item = S>) -> Self {
        let labels: Vec<String> = match kind {
            HeadKind::MultipleChoice { choices, .. } => numbered(choices),
            HeadKind::QuestionAnswering => numbered(2),
            HeadKind::LanguageModel { .. } => Vec::new(),
            _ => labels.into_iter().map(Into::into).collect(),
        };
        let (layers, activation, bias) = match kind {
            HeadKind::Tagging | HeadKind::QuestionAnswering => (1, Some("tanh"), true),
            HeadKind::LanguageModel { objective, .. } => match objective {
                Objective::Masked => (2, Some("gelu"), true),
                Objective::Causal => (1, None, false),
            },
            _ => (2, Some("tanh"), true),
        };
        Self {
            kind,
            labels,
            layers,
            activation: activation.map(str::to_owned),
            bias,
            dropout: None,
            extra: Map::new(),
        }
    }

    /// A number for a text: a classification head with one output.
    pub fn regression(pooling: Pooling) -> Self {
        Self::new(HeadKind::Classification { pooling }, numbered(1))
    }

    /// The masked language model of the reference: two layers, `gelu`, a normalization.
    pub fn masked_lm() -> Self {
        let kind = HeadKind::LanguageModel {
            objective: Objective::Masked,
            layer_norm: true,
            shift_labels: false,
        };
        Self::new(kind, [] as [&str; 0])
    }

    /// The causal language model the reference adds by name: two layers, `gelu`, a normalization and a bias.
    pub fn causal_lm() -> Self {
        let kind = HeadKind::LanguageModel {
            objective: Objective::Causal,
            layer_norm: true,
            shift_labels: true,
        };
        Self {
            layers: 2,
            activation: Some("gelu".to_owned()),
            bias: true,
            ..Self::new(kind, [] as [&str; 0])
        }
    }

    /// Sets the number of linear layers.
    #[must_use]
    pub fn with_layers(mut self, layers: usize) -> Self {
        self.layers = layers;
        self
    }

    /// Sets the activation between the layers, by its published name.
    #[must_use]
    pub(crate) fn with_activation(mut self, activation: Option<&str>) -> Self {
        self.activation = activation.map(str::to_owned);
        self
    }

    /// Sets whether the last layer has a bias.
    #[must_use]
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Sets the dropout probability before each layer.
    #[must_use]
    pub fn with_dropout(mut self, probability: f64) -> Self {
        self.dropout = Some(probability);
        self
    }

    /// Numbers the last layer gives.
    pub(super) fn outputs(&self, vocab_size: usize) -> usize {
        match self.kind {
            HeadKind::MultipleChoice { .. } => 1,
            HeadKind::LanguageModel { .. } => vocab_size,
            _ => self.labels.len(),
        }
    }

    /// Whether an input may have several labels.
    pub fn has_several_labels(&self) -> bool {
        matches!(self.kind, HeadKind::MultiLabel { .. })
    }

    /// Whether it gives a number instead of classes.
    pub fn is_regression(&self) -> bool {
        matches!(self.kind, HeadKind::Classification { .. }) && self.labels.len() == 1
    }

    /// Checks the values against each other and against the model; the activation, which is the identity without one.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] naming the field.
    pub(super) fn check(&self, base: &Model, path: &Path) -> Result<Activation, ModelError> {
        let refuse = |field, expected: &str, found: String| Err(refused(path, field, expected, found));
        if !(1..=64).contains(&self.layers) {
            return refuse("layers", "between 1 and 64", self.layers.to_string());
        }
        match self.kind {
            HeadKind::MultipleChoice { choices: 0, .. } => return refuse("num_choices", "at least 1", "0".to_owned()),
            HeadKind::QuestionAnswering if self.labels.len() != 2 => {
                return refuse("num_labels", "2, a beginning and an end", self.labels.len().to_string());
            }
            HeadKind::LanguageModel { .. } | HeadKind::MultipleChoice { .. } => {}
            _ if self.labels.is_empty() => return refuse("num_labels", "at least 1", "0".to_owned()),
            _ => {}
        }
        if self.kind.is_language_model() && (base.vocab_size() == 0 || base.word_embeddings().is_none()) {
            let expected = "another head: the model reads no tokens";
            return refuse("head_type", expected, self.kind.name().to_owned());
        }
        if self.layers == 1 && self.kind.is_language_model() {
            let (d, width) = (base.d_model(), base.word_width());
            let expected = format!("at least 2: the word embeddings are {width} wide, the layers {d}");
            if width != d {
                return refuse("layers", &expected, "1".to_owned());
            }
        }
        if !self.bias && !self.kind.has_bias_option() {
            return refuse("bias", "true: a head of this type always has one", "false".to_owned());
        }
        if let Some(found) = self.dropout.filter(|p| !(0.0..1.0).contains(p)) {
            return refuse("dropout_prob", "at least 0 and below 1", found.to_string());
        }
        if self.kind.pooling() == Some(Pooling::Pooler) && !base.has_pooler() {
            return refuse("use_pooler", "false: this checkpoint has no pooler", "true".to_owned());
        }
        let name = self.activation.as_deref().unwrap_or("linear").to_lowercase();
        Ok(name.parse::<Activation>()?)
    }

    /// A configuration from the `config` object of a `head_config.json`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] naming the field.
    pub(super) fn from_fields(mut fields: Map<String, Value>, base: &Model, path: &Path) -> Result<Self, ModelError> {
        let mut read = Fields {
            fields: &mut fields,
            path,
        };
        // A manifest may leave it out.
        let plain = if base.reads_images() { IMAGES } else { "classification" };
        let found: String = read.take("head_type")?.unwrap_or_else(|| plain.to_owned());
        let labels = read.labels()?;
        let pooling = read.pooling(base.default_pooling())?;
        let (count, choices) = (read.take::<usize>("num_labels")?, read.take::<usize>("num_choices")?);
        let language_model = |read: &mut Fields<'_>, objective, norm, shift| {
            Ok::<_, ModelError>(HeadKind::LanguageModel {
                objective,
                layer_norm: read.take("layer_norm")?.unwrap_or(norm),
                shift_labels: read.take("shift_labels")?.unwrap_or(shift),
            })
        };
        let kind = match found.as_str() {
            IMAGES => match read.take("multilabel")?.unwrap_or(false) {
                true => HeadKind::MultiLabel { pooling },
                false => HeadKind::Classification { pooling },
            },
            "classification" => HeadKind::Classification { pooling },
            "multilabel_classification" => HeadKind::MultiLabel { pooling },
            "multiple_choice" => HeadKind::MultipleChoice {
                choices: choices.unwrap_or(2),
                pooling,
            },
            "tagging" => HeadKind::Tagging,
            "question_answering" => HeadKind::QuestionAnswering,
            "masked_lm" => language_model(&mut read, Objective::Masked, true, false)?,
            "causal_lm" => language_model(&mut read, Objective::Causal, false, true)?,
            _ => {
                let near = nearest(&found, HeadKind::NAMES).map_or_else(String::new, |n| format!(", nearest: `{n}`"));
                let expected = format!("one of {}{near}", HeadKind::NAMES.join(", "));
                return Err(refused(path, "head_type", &expected, found));
            }
        };
        if base.reads_images() != (found == IMAGES) {
            let expected = match base.reads_images() {
                true => "`image_classification`, as the model reads images",
                false => "a head over texts, as the model reads them",
            };
            return Err(refused(path, "head_type", expected, found));
        }
        let numbers = count.or(labels.as_ref().map(Vec::len)).unwrap_or(2);
        if numbers > 1 << 20 || choices.is_some_and(|n| n > 1 << 20) {
            return Err(refused(path, "num_labels", "at most 2^20", numbers.to_string()));
        }
        let mut config = Self::new(kind, numbered(numbers));
        if !kind.is_language_model() {
            let expected = match kind {
                HeadKind::MultipleChoice { choices, .. } => choices,
                _ => numbers,
            };
            config.labels = labels.unwrap_or_else(|| numbered(expected));
            if config.labels.len() != expected {
                let found = format!("{} labels", config.labels.len());
                return Err(refused(path, "label2id", &format!("{expected} labels"), found));
            }
        }
        config.layers = read.take("layers")?.unwrap_or(config.layers);
        if let Some(activation) = read.fields.remove("activation_function") {
            config.activation = match activation {
                // The reference takes an empty name for none.
                Value::String(name) => Some(name).filter(|name| !name.is_empty()),
                _ => None,
            };
        }
        config.bias = read.take("bias")?.unwrap_or(config.bias);
        config.dropout = read.take("dropout_prob")?;
        config.extra = fields;
        Ok(config)
    }

    /// The `config` object of a `head_config.json`, in the reference's keys.
    pub(super) fn to_fields(&self, base: &Model) -> Map<String, Value> {
        let mut fields = self.extra.clone();
        let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        match self.kind {
            HeadKind::Classification { .. } | HeadKind::MultiLabel { .. } if base.reads_images() => {
                put("head_type", IMAGES.into());
                put("multilabel", self.has_several_labels().into());
            }
            kind => {
                put("head_type", kind.name().into());
            }
        }
        put("layers", self.layers.into());
        put("activation_function", self.activation.clone().into());
        match self.kind {
            HeadKind::LanguageModel {
                layer_norm,
                shift_labels,
                ..
            } => {
                put("vocab_size", base.vocab_size().into());
                put("embedding_size", base.word_width().into());
                put("layer_norm", layer_norm.into());
                put("shift_labels", shift_labels.into());
                put("label2id", Value::Null);
            }
            HeadKind::MultipleChoice { choices, .. } => {
                put("num_choices", choices.into());
            }
            _ => {
                put("num_labels", self.labels.len().into());
            }
        }
        if !self.kind.is_language_model() {
            let ids = self.labels.iter().cloned().zip((0..).map(|id: usize| id.into()));
            put("label2id", Value::Object(ids.collect()));
        }
        if let Some(pooling) = self.kind.pooling() {
            put("use_pooler", (pooling == Pooling::Pooler).into());
            if pooling != Pooling::Pooler && pooling != base.default_pooling() {
                put("pooling", serde_json::to_value(pooling).unwrap_or_default());
            }
        }
        if self.kind.has_bias_option() {
            put("bias", self.bias.into());
        }
        if self.kind.has_dropout_option() {
            put("dropout_prob", self.dropout.into());
        }
        fields
    }
}

/// `LABEL_0`, `LABEL_1`, .., the reference's names of nameless labels.
fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|id| format!("LABEL_{id}")).collect()
}

pub(super) fn refused(path: &Path, field: &'static str, expected: &str, found: impl Into<String>) -> ModelError {
    ModelError::Config {
        path: path.to_owned(),
        field,
        expected: expected.to_owned(),
        found: found.into(),
    }
}

/// The fields of a file that were not read yet.
struct Fields<'a> {
    fields: &'a mut Map<String, Value>,
    path: &'a Path,
}

impl Fields<'_> {
    /// A field; `None` where it is absent or null.
    fn take<T: DeserializeOwned>(&mut self, key: &'static str) -> Result<Option<T>, ModelError> {
        match self.fields.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error: serde_json::Error| {
                    let reason = error.to_string();
                    let expected = reason
                        .split_once("expected ")
                        .map_or(&*reason, |(_, expected)| expected);
                    refused(self.path, key, expected, value.to_string())
                }),
        }
    }

    /// Names by their ids, which are 0, 1, .. in some order.
    fn labels(&mut self) -> Result<Option<Vec<String>>, ModelError> {
        let Some(ids) = self.take::<Map<String, Value>>("label2id")? else {
            return Ok(None);
        };
        let mut labels = vec![None; ids.len()];
        for (label, id) in ids {
            let number = id.as_u64().or_else(|| id.as_str().and_then(|id| id.parse().ok()));
            match number.and_then(|id| labels.get_mut(usize::try_from(id).ok()?)) {
                Some(slot @ None) => *slot = Some(label),
                _ => {
                    let expected = "each id from 0 on once";
                    return Err(refused(self.path, "label2id", expected, format!("{label} = {id}")));
                }
            }
        }
        Ok(Some(labels.into_iter().flatten().collect()))
    }

    fn pooling(&mut self, default: Pooling) -> Result<Pooling, ModelError> {
        let pooler = self.take::<bool>("use_pooler")?.unwrap_or(false);
        let named = self.take::<Pooling>("pooling")?;
        Ok(named.unwrap_or(if pooler { Pooling::Pooler } else { default }))
    }
}
