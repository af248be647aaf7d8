//! A linear layer: its input, the layer, and what adapters add to its output.

use adapters_nn::ops;
use burn::nn::Linear;
use burn::tensor::{Int, Tensor};

use super::effect::Effect;
use super::fields::by_fields;
use super::hook_state::HookState;
use super::positions;
use super::rows::{join_deltas, take, weighted_deltas};

/// State at a linear site: `layer(input) + delta`.
///
/// The frozen layer runs when the site is finished, so that an adapter may change what goes into it.
#[derive(Clone, Debug)]
pub struct LinearState {
    /// Input of the layer, `[batch, seq, d_in]`.
    pub input: Tensor<3>,
    /// The frozen layer.
    pub layer: Linear,
    /// What the adapters so far contribute, `[batch, seq, d_out]`.
    pub delta: Option<Tensor<3>>,
    /// The token at each position, `[batch, seq]`, -1 where there is none; `None` where the model reads something else.
    pub tokens: Option<Tensor<2, Int>>,
    /// The tokens of earlier passes, `[batch, earlier]`, which a cache holds; `None` where there are none.
    pub earlier: Option<Tensor<2, Int>>,
}

/// Weight and bias of a linear layer, as merging sees them.
#[derive(Clone, Debug)]
pub struct LinearWeight {
    /// `[d_in, d_out]`, Burn's layout.
    pub weight: Tensor<2>,
    /// `[d_out]`.
    pub bias: Option<Tensor<1>>,
}

by_fields!(LinearState, positions of input {
    input: tensor,
    layer: whole,
    delta: delta,
    tokens: optional,
    earlier: by_row,
});

impl HookState for LinearState {
    type Output = Tensor<3>;
    type Weight = LinearWeight;
    type Effect = Effect;

    fn rows(&self) -> usize {
        self.input.dims()[0]
    }

    fn adds(effect: &Effect) -> bool {
        matches!(effect, Effect::Adds(_))
    }

    fn weighted_sum(states: Vec<(Self, f64)>) -> Option<Self> {
        let first = states[0].0.clone();
        Some(Self {
            delta: weighted_deltas(states.into_iter().map(|(state, weight)| (state.delta, weight))),
            ..first
        })
    }

    /// Only the sums of the updates are joined: the adapters have left input and layer alone.
    fn with_rows(&self, chunks: Vec<Self>, order: &[usize]) -> Self {
        let deltas = chunks.into_iter().map(|chunk| (chunk.rows(), chunk.delta)).collect();
        Self {
            delta: join_deltas(deltas).map(|delta| take(&delta, order)),
            ..self.clone()
        }
    }

    fn with_positions(&self, chunks: Vec<Self>) -> Option<Self> {
        let deltas = chunks.into_iter().map(|chunk| (chunk.input.dims()[1], chunk.delta));
        Some(Self {
            delta: positions::join(deltas.collect()),
            ..self.clone()
        })
    }

    fn updates(&mut self) -> Option<(Tensor<3>, &mut Option<Tensor<3>>)> {
        Some((self.input.clone(), &mut self.delta))
    }

    fn finish(self) -> Tensor<3> {
        let output = ops::linear(&self.layer, self.input);
        match self.delta {
            Some(delta) => ops::add(output, delta),
            None => output,
        }
    }
}

impl LinearState {
    /// Adds to the delta what `update` makes of the layer's input: how the updates of several active adapters add up.
    #[must_use]
    pub fn plus(self, update: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        let update = update(self.input.clone());
        let delta = match self.delta {
            Some(delta) => ops::add(delta, update),
            None => update,
        };
        Self {
            delta: Some(delta),
            ..self
        }
    }
}

impl LinearWeight {
    /// With an update in the published layout, `[d_out, d_in]`, added to the weight.
    #[must_use]
    pub fn plus(self, update: Tensor<2>) -> Self {
        let (update, dtype) = (update.transpose(), self.weight.dtype());
        let update = if update.dtype() == dtype {
            update
        } else {
            update.cast(dtype)
        };
        Self {
            weight: self.weight + update,
            ..self
        }
    }
}
