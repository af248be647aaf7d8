//! Outputs of heads, their targets, and the loss between the two.

use adapters_core::Ctx;
use adapters_nn::ops::cross_entropy;
use burn::tensor::{Bool, Int, Tensor};

use crate::error::ModelError;
use crate::heads::config::HeadKind;
use crate::heads::layers::Head;
use crate::heads::pooling::text_positions;

/// The id of a token that is not to be scored, as in the reference.
pub const IGNORED: i64 = -100;

/// Outputs of a head.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each pass")]
pub enum Scores {
    /// A row for each text, `[batch, labels]`, or for each question, `[batch / choices, choices]`.
    Rows(Tensor<2>),
    /// A row for each position, prompt positions included, `[batch, seq, labels]`.
    Tokens(Tensor<3>),
    /// Where an answer begins and where it ends, prompt positions included, `[batch, seq]` each.
    Spans {
        /// Scores of beginnings.
        start: Tensor<2>,
        /// Scores of ends.
        end: Tensor<2>,
    },
}

/// Targets of a head.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each pass")]
pub enum Targets {
    /// The class of each text, or the right choice of each question, `[batch]`.
    Classes(Tensor<1, Int>),
    /// A number for each text, `[batch]`.
    Numbers(Tensor<1>),
    /// One for the labels a text has and zero for the others, `[batch, labels]`.
    Labels(Tensor<2>),
    /// The class of each token of the input, `[batch, seq]`; [`IGNORED`] where it is not scored.
    Tokens(Tensor<2, Int>),
    /// Positions in the input where an answer begins and ends, `[batch]` each. Positions outside are not scored.
    Spans {
        /// Beginnings.
        start: Tensor<1, Int>,
        /// Ends.
        end: Tensor<1, Int>,
    },
}

impl Scores {
    /// The scores of the text's tokens alone, without those of positions that an adapter inserted in the pass of `cx`.
    #[must_use]
    pub fn of_text(self, cx: &Ctx<'_>) -> Self {
        let cut = |scores: Tensor<2>| match text_positions(&scores, cx.pass()) {
            Some(kept) => scores.select(1, kept),
            None => scores,
        };
        match self {
            Self::Rows(rows) => Self::Rows(rows),
            Self::Tokens(scores) => Self::Tokens(match text_positions(&scores, cx.pass()) {
                Some(kept) => scores.select(1, kept),
                None => scores,
            }),
            Self::Spans { start, end } => Self::Spans {
                start: cut(start),
                end: cut(end),
            },
        }
    }
}

impl Targets {
    fn name(&self) -> &'static str {
        match self {
            Self::Classes(_) => "classes",
            Self::Numbers(_) => "numbers",
            Self::Labels(_) => "labels",
            Self::Tokens(_) => "tokens",
            Self::Spans { .. } => "spans",
        }
    }
}

