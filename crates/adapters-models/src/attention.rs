//! What the attention of every architecture has in common: heads split and merged, the cache, the hook of keys and values.

use adapters_core::{Hooks, KeyValueHook, KeyValueState, LinearRole, Point, Sited, Sites, Window};
use adapters_nn::ops;
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::cache::KeysValues;
use crate::chain::Slot;
use crate::weights::Scope;

/// The numbers of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions {
    /// Features of a head.
    pub d_head: usize,
    /// Factor of the scores.
    pub scale: f64,
    /// Scores are at most this, `cap tanh(scores / cap)`; `None` for any.
    pub cap: Option<f64>,
    /// What a query reaches; `None` for all. The bias says it of a layer's own keys, this tells adapters.
    pub window: Option<Window>,
    /// Dropout on the weights, in training.
    pub dropout: f64,
    /// Id of the padding token, which the reference fills the front of shorter rows with.
    pub filler: usize,
}

impl AttentionOptions {
    /// Scores are divided by the root of the width of a head.
    pub fn new(d_head: usize, dropout: f64, filler: usize) -> Self {
        Self {
            d_head,
            scale: (d_head as f64).sqrt().recip(),
            cap: None,
            window: None,
            dropout,
            filler,
        }
    }

    /// `[batch, seq, heads * d_head] -> [batch, heads, seq, d_head]`
    ///
    /// # Panics
    ///
    /// Panics if the width is no multiple of that of a head.
    pub fn split(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, seq, width] = x.dims();
        x.reshape([batch, seq, width / self.d_head, self.d_head])
            .swap_dims(1, 2)
    }

    /// Attention over the keys and values of the layer's own positions, those of earlier passes included.
    ///
    /// # Shapes
    ///
    /// `query [batch, heads, seq, d_head]`, keys and values `[batch, kv_heads, seq, d_head]`, `input [batch, seq, d_model]` that
    /// of the block, `bias` broadcast to `[batch, heads, seq, seq_k]`; returns `[batch, seq, heads * d_head]`.
    ///
    /// # Panics
    ///
    /// Panics on tensors of other shapes.
    pub fn attend(
        &self,
        query: Tensor<4>,
        own: KeysValues,
        input: Tensor<3>,
        bias: Option<Tensor<4>>,
        (point, slot): (&Point<KeyValueHook>, Slot<'_>),
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let own = match slot.cache {
            Some(cache) => cache.append(own),
            None => own,
        };
        let state = self.adapted(own, input, bias, point, cx);
        self.weighted(query, state, cx)
    }

    /// Keys and values as adapters leave them.
    pub fn adapted(
        &self,
        (key, value): KeysValues,
        input: Tensor<3>,
        bias: Option<Tensor<4>>,
        point: &Point<KeyValueHook>,
        cx: &mut Hooks<'_>,
    ) -> KeyValueState {
        let state = KeyValueState::new(key, value, input).with_bias(bias);
        cx.key_value(point, state.with_filler(self.filler).with_window(self.window))
    }

    /// `dropout(softmax(scale q k^T + bias)) v`, the scores capped where they are, with the heads merged, `[batch, seq, heads * d_head]`.
    pub fn weighted(&self, query: Tensor<4>, state: KeyValueState, cx: &mut Hooks<'_>) -> Tensor<3> {
        let dropout = cx.pass().dropout.as_ref().map(|dropout| (dropout, self.dropout));
        let KeyValueState { key, value, bias, .. } = state;
        let out = match self.cap {
            Some(cap) => ops::capped_attention(query, key, value, [self.scale, cap], bias, dropout),
            None => ops::scaled_attention(query, key, value, self.scale, bias, dropout),
        };
        let [batch, heads, seq, d_head] = out.dims();
        out.swap_dims(1, 2).reshape([batch, seq, heads * d_head])
    }
}

/// An attention of four linear layers, over its own positions or those of an encoder's output.
#[derive(Module, Sites, Debug)]
pub struct ProjectedAttention {
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    output: Sited<Linear>,
    #[module(skip)]
    options: AttentionOptions,
}

impl ProjectedAttention {
    /// With the layers of these names, of query, key, value and output, and whether each has a bias; `[d_model, heads]`.
    pub fn build(
        names: [&str; 4],
        biases: [bool; 4],
        [d_model, heads]: [usize; 2],
        options: AttentionOptions,
        at: &mut Scope<'_>,
    ) -> Self {
        let inner = heads * options.d_head;
        let mut linear = |index: usize, role, dims| at.linear_with(biases[index], role, names[index], dims);
        Self {
            query: linear(0, LinearRole::Query, [d_model, inner]),
            key: linear(1, LinearRole::Key, [d_model, inner]),
            value: linear(2, LinearRole::Value, [d_model, inner]),
            output: linear(3, LinearRole::AttentionOutput, [inner, d_model]),
            key_value: at.key_value("", heads, options.d_head),
            options,
        }
    }

    /// What the queries of `x` read of `slot.encoded`, or of the layer's own positions without it. `biased` adds to what
    /// adapters leave of keys, values and their bias. Keys and values of an encoder's output are computed in the first pass
    /// of a cache.
    ///
    /// # Shapes
    ///
    /// `x [batch, seq, d_model]`, `bias` broadcast to `[batch, heads, seq, seq_k]`; returns `[batch, seq, d_model]`.
    ///
    /// # Panics
    ///
    /// Panics on tensors of other shapes.
    pub fn forward(
        &self,
        x: Tensor<3>,
        bias: Option<Tensor<4>>,
        slot: Slot<'_>,
        biased: impl FnOnce(KeyValueState) -> KeyValueState,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let query = self.options.split(cx.linear(&self.query, x.clone()));
        let read = match (slot.encoded, slot.cache) {
            (Some(encoded), Some(cache)) => cache.encoded(|| self.keys_values(encoded.clone(), cx)),
            (Some(encoded), None) => self.keys_values(encoded.clone(), cx),
            (None, Some(cache)) => cache.append(self.keys_values(x.clone(), cx)),
            (None, None) => self.keys_values(x.clone(), cx),
        };
        let state = self.options.adapted(read, x, bias, &self.key_value, cx);
        let attended = self.options.weighted(query, biased(state), cx);
        cx.linear(&self.output, attended)
    }

    fn keys_values(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> KeysValues {
        let key = cx.linear(&self.key, x.clone());
        let value = cx.linear(&self.value, x);
        (self.options.split(key), self.options.split(value))
    }
}
