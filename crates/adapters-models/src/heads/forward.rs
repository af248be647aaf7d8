//! From hidden states to the outputs of a head.

use adapters_core::Ctx;
use burn::tensor::{Bool, Tensor};

use crate::heads::config::HeadKind;
use crate::heads::layers::Head;
use crate::heads::loss::Scores;
use crate::model::Model;

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
    /// Panics if the last axis is not the model's width, if the head was built for another model and reads a pooler or a token
    /// table that this one lacks, or if the rows of a multiple choice are no whole number of questions.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        padding: Option<Tensor<2, Bool>>,
        base: &Model,
        cx: &mut Ctx<'_>,
    ) -> Scores {
        let hidden = match self.config().kind.pooling() {
            None => hidden,
            Some(pooling) => pooling.forward(hidden, padding, base, cx),
        };
        let scores = self.scores(hidden, base, cx).whole();
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