impl Head {
    /// Mean loss of the outputs of this head, over all that is scored.
    ///
    /// | head | loss |
    /// |---|---|
    /// | classification, multiple choice | cross entropy |
    /// | regression | squared error |
    /// | several labels | binary cross entropy |
    /// | tagging, language models | cross entropy over the tokens that are not [`IGNORED`]; a causal model predicts the next one |
    /// | question answering | half the cross entropies of beginning and end |
    ///
    /// `padding [batch, seq]` is that of the input; a tag at padding is not scored. Where the scores have more positions than
    /// the targets, those are a prompt in front, which is not scored: targets stay positions of the input.
    ///
    /// # Errors
    ///
    /// [`ModelError::Targets`] for targets another kind of head has.
    ///
    /// # Panics
    ///
    /// Panics on targets of another batch, on a class outside the labels, or on texts of one token where the next is predicted.
    pub fn loss(
        &self,
        scores: Scores,
        targets: Targets,
        padding: Option<Tensor<2, Bool>>,
        input_seq: usize,
    ) -> Result<Tensor<1>, ModelError> {
        let (kind, found) = (self.config().kind, targets.name());
        let refuse = |expected| {
            Err(ModelError::Targets {
                head: kind.name(),
                expected,
                found,
            })
        };
        Ok(match (kind, scores, targets) {
            (HeadKind::Classification { .. }, Scores::Rows(scores), targets) if self.config().is_regression() => {
                let Targets::Numbers(numbers) = targets else {
                    return refuse("numbers");
                };
                let [batch, _] = scores.dims();
                (scores.reshape([batch]) - numbers).square().mean()
            }
            (HeadKind::Classification { .. }, Scores::Rows(scores), Targets::Classes(classes))
            | (HeadKind::MultipleChoice { .. }, Scores::Rows(scores), Targets::Classes(classes)) => {
                cross_entropy(scores, classes).mean()
            }
            (HeadKind::Classification { .. } | HeadKind::MultipleChoice { .. }, ..) => return refuse("classes"),
            (HeadKind::MultiLabel { .. }, Scores::Rows(scores), Targets::Labels(labels)) => {
                // max(x, 0) - x y + log(1 + exp(-|x|))
                let soft = (scores.clone().abs().neg().exp() + 1.0).log();
                (scores.clone().clamp_min(0.0) - scores * labels + soft).mean()
            }
            (HeadKind::MultiLabel { .. }, ..) => return refuse("labels"),
            (HeadKind::Tagging, Scores::Tokens(scores), Targets::Tokens(tags)) => {
                let tags = match padding {
                    Some(padding) => tags.mask_fill(padding, IGNORED),
                    None => tags,
                };
                of_tokens(scores, tags)
            }
            (HeadKind::LanguageModel { shift_labels, .. }, Scores::Tokens(scores), Targets::Tokens(tokens)) => {
                let ([_, all, _], [_, seq]) = (scores.dims(), tokens.dims());
                match shift_labels {
                    true => of_tokens(scores.slice_dim(1, 0..all - 1), tokens.slice_dim(1, 1..seq)),
                    false => of_tokens(scores, tokens),
                }
            }
            (HeadKind::Tagging | HeadKind::LanguageModel { .. }, ..) => return refuse("tokens"),
            (
                HeadKind::QuestionAnswering,
                Scores::Spans { start, end },
                Targets::Spans {
                    start: starts,
                    end: ends,
                },
            ) => (of_positions(start, starts, input_seq) + of_positions(end, ends, input_seq)) * 0.5,
            (HeadKind::QuestionAnswering, ..) => return refuse("spans"),
        })
    }
}

/// The mean over the rows whose class is not [`IGNORED`].
fn scored(scores: Tensor<2>, classes: Tensor<1, Int>) -> Tensor<1> {
    let ignored = classes.clone().equal_elem(IGNORED);
    let keep = ignored.clone().bool_not().float();
    let losses = cross_entropy(scores, classes.mask_fill(ignored, 0));
    (losses * keep.clone()).sum() / keep.sum().clamp_min(1.0)
}

/// The mean over the tokens, `[batch, seq, classes]` and the last `seq` positions' classes.
fn of_tokens(scores: Tensor<3>, tokens: Tensor<2, Int>) -> Tensor<1> {
    let ([batch, all, classes], [_, seq]) = (scores.dims(), tokens.dims());
    let scores = scores.slice_dim(1, all - seq..all).reshape([batch * seq, classes]);
    scored(scores, tokens.reshape([batch * seq]))
}

/// The mean over the rows whose position is inside the input.
fn of_positions(scores: Tensor<2>, positions: Tensor<1, Int>, input_seq: usize) -> Tensor<1> {
    let [_, all] = scores.dims();
    let front = all.saturating_sub(input_seq) as i64;
    let positions = positions.clamp_min(0) + front;
    let outside = positions.clone().greater_equal_elem(all as i64);
    scored(scores, positions.mask_fill(outside, IGNORED))
}
