//! What the attention of every architecture has in common: heads split and merged, the cache, the hook of keys and values.

use adapters_core::{
    Hooks, KeyValueHook, KeyValueState, LayerMut, LayerRef, LinearRole, Point, SiteInfo, Sited, Sites, Window,
};
use adapters_nn::ops;
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::cache::KeysValues;
use crate::chain::Slot;
use crate::distance_scores::{DistanceOptions, DistanceScores};
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
    /// Scores of distances; `None` for none.
    pub distances: Option<DistanceOptions>,
    /// Dropout on the weights, in training.
    pub dropout: f64,
    /// Whether queries are computed after keys and values: gates are recorded in the order of the calls.
    pub query_last: bool,
    /// Whether the published class lists key and value in front of the query. Its sites have that order, by which X-LoRA counts them.
    pub keys_first: bool,
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
            distances: None,
            dropout,
            query_last: false,
            keys_first: false,
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
        self.attend_with(None, query, own, input, bias, (point, slot), cx).sum()
    }

    /// The same with scores of each head, `[heads]`, that no key stands for: they take some of the weight. What adapters
    /// add is apart.
    ///
    /// # Panics
    ///
    /// As [`attend`](Self::attend).
    #[allow(clippy::too_many_arguments, reason = "those of `attend`, and one")]
    pub(crate) fn attend_with(
        &self,
        sinks: Option<Tensor<1>>,
        query: Tensor<4>,
        own: KeysValues,
        input: Tensor<3>,
        bias: Option<Tensor<4>>,
        (point, slot): (&Point<KeyValueHook>, Slot<'_>),
        cx: &mut Hooks<'_>,
    ) -> Attended {
        let own = match slot.cache {
            Some(cache) => cache.append(own),
            None => own,
        };
        let mut state = self.adapted(&query, own, input, bias, point, cx);
        let added = state.added.take();
        let state = match sinks {
            Some(sinks) => with_sinks(state, sinks, query.dims()),
            None => state,
        };
        Attended {
            values: self.weighted(query, state, cx),
            added,
        }
    }

    /// Keys and values as adapters leave them.
    pub fn adapted(
        &self,
        query: &Tensor<4>,
        (key, value): KeysValues,
        input: Tensor<3>,
        bias: Option<Tensor<4>>,
        point: &Point<KeyValueHook>,
        cx: &mut Hooks<'_>,
    ) -> KeyValueState {
        let state = KeyValueState::new(key, value, input)
            .with_query(query.clone())
            .with_bias(bias);
        cx.key_value(point, state.with_filler(self.filler).with_window(self.window))
    }

    /// `dropout(softmax(scale q k^T + bias)) v`, the scores capped where they are, with the heads merged, `[batch, seq, heads * d_head]`,
    /// and what adapters add.
    pub fn weighted(&self, query: Tensor<4>, state: KeyValueState, cx: &mut Hooks<'_>) -> Tensor<3> {
        let dropout = cx.pass().dropout.as_ref().map(|dropout| (dropout, self.dropout));
        let KeyValueState {
            key,
            value,
            bias,
            added,
            ..
        } = state;
        let out = match self.cap {
            Some(cap) => ops::capped_attention(query, key, value, [self.scale, cap], bias, dropout),
            None => ops::scaled_attention(query, key, value, self.scale, bias, dropout),
        };
        let [batch, heads, seq, d_head] = out.dims();
        let values = out.swap_dims(1, 2).reshape([batch, seq, heads * d_head]);
        Attended { values, added }.sum()
    }
}

/// What queries read, `[batch, seq, heads * d_head]`.
#[derive(Debug)]
pub(crate) struct Attended {
    /// Of keys and values.
    pub values: Tensor<3>,
    /// What adapters add.
    pub added: Option<Tensor<3>>,
}

impl Attended {
    /// Both together.
    pub(crate) fn sum(self) -> Tensor<3> {
        match self.added {
            Some(added) => self.values + added,
            None => self.values,
        }
    }
}

/// A key and a value of zeros behind the others, whose score is that of the head's sink.
fn with_sinks(state: KeyValueState, sinks: Tensor<1>, [batch, heads, seq, _]: [usize; 4]) -> KeyValueState {
    let [_, kv_heads, keys, d_head] = state.key.dims();
    let zeros = Tensor::zeros([batch, kv_heads, 1, d_head], (&state.key.device(), state.key.dtype()));
    let bias = match state.bias {
        Some(bias) => bias.expand([batch, heads, seq, keys]),
        None => Tensor::zeros([batch, heads, seq, keys], (&sinks.device(), sinks.dtype())),
    };
    let sinks = sinks.reshape([1, heads, 1, 1]).expand([batch, heads, seq, 1]);
    KeyValueState {
        key: Tensor::cat(vec![state.key, zeros.clone()], 2),
        value: Tensor::cat(vec![state.value, zeros], 2),
        bias: Some(Tensor::cat(vec![bias, sinks], 3)),
        ..state
    }
}

