//! Prediction heads in the reference's layers and files: what turns hidden states into answers.
//!
//! A head is a short stack of linear layers over the last hidden states: `W_n act(.. act(W_1 h + b_1)) + b_n`. Depending on its
//! [`HeadKind`] it reads one vector a text, which [`Pooling`] makes, or every position. It works on every model that is a
//! [`HeadBase`]: an encoder, a decoder, or an encoder-decoder, whose decoder then reads the text shifted by one position.
//! [`Heads`] holds several heads by name, and [`Routing`] assigns the rows of a batch to them.
//!
//! Each file format has one codec: AdapterHub's head files (`Head::save`, `Head::load`), peft's `modules_to_save`
//! (`Head::save_peft`, `Head::load_peft`) and this library's manifest (`Head::save_manifest`, `Head::load_manifest`).

mod adapterhub;
mod config;
mod head_base;
mod layers;
mod loss;
mod manifest;
mod named;
mod peft;
mod pooling;
mod setup;

use std::path::Path;

use adapters_core::Ctx;
use burn::tensor::{Bool, Tensor};

pub use config::{HeadConfig, HeadKind, Objective};
pub use head_base::HeadBase;
pub use layers::Head;
pub use loss::{IGNORED, Scores, Targets, cross_entropy};
pub use named::{Heads, NamedHead, Routing};
pub use pooling::Pooling;

use crate::error::ModelError;

impl Head {
    /// The outputs of this head for the last hidden states.
    ///
    /// # Shapes
    ///
    /// `hidden [batch, seq, d_model]`, prompt positions included; `padding [batch, seq]`, true at padding, is that of the whole
    /// `hidden`. Returns the [`Scores`] of its kind.
    ///
    /// # Panics
    ///
    /// Panics if the last axis is not the model's width, or if the rows of a multiple choice are no whole number of questions.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        padding: Option<Tensor<2, Bool>>,
        base: &impl HeadBase,
        cx: &mut Ctx<'_>,
    ) -> Scores {
        let hidden = match self.config().kind.pooling() {
            None => hidden,
            Some(pooling) => pooling.forward(hidden, padding, base, cx),
        };
        let scores = self.scores(hidden, base, cx);
        match self.config().kind {
            HeadKind::Classification { .. } | HeadKind::MultiLabel { .. } => Scores::Rows(scores.squeeze_dim(1)),
            HeadKind::MultipleChoice { choices, .. } => {
                let [batch, _, _] = scores.dims();
                Scores::Rows(scores.reshape([batch / choices, choices]))
            }
            HeadKind::Tagging | HeadKind::LanguageModel { .. } => Scores::Tokens(scores),
            HeadKind::QuestionAnswering => Scores::Spans {
                start: scores.clone().slice_dim(2, 0..1).squeeze_dim(2),
                end: scores.slice_dim(2, 1..2).squeeze_dim(2),
            },
        }
    }
}

/// Refuses a head that the model has nothing for.
fn fits(config: &HeadConfig, base: &impl HeadBase, path: &Path) -> Result<(), ModelError> {
    match config.kind.pooling() {
        Some(Pooling::Pooler) if !base.has_pooler() => Err(config::refused(
            path,
            "use_pooler",
            "false: this checkpoint has no pooler",
            "true",
        )),
        _ => Ok(()),
    }
}
