//! Scores of a last linear layer, such as those of a vocabulary, computed where they are needed.

use adapters_core::{Hooks, Sited};
use adapters_nn::ops;
use burn::nn::Linear;
use burn::tensor::{Int, Tensor};

/// Scores `[batch, seq, outputs]`, or the linear layer that computes them together with its input: the cross entropy of a
/// large vocabulary then needs no matrix of all scores.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each pass")]
pub enum LinearScores {
    /// Computed, where an adapter or the model does more than the layer.
    Computed(Tensor<3>),
    /// `hidden weight + bias`, not computed yet.
    Deferred {
        /// `[batch, seq, d]`.
        hidden: Tensor<3>,
        /// `[d, outputs]`, Burn's layout.
        weight: Tensor<2>,
        /// `[outputs]`.
        bias: Option<Tensor<1>>,
    },
}

impl LinearScores {
    /// The scores of a layer at its hook, deferred where no adapter acts.
    pub fn of(layer: &Sited<Linear>, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Self {
        match cx.is_plain(layer) {
            true => Self::Deferred {
                hidden,
                weight: layer.weight.val(),
                bias: layer.bias.as_ref().map(|bias| bias.val()),
            },
            false => Self::Computed(cx.linear(layer, hidden)),
        }
    }

    /// `hidden weight^T + bias` for a weight in the published layout, `[outputs, d]`.
    pub fn projected(hidden: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self::Deferred {
            hidden,
            weight: weight.transpose(),
            bias,
        }
    }

    /// With `more`, `[outputs]`, added to the scores of each position.
    #[must_use]
    pub(crate) fn plus(self, more: Tensor<1>) -> Self {
        match self {
            Self::Computed(scores) => Self::Computed(scores + more.unsqueeze()),
            Self::Deferred { hidden, weight, bias } => Self::Deferred {
                hidden,
                weight,
                bias: Some(match bias {
                    Some(bias) => bias + more,
                    None => more,
                }),
            },
        }
    }

    /// With `change` made to each score, which computes them.
    #[must_use]
    pub fn map(self, change: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        Self::Computed(change(self.whole()))
    }

    /// Positions of a row.
    pub fn positions(&self) -> usize {
        let (Self::Computed(of) | Self::Deferred { hidden: of, .. }) = self;
        of.dims()[1]
    }

    /// Those of the positions from `first` to `end`.
    ///
    /// # Panics
    ///
    /// Panics on an empty or reversed range, or one that ends behind the last position.
    #[must_use]
    pub fn at_positions(&self, first: usize, end: usize) -> Self {
        let mut rows_alone = self.clone();
        let (Self::Computed(of) | Self::Deferred { hidden: of, .. }) = &mut rows_alone;
        *of = of.clone().slice_dim(1, first..end);
        rows_alone
    }

    /// All scores, `[batch, seq, outputs]`.
    ///
    /// # Panics
    ///
    /// Panics if the width of the hidden state is not that of the layer.
    pub fn whole(self) -> Tensor<3> {
        match self {
            Self::Computed(scores) => scores,
            Self::Deferred { hidden, weight, bias } => {
                let ([batch, seq, width], [_, outputs]) = (hidden.dims(), weight.dims());
                let scores = ops::product(hidden.reshape([batch * seq, width]), weight);
                let scores = scores.reshape([batch, seq, outputs]);
                match bias {
                    Some(bias) => scores + bias.unsqueeze(),
                    None => scores,
                }
            }
        }
    }

    /// `log sum_j exp(s_j) - s_y` of each position, `[batch * seq]` for as many targets.
    ///
    /// # Panics
    ///
    /// Panics on another number of targets, and on a target that is no output.
    pub fn cross_entropy(self, targets: Tensor<1, Int>) -> Tensor<1> {
        match self {
            Self::Computed(scores) => {
                let [batch, seq, outputs] = scores.dims();
                ops::cross_entropy(scores.reshape([batch * seq, outputs]), targets)
            }
            Self::Deferred { hidden, weight, bias } => {
                let [batch, seq, width] = hidden.dims();
                ops::linear_cross_entropy(hidden.reshape([batch * seq, width]), weight, bias, targets)
            }
        }
    }
}
