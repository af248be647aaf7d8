//! The layer: vectors in front of keys and values, and the gate on them.

use std::borrow::Cow;

use adapters_core::{Call, Causality, KeyValueState, NamedParams, SiteAdapter};
use adapters_nn::ops;
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::prefix_tuning::Definition;
use crate::vectors::{PrefixVectors, SharedVectors};

/// The learned gate of a layer.
#[derive(Module, Debug)]
pub struct Gate {
    /// `[gates, d_model]`.
    pub weight: Param<Tensor<2>>,
    /// `[gates]`.
    pub bias: Param<Tensor<1>>,
}

impl Gate {
    /// The mean over all positions, padding included, of `sigmoid(W x + b)`:
    /// `[batch, seq, d_model] -> [batch, gates]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let gates = ops::affine(x, self.weight.val(), self.bias.val());
        burn::tensor::activation::sigmoid(gates).mean_dim(1).squeeze_dim(1)
    }
}

/// Vectors in front of keys and values: `attention(q, [P_k; K], [P_v; V])`.
///
/// *Prefix-Tuning: Optimizing Continuous Prompts for Generation*, Li and Liang, 2021,
/// <https://arxiv.org/abs/2101.00190>.
///
/// They are put there after the position encoding. AdapterHub's have no position, and peft's are the first of the sequence,
/// which a sliding window may not reach. They stand in front of the keys of the whole
/// sequence: in generation with a cache the hook gets what is remembered and what is new, and what is remembered is
/// without them. In a stack the later prefix stands in front. With a gate, both are multiplied by it.
///
/// # Shapes
///
/// `[batch, heads, seq_k, d_head] -> [batch, heads, length + seq_k, d_head]`
#[derive(Module, Debug)]
pub(crate) struct PrefixLayer {
    gate: Option<Gate>,
    #[module(skip)]
    vectors: PrefixVectors,
    index: usize,
    dropout: f64,
    #[module(skip)]
    definition: Definition,
}

impl PrefixLayer {
    /// The layer at the `index`th attention of a stack.
    pub(crate) fn new(
        vectors: PrefixVectors,
        index: usize,
        gate: Option<Gate>,
        dropout: f64,
        definition: Definition,
    ) -> Self {
        Self {
            gate,
            vectors,
            index,
            dropout,
            definition,
        }
    }

    /// Keys and values of this layer for each row, `[batch, heads, length, d_head]`; `None` where its stack has none.
    fn front(&self, batch: usize, call: &Call<'_, SharedVectors>) -> Option<(Tensor<4>, Tensor<4>)> {
        let attentions = &self.vectors.attentions;
        let own = call.shared.of(attentions.stack)?;
        let all = call.once(attentions.name, || self.vectors.by_layer(own));
        let vectors = |index: usize| {
            let one = all.clone().slice_dim(0, index..index + 1);
            let rows = one.expand([batch, attentions.heads, self.vectors.length, attentions.d_head]);
            call.dropout(rows, self.dropout)
        };
        let keys = attentions.key_index(self.index);
        Some((vectors(keys), vectors(keys + 1)))
    }
}

impl SiteAdapter<KeyValueState, SharedVectors> for PrefixLayer {
    fn apply(&self, state: KeyValueState, call: &Call<'_, SharedVectors>) -> KeyValueState {
        let Some((mut key, mut value)) = self.front(state.key.dims()[0], call) else {
            return state;
        };
        if let Some(gate) = &self.gate {
            let gates = gate.forward(state.input.clone());
            call.record_gates(|| gates.clone());
            let [batch, count] = gates.dims();
            let factor = |gate: usize| {
                let one = gates.clone().slice_dim(1, gate..gate + 1);
                one.reshape([batch, 1, 1, 1])
            };
            key = key * factor(0);
            value = value * factor(count - 1);
        }
        match self.definition {
            Definition::AdapterHub => state.with_front(key, value),
            Definition::Peft => state.with_first_positions(key, value),
        }
    }

    fn effect(&self) {}

    /// A gate is a mean over the whole sequence.
    fn causality(&self) -> Causality {
        Causality::of_gate(&self.gate)
    }
}

impl NamedParams for PrefixLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let gate = self.gate.iter();
        gate.flat_map(|gate| {
            [
                ("gate.weight".into(), gate.weight.id),
                ("gate.bias".into(), gate.bias.id),
            ]
        })
        .collect()
    }
}
