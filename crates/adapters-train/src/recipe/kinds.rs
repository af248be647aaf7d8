//! What a run learns, and of which models.

use std::fmt;

use adapters_models::{ModelKind, Pretrained};
use serde::{Deserialize, Serialize};

use super::{Recipe, value};
use crate::data::LabelKind;
use crate::error::TrainError;

/// What a run learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// The class of a text.
    #[default]
    Classification,
    /// Tokens that were hidden from it.
    MaskedLm,
    /// What follows a prompt in the same text; the model's own head.
    CausalLm,
    /// What is to be written of a prompt that an encoder read; the model's own head.
    Seq2seqLm,
    /// A number.
    Regression,
    /// Which of several labels a text has.
    MultiLabel,
}

impl fmt::Display for HeadKind {
    /// As a recipe writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classification => "classification",
            Self::MaskedLm => "masked_lm",
            Self::CausalLm => "causal_lm",
            Self::Seq2seqLm => "seq2seq_lm",
            Self::Regression => "regression",
            Self::MultiLabel => "multi_label",
        })
    }
}

impl HeadKind {
    /// Every kind.
    const ALL: [Self; 6] = [
        Self::Classification,
        Self::MaskedLm,
        Self::Regression,
        Self::MultiLabel,
        Self::CausalLm,
        Self::Seq2seqLm,
    ];

    /// How the labels of such a run are written.
    pub fn labels(self) -> LabelKind {
        match self {
            Self::Classification | Self::MaskedLm | Self::CausalLm | Self::Seq2seqLm => LabelKind::Class,
            Self::Regression => LabelKind::Number,
            Self::MultiLabel => LabelKind::Several,
        }
    }

    /// Whether such a run learns to write completions.
    pub fn writes(self) -> bool {
        matches!(self, Self::CausalLm | Self::Seq2seqLm)
    }

    /// The kind of model that has such a head.
    fn model(self) -> ModelKind {
        match self {
            Self::Classification | Self::MaskedLm | Self::Regression | Self::MultiLabel => ModelKind::Encoder,
            Self::CausalLm => ModelKind::CausalLm,
            Self::Seq2seqLm => ModelKind::EncoderDecoder,
        }
    }

    /// Refuses a model that has no such head.
    pub(crate) fn check_model(self, pretrained: &Pretrained) -> Result<(), TrainError> {
        if self.model() == pretrained.kind() {
            return Ok(());
        }
        let fitting = Self::ALL.iter().filter(|kind| kind.model() == pretrained.kind());
        let fitting: Vec<String> = fitting.map(|kind| format!("`{kind}`")).collect();
        let expected = format!("{}, which a `{}` has", fitting.join(", "), pretrained.model_type());
        Err(value("head.kind", &expected, format!("`{self}`")))
    }
}

impl Recipe {
    /// Checks what only some kinds of head have.
    pub(super) fn check_kind(&self) -> Result<(), TrainError> {
        let (kind, data) = (self.head.kind, &self.data);
        if matches!(kind, HeadKind::Classification | HeadKind::MultiLabel) && data.labels.count() == 0 {
            let expected = format!("at least 1 for `head.kind` `{kind}`; `head.kind` `causal_lm` and others need none");
            return Err(value("data.labels", &expected, 0));
        }
        if data.pack && kind != HeadKind::CausalLm {
            let expected = format!("false for `head.kind` `{kind}`; only `causal_lm` packs");
            return Err(value("data.pack", &expected, true));
        }
        if let Some(template) = data.template.filter(|_| !kind.writes()) {
            let expected = format!("none for `head.kind` `{kind}`, which reads no prompts");
            return Err(value(
                "data.template",
                &expected,
                format!("{template:?}").to_lowercase(),
            ));
        }
        if self.fusion.is_some() && kind.writes() {
            let expected = "a head on an encoder, as `fusion.parts` shows what a fusion attends to in one";
            return Err(value("head.kind", expected, format!("`{kind}`")));
        }
        Ok(())
    }
}
