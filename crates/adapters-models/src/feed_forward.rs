//! The feed-forward block of a decoder, in the forms that families have.
//!
//! Paper of the gated forms: *GLU Variants Improve Transformer*, Shazeer, 2020, <https://arxiv.org/abs/2002.05202>.

use crate::experts::{BareExperts, Experts, ExpertsForm, ExpertsPlan};
use crate::modeling::*;

/// How the feed-forward block of a family is built, by the published names of its layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FeedForwardPlan {
    /// `gate_proj`, `up_proj`, `down_proj`.
    Gated {
        /// Whether they have biases.
        bias: bool,
    },
    /// `gate_up_proj`, gate and first projection side by side, and `down_proj`; without biases.
    FusedGated,
    /// `fc1`, `fc2`, with biases and without a gate.
    Plain,
    /// Experts.
    Experts(ExpertsPlan),
}

/// `[batch, seq, d_model]` to the same, position by position.
#[derive(Module, Sites, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each layer")]
pub(crate) enum FeedForward {
    /// [`FeedForwardPlan::Gated`].
    Gated(Gated),
    /// [`FeedForwardPlan::FusedGated`].
    FusedGated(FusedGated),
    /// [`FeedForwardPlan::Plain`].
    Plain(Plain),
    /// [`FeedForwardPlan::Experts`] with layers of their own.
    Experts(Experts),
    /// [`FeedForwardPlan::Experts`] whose matrices are bare parameters.
    BareExperts(BareExperts),
}

/// `down(act(gate x) * up x)`.
#[derive(Module, Sites, Debug)]
pub(crate) struct Gated {
    gate: Sited<Linear>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    #[module(skip)]
    activation: Activation,
}

/// The same with gate and first projection in one matrix.
#[derive(Module, Sites, Debug)]
pub(crate) struct FusedGated {
    gate_up: Sited<Linear>,
    down: Sited<Linear>,
    #[module(skip)]
    activation: Activation,
}

/// `down(act(up x))`.
#[derive(Module, Sites, Debug)]
pub(crate) struct Plain {
    up: Sited<Linear>,
    down: Sited<Linear>,
    #[module(skip)]
    activation: Activation,
}

impl Gated {
    /// With layers of these names: gate, first and second projection.
    pub(crate) fn build(
        [gate, up, down]: [&str; 3],
        bias: bool,
        [d_model, ffn]: [usize; 2],
        activation: Activation,
        at: &mut Scope<'_>,
    ) -> Self {
        Self {
            gate: at.linear_with(bias, LinearRole::FfnGate, gate, [d_model, ffn]),
            up: at.linear_with(bias, LinearRole::FfnUp, up, [d_model, ffn]),
            down: at.linear_with(bias, LinearRole::FfnDown, down, [ffn, d_model]),
            activation,
        }
    }

    pub(crate) fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let gate = cx.linear(&self.gate, x.clone());
        let up = cx.linear(&self.up, x);
        cx.linear(&self.down, self.activation.gated(gate, up))
    }
}

impl FeedForward {
    /// With layers below `mlp`, `d_model` wide outside and `ffn` inside.
    pub(crate) fn build(
        plan: FeedForwardPlan,
        [d_model, ffn]: [usize; 2],
        activation: Activation,
        at: &mut Scope<'_>,
    ) -> Self {
        let (up, down) = ([d_model, ffn], [ffn, d_model]);
        match plan {
            FeedForwardPlan::Gated { bias } => {
                let names = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
                Self::Gated(Gated::build(names, bias, [d_model, ffn], activation, at))
            }
            FeedForwardPlan::Experts(plan) if plan.form == ExpertsForm::GptOss => {
                Self::BareExperts(BareExperts::build(plan, d_model, at))
            }
            FeedForwardPlan::Experts(plan) => Self::Experts(Experts::build(plan, d_model, activation, at)),
            FeedForwardPlan::FusedGated => Self::FusedGated(FusedGated {
                gate_up: at.linear_with(false, LinearRole::FfnGateUp, "mlp.gate_up_proj", [d_model, 2 * ffn]),
                down: at.linear_with(false, LinearRole::FfnDown, "mlp.down_proj", down),
                activation,
            }),
            FeedForwardPlan::Plain => Self::Plain(Plain {
                up: at.linear(LinearRole::FfnUp, "mlp.fc1", up),
                down: at.linear(LinearRole::FfnDown, "mlp.fc2", down),
                activation,
            }),
        }
    }

    /// The output of the block.
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    pub(crate) fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        match self {
            Self::Gated(block) => block.forward(x, cx),
            Self::Experts(block) => block.forward(x, cx),
            Self::BareExperts(block) => block.forward(x, cx),
            Self::FusedGated(block) => {
                let fused = cx.linear(&block.gate_up, x);
                let ffn = fused.dims()[2] / 2;
                let [gate, up] = [0, ffn].map(|from| fused.clone().slice_dim(2, from..from + ffn));
                cx.linear(&block.down, block.activation.gated(gate, up))
            }
            Self::Plain(block) => {
                let up = cx.linear(&block.up, x);
                cx.linear(&block.down, block.activation.forward(up))
            }
        }
    }
}
