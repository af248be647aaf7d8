//! Pooling: from the hidden states of a sequence to the one vector that a head of a whole text reads.

use adapters_core::{Ctx, Pass};
use burn::tensor::{Bool, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::model::Model;

/// How the hidden states of a sequence become one vector.
///
/// Positions that an adapter inserted (prompt tuning) are not tokens of the text: [`Mean`](Self::Mean) and
/// [`Last`](Self::Last) leave them out. [`First`](Self::First) and [`Pooler`](Self::Pooler) read position 0 whatever stands
/// there, as AdapterHub's library and peft do: the first virtual token where a prompt stands in front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the tokens of the text, without padding.
    #[default]
    Mean,
    /// Position 0: the classification token of an encoder.
    First,
    /// The last token of the text that is not padding, as decoders and encoder-decoders are read.
    Last,
    /// The pooler of the model, which reads position 0.
    Pooler,
}

impl Pooling {
    /// One vector for each row. `padding` is that of the whole `hidden`, inserted positions included; `cx` is the context
    /// of the pass that computed it.
    ///
    /// # Shapes
    ///
    /// `[batch, positions, d_model]`, `[batch, positions]` to `[batch, 1, d_model]`
    pub(super) fn forward(
        self,
        hidden: Tensor<3>,
        padding: Option<Tensor<2, Bool>>,
        base: &Model,
        cx: &mut Ctx<'_>,
    ) -> Tensor<3> {
        match self {
            Self::First => hidden.slice_dim(1, 0..1),
            Self::Mean => {
                let (hidden, padding) = of_text(hidden, padding, cx.pass());
                masked_mean(hidden, padding)
            }
            Self::Last => {
                let (hidden, padding) = of_text(hidden, padding, cx.pass());
                last(hidden, padding)
            }
            #[expect(
                clippy::expect_used,
                reason = "`HeadConfig::check` refuses a head that reads the pooler for a model without one"
            )]
            Self::Pooler => {
                let pooled = base.pool(hidden, cx);
                pooled.expect("the model has a pooler").unsqueeze_dim(1)
            }
        }
    }
}

/// Positions of the text's tokens along axis 1 of what a pass computed; `None` where nothing was inserted.
pub(super) fn text_positions<const D: usize>(states: &Tensor<D>, pass: &Pass) -> Option<Tensor<1, Int>> {
    let positions = states.dims()[1];
    let inserted: usize = pass.inserted.iter().map(|inserted| inserted.count).sum();
    if inserted == 0 || inserted >= positions {
        return None;
    }
    let kept: Vec<i64> = (0..positions - inserted).map(|t| pass.position(t) as i64).collect();
    let count = kept.len();
    Some(Tensor::from_data(
        TensorData::new(kept, [count]),
        &states.device().inner(),
    ))
}

/// The hidden states of the text alone, and their padding.
fn of_text(hidden: Tensor<3>, padding: Option<Tensor<2, Bool>>, pass: &Pass) -> (Tensor<3>, Option<Tensor<2, Bool>>) {
    match text_positions(&hidden, pass) {
        None => (hidden, padding),
        Some(kept) => (
            hidden.select(1, kept.clone()),
            padding.map(|padding| padding.int().select(1, kept).bool()),
        ),
    }
}

/// Mean over the positions that are not padding, `[batch, seq, d_model] -> [batch, 1, d_model]`.
pub(crate) fn masked_mean(hidden: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
    match padding {
        None => hidden.mean_dim(1),
        Some(padding) => {
            let keep = padding.bool_not().float();
            let count = keep.clone().sum_dim(1).unsqueeze_dim(2);
            (hidden * keep.unsqueeze_dim(2)).sum_dim(1) / count
        }
    }
}

/// The last position that is not padding, on whichever side the padding lies: `[batch, seq, d_model]` to `[batch, 1, d_model]`.
fn last(hidden: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Tensor<3> {
    let [rows, seq, _] = hidden.dims();
    let Some(padding) = padding else {
        return hidden.slice_dim(1, seq - 1..seq);
    };
    let numbers = Tensor::<1, Int>::arange(1..seq as i64 + 1, &padding.device()).float();
    let numbered = padding.bool_not().float() * numbers.unsqueeze_dim(0);
    let last = numbered.clone().max_dim(1).expand([rows, seq]);
    let chosen = numbered.equal(last).float().unsqueeze_dim(2);
    (hidden * chosen).sum_dim(1)
}
