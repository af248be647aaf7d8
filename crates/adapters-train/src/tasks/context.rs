//! What a task reads its data with.

use adapters_models::heads::{HeadConfig, HeadKind, Pooling};
use adapters_models::{ChatTime, Model, ModelKind, Pretrained, TextTokenizer};
use serde::{Deserialize, Serialize};

use crate::data::{Fields, Labels};
use crate::error::TrainError;

/// Options of a task, from a recipe or from an adapter that was trained.
#[derive(Clone, Debug)]
pub struct TaskOptions {
    /// The classes.
    pub labels: Labels,
    /// Names of the fields.
    pub fields: Fields,
    /// What a head of a whole text or image reads; `None` for the mean over the tokens of an encoder of text, the class token of
    /// an encoder of images, and the last token of others.
    pub pooling: Option<Pooling>,
    /// Dropout before the head, in training.
    pub head_dropout: f64,
    /// Fraction of the tokens that are hidden, where tokens are.
    pub mask_probability: f64,
    /// How much each class weighs in the loss; alike without it.
    pub class_weights: Option<Vec<f32>>,
    /// Longest input in tokens.
    pub max_length: usize,
    /// How a prompt becomes the text that a completion follows.
    pub template: Option<Template>,
    /// Whether an evaluation of a language model also writes answers, for ROUGE-L and exact match.
    pub answers: bool,
    /// The time that a chat template may write.
    pub time: ChatTime,
    /// Whether rows are filled up with several prompts and completions.
    pub pack: bool,
}

/// How a prompt becomes the text that a completion follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// The chat template of the tokenizer: the prompt is the user's message, the completion the answer.
    Chat,
    /// As it is.
    Plain,
}

/// What a task reads its data with.
#[derive(Clone, Copy, Debug)]
pub struct TaskContext<'a> {
    /// Options.
    pub options: &'a TaskOptions,
    /// The checkpoint.
    pub pretrained: &'a Pretrained,
    /// The model.
    pub model: &'a Model,
    /// Its tokenizer; `None` for a model of images or sounds. See [`tokenizer_of`].
    pub tokenizer: Option<&'a TextTokenizer>,
}

/// The tokenizer of a checkpoint, for texts of at most `max_length` tokens; `None` for a model of images or sounds.
///
/// # Errors
///
/// As [`Pretrained::tokenizer`].
pub fn tokenizer_of(pretrained: &Pretrained, max_length: usize) -> Result<Option<TextTokenizer>, TrainError> {
    match pretrained.kind() {
        ModelKind::ImageEncoder | ModelKind::SoundEncoder => Ok(None),
        _ => Ok(Some(pretrained.tokenizer(max_length)?)),
    }
}

impl<'a> TaskContext<'a> {
    /// The tokenizer, for a task that reads text.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] for a model of images or sounds.
    pub fn tokenizer(&self) -> Result<&'a TextTokenizer, TrainError> {
        self.tokenizer.ok_or_else(|| TrainError::Value {
            field: "head.kind",
            expected: "a task over images or sounds, which the model reads".to_owned(),
            found: "a task over texts, which needs a tokenizer".to_owned(),
        })
    }

    /// What a head of a whole text or image reads.
    pub(crate) fn pooling(&self) -> Pooling {
        self.options
            .pooling
            .unwrap_or_else(|| default_pooling(self.model.kind()))
    }

    /// The configuration of a new head, with the layers of transformers' class if it reads what that reads, else with one layer.
    pub(crate) fn head(&self, kind: HeadKind, labels: Vec<String>) -> HeadConfig {
        HeadConfig::new(kind, labels)
            .with_layers(1)
            .with_dropout(self.options.head_dropout)
            .as_published(self.model)
    }
}

/// What a head of a whole text or image reads unless told otherwise.
pub(crate) fn default_pooling(model: ModelKind) -> Pooling {
    match model {
        ModelKind::Encoder | ModelKind::TextAndImage | ModelKind::SoundEncoder => Pooling::Mean,
        ModelKind::ImageEncoder => Pooling::First,
        ModelKind::CausalLm | ModelKind::EncoderDecoder | ModelKind::SpeechToText => Pooling::Last,
    }
}
