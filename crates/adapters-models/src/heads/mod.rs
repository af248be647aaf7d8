//! Prediction heads in the reference's layers and files: what turns hidden states into answers.
//!
//! A head is a short stack of linear layers over the last hidden states: `W_n act(.. act(W_1 h + b_1)) + b_n`. It reads one
//! vector a text or every position, as its [`HeadKind`] says. Several heads live side by side in [`Heads`], and [`Routing`]
//! says which rows of a batch go to which.

mod config;
mod files;
mod layers;
mod loss;
mod named;
mod setup;

use std::path::Path;

use adapters_core::{Ctx, Host, Role, Site, Stack};
use burn::tensor::{Bool, Tensor};

pub use config::{HeadConfig, HeadKind, HeadPooling, Objective};
pub use layers::Head;
pub use loss::{IGNORED, Scores, Targets};
pub use named::{Heads, NamedHead, Routing};

use crate::error::ModelError;
use crate::model::Model;

/// What a head needs of the model below it.
pub trait HeadBase: Host {
    /// Tokens in the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Epsilon of the layer normalizations.
    fn norm_epsilon(&self) -> f64;

    /// Dropout probability of a head that names none.
    fn head_dropout(&self) -> f64;

    /// The word embeddings, `[vocab, d_model]`, to which a language model's last layer is tied.
    fn word_embeddings(&self) -> Tensor<2>;

    /// Where adapters act on the embeddings.
    fn embedding_site(&self) -> Site;

    /// What the model's pooler makes of its hidden states, `[batch, seq, d_model] -> [batch, d_model]`; `None` without one.
    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>>;

    /// Whether it has a pooler.
    fn has_pooler(&self) -> bool;
}

impl HeadBase for Model {
    fn vocab_size(&self) -> usize {
        self.info().vocab_size
    }

    fn norm_epsilon(&self) -> f64 {
        self.info().norm_epsilon
    }

    fn head_dropout(&self) -> f64 {
        self.info().head_dropout
    }

    fn word_embeddings(&self) -> Tensor<2> {
        let table = Model::word_embeddings(self);
        // A head is tied to them only where it has the model's vocabulary.
        table.unwrap_or_else(|| Tensor::zeros([0, self.d_model()], &self.device()))
    }

    fn embedding_site(&self) -> Site {
        Site::outside(Stack::Encoder, Role::Embedding)
    }

    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        Model::pool(self, hidden, cx)
    }

    fn has_pooler(&self) -> bool {
        Model::has_pooler(self)
    }
}

impl Head {
    /// What this head says of the last hidden states.
    ///
    /// # Shapes
    ///
    /// `hidden [batch, seq, d_model]`, prompt positions included; `padding [batch, seq]`, true at padding, is that of the whole
    /// `hidden`. Returns what its kind says, see [`Scores`].
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
            Some(HeadPooling::First) => hidden.slice_dim(1, 0..1),
            Some(HeadPooling::Mean) => masked_mean(hidden, padding).unsqueeze_dim(1),
            Some(HeadPooling::Pooler) => {
                let pooled = base.pool(hidden, cx);
                // Building and loading have made sure of it.
                pooled.expect("the model has a pooler").unsqueeze_dim(1)
            }
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

/// Mean over the positions that are not padding, `[batch, seq, d_model] -> [batch, d_model]`.
pub(crate) fn masked_mean(hidden: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<2> {
    match padding {
        None => hidden.mean_dim(1).squeeze_dim(1),
        Some(padding) => {
            let keep = padding.bool_not().float();
            let count = keep.clone().sum_dim(1);
            let sum = (hidden * keep.unsqueeze_dim(2)).sum_dim(1).squeeze_dim::<2>(1);
            sum / count
        }
    }
}

/// Refuses a head that the model has nothing for.
fn fits(config: &HeadConfig, base: &impl HeadBase, path: &Path) -> Result<(), ModelError> {
    match config.kind.pooling() {
        Some(HeadPooling::Pooler) if !base.has_pooler() => Err(config::refused(
            path,
            "use_pooler",
            "false: this checkpoint has no pooler",
            "true",
        )),
        _ => Ok(()),
    }
}
