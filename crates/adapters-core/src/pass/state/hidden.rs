//! Where a block joins the residual stream.

use burn::nn::LayerNorm;
use burn::tensor::Tensor;

use super::fields::by_fields;
use super::hook_state::{HookState, NoWeight};
use super::rows::weighted;

/// State where a block joins the residual stream: `norm(hidden + residual)`.
#[derive(Clone, Debug)]
pub struct HiddenState {
    /// What adapters transform, at first the output of the block, `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// Output of the block as it was, `[batch, seq, d_model]`.
    pub block: Tensor<3>,
    /// What is added to it, `[batch, seq, d_model]`.
    pub residual: Tensor<3>,
    /// What the residual connection inside an adapter carries, once an adapter has opened the site.
    pub inner: Option<Tensor<3>>,
    /// Normalization after the addition (post-LN models).
    pub norm: Option<LayerNorm>,
    /// What the adapter before added, where a fusion reads it.
    pub up: Up,
}

/// What an adapter adds to the residual stream before its gate, norm and residual: what a fusion attends to.
#[derive(Clone, Debug, Default)]
#[allow(clippy::large_enum_variant)] // A tensor, or none.
pub enum Up {
    /// No fusion reads it.
    #[default]
    Unasked,
    /// A fusion reads it, and no adapter has written it.
    Asked,
    /// What the last adapter wrote, `[batch, seq, d_model]`.
    Is(Tensor<3>),
}

impl Up {
    /// With what an adapter adds, if a fusion reads it.
    #[must_use]
    pub fn answered(self, up: &Tensor<3>) -> Self {
        match self {
            Self::Unasked => Self::Unasked,
            Self::Asked | Self::Is(_) => Self::Is(up.clone()),
        }
    }
}

by_fields!(HiddenState, positions of hidden {
    hidden: tensor,
    block: tensor,
    residual: tensor,
    inner: optional,
    norm: whole,
    up: up,
});

impl HookState for HiddenState {
    type Output = Tensor<3>;
    type Weight = NoWeight;
    type Effect = ();

    const ONE_FINISHER: bool = true;

    fn fusion(&mut self) -> Option<&mut HiddenState> {
        Some(self)
    }

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    fn weighted_sum(parts: Vec<(Self, f64)>) -> Option<Self> {
        let first = parts[0].0.clone();
        let hidden = weighted(parts.into_iter().map(|(state, weight)| (state.hidden, weight)))?;
        Some(Self { hidden, ..first })
    }

    fn finish(self) -> Tensor<3> {
        Self::close(self.hidden, self.residual, self.norm.as_ref())
    }
}

impl HiddenState {
    /// `norm(hidden + residual)`, without `norm` in pre-LN models.
    pub fn close(hidden: Tensor<3>, residual: Tensor<3>, norm: Option<&LayerNorm>) -> Tensor<3> {
        let sum = hidden + residual;
        match norm {
            Some(norm) => adapters_nn::ops::layer_norm(norm, sum),
            None => sum,
        }
    }
}