/// Query, key and value from three linear layers, and what attends: over its own positions or those of an encoder's output.
#[derive(Module, Debug)]
pub struct Attention {
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    distances: Option<DistanceScores>,
    #[module(skip)]
    options: AttentionOptions,
}

impl Sites for Attention {
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {
        let layers = match self.options.keys_first {
            true => [&self.key, &self.value, &self.query],
            false => [&self.query, &self.key, &self.value],
        };
        layers.into_iter().for_each(|layer| layer.visit_sites(visit));
        self.key_value.visit_sites(visit);
    }

    fn visit_sites_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {
        let layers = match self.options.keys_first {
            true => [&mut self.key, &mut self.value, &mut self.query],
            false => [&mut self.query, &mut self.key, &mut self.value],
        };
        layers.into_iter().for_each(|layer| layer.visit_sites_mut(visit));
        self.key_value.visit_sites_mut(visit);
    }
}

impl Attention {
    /// With the layers of these names, keys and values at `key_value`, and whether each layer has a bias; `[d_model, heads]`.
    pub fn build(
        [query, key, value]: [&str; 3],
        key_value: &str,
        biases: [bool; 3],
        [d_model, heads]: [usize; 2],
        options: AttentionOptions,
        at: &mut Scope<'_>,
    ) -> Self {
        let dims = [d_model, heads * options.d_head];
        let table = match query.rsplit_once('.') {
            Some((module, _)) => format!("{module}.distance_embedding"),
            None => "distance_embedding".to_owned(),
        };
        Self {
            query: at.linear_with(biases[0], LinearRole::Query, query, dims),
            key: at.linear_with(biases[1], LinearRole::Key, key, dims),
            value: at.linear_with(biases[2], LinearRole::Value, value, dims),
            key_value: at.key_value(key_value, heads, options.d_head),
            distances: (options.distances)
                .map(|distances| DistanceScores::build(&table, distances, (options.d_head, options.scale), at)),
            options,
        }
    }

    /// What the queries of `x` read of `slot.encoded`, or of the layer's own positions without it. `biased` adds to what
    /// adapters leave of keys, values and their bias. Keys and values of an encoder's output are computed in the first pass
    /// of a cache.
    ///
    /// # Shapes
    ///
    /// `x [batch, seq, d_model]`, `bias` broadcast to `[batch, heads, seq, seq_k]`; returns `[batch, seq, heads * d_head]`.
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
        let project = |cx: &mut Hooks<'_>| self.options.split(cx.linear(&self.query, x.clone()));
        let first = (!self.options.query_last).then(|| project(cx));
        let read = match (slot.encoded, slot.cache) {
            (Some(encoded), Some(cache)) => cache.encoded(|| self.keys_values(encoded.clone(), cx)),
            (Some(encoded), None) => self.keys_values(encoded.clone(), cx),
            (None, Some(cache)) => cache.append(self.keys_values(x.clone(), cx)),
            (None, None) => self.keys_values(x.clone(), cx),
        };
        let query = first.unwrap_or_else(|| project(cx));
        let past = read.0.dims()[2].saturating_sub(query.dims()[2]);
        let mut state = biased(self.options.adapted(&query, read, x, bias, &self.key_value, cx));
        if let Some(distances) = &self.distances {
            let scores = distances.forward(&query, &state.key, past);
            state.bias = Some(match state.bias {
                Some(bias) => scores + bias,
                None => scores,
            });
        }
        self.options.weighted(query, state, cx)
    }

    fn keys_values(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> KeysValues {
        let key = cx.linear(&self.key, x.clone());
        let value = cx.linear(&self.value, x);
        (self.options.split(key), self.options.split(value))
    }
}

#[cfg(test)]
mod tests {
    use adapters_core::{Location, Stack};
    use burn::tensor::Device;

    use super::*;
    use crate::standard_layer::StandardNames;
    use crate::weights::Weights;

    #[test]
    fn sites_have_the_order_of_the_published_class() {
        for (names, expected) in [
            (StandardNames::BERT, ["q", "k", "v"]),
            (StandardNames::BART, ["k", "v", "q"]),
        ] {
            let mut weights = Weights::random(0, &Device::flex());
            let options = AttentionOptions {
                keys_first: names.keys_first,
                ..AttentionOptions::new(4, 0.0, 0)
            };
            let mut at = weights.at(Location::layer(Stack::Decoder, 0), "attention");
            let mut attention = Attention::build(["q", "k", "v"], "", [true; 3], [8, 2], options, &mut at);
            let expected = expected.map(|name| format!("attention.{name}"));
            let mut paths = Vec::new();
            attention.visit_sites(&mut |info, layer| {
                if let LayerRef::Linear(_) = layer {
                    paths.push(info.path.clone());
                }
            });
            assert_eq!(paths, expected);
            paths.clear();
            attention.visit_sites_mut(&mut |info, layer| {
                if let LayerMut::Linear(_) = layer {
                    paths.push(info.path.clone());
                }
            });
            assert_eq!(paths, expected);
        }
    }
}
