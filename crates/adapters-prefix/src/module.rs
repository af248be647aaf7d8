//! The layer, and the way from what an adapter shares to the vectors of all its layers.

use std::borrow::Cow;

use adapters_core::{Call, Causality, KeyValueState, NamedParams, Shared, SharedParam, Site, SiteAdapter, Stack};
use adapters_nn::ops::{self, Activation};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;

use crate::init;

/// The attentions whose vectors are made together: those of a stack.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its name in files, and in the memory of a pass.
    pub(crate) name: &'static str,
    /// The stack.
    pub(crate) stack: Stack,
    /// The sites, in the order of the forward pass.
    pub(crate) sites: Vec<Site>,
    /// Stacks whose attentions take turns at the vectors: two where peft has an encoder-decoder model.
    pub(crate) turns: usize,
    /// Key and value heads.
    pub(crate) heads: usize,
    /// Features of a head.
    pub(crate) d_head: usize,
}

/// How the vectors of a place are made from what the adapter shares.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Where they go.
    pub(crate) place: Place,
    /// Vectors a layer.
    pub(crate) length: usize,
    /// Names of the parameters.
    pub(crate) names: Names,
    /// What makes them; `None` where they are parameters themselves.
    pub(crate) mlp: Option<Mlp>,
}

/// The MLP of a reparametrized prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mlp {
    /// Features of the embedding.
    pub(crate) d_in: usize,
    /// Width between the linear layers.
    pub(crate) width: usize,
    /// The activation; `None` for `prelu`, whose slope is learned.
    pub(crate) activation: Option<Activation>,
}

/// Names of the shared parameters of a place.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// The embedding.
    pub(crate) embedding: String,
    /// The MLP: `<transform>.0.weight` and so on.
    pub(crate) transform: String,
    /// The vectors themselves.
    pub(crate) flat: String,
    /// Whether the vectors are a matrix, `[length, ..]`, or one vector.
    pub(crate) rows: bool,
}

impl Place {
    /// The place of a site's keys among the vectors of all layers; its values come next.
    pub(crate) fn slot(&self, index: usize) -> usize {
        2 * (index * self.turns % self.sites.len())
    }
}

impl Source {
    /// Features of one position: keys and values of all layers.
    fn features(&self) -> usize {
        2 * self.place.sites.len() * self.place.heads * self.place.d_head
    }

    fn transform(&self, part: &str) -> String {
        format!("{}.{part}", self.names.transform)
    }

    /// Fresh parameters.
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng, device: &Device) -> Shared {
        let Some(mlp) = self.mlp else {
            let (length, features) = (self.length, self.features());
            let param = match self.names.rows {
                true => SharedParam::Two(init::embedding(rng, [length, features], device)),
                false => SharedParam::One(init::embedding(rng, [length * features], device)),
            };
            return Shared::new().with(self.names.flat.clone(), param);
        };
        let embedding = init::embedding(rng, [self.length, mlp.d_in], device);
        let (first, first_bias) = init::linear(rng, mlp.d_in, mlp.width, device);
        let (second, second_bias) = init::linear(rng, mlp.width, self.features(), device);
        let shared = Shared::new()
            .with(self.names.embedding.clone(), SharedParam::Two(embedding))
            .with(self.transform("0.weight"), SharedParam::Two(first))
            .with(self.transform("0.bias"), SharedParam::One(first_bias));
        let shared = match mlp.activation {
            Some(_) => shared,
            None => shared.with(self.transform("1.f.weight"), SharedParam::One(init::slope(device))),
        };
        shared
            .with(self.transform("2.weight"), SharedParam::Two(second))
            .with(self.transform("2.bias"), SharedParam::One(second_bias))
    }

    /// `Linear(act(Linear(embedding)))`, or the vectors as they are: `[length, 2 layers heads d_head]`.
    pub(crate) fn rows(&self, shared: &Shared) -> Tensor<2> {
        let Some(mlp) = self.mlp else {
            return match self.names.rows {
                true => shared.matrix(&self.names.flat),
                false => shared.vector(&self.names.flat).reshape([self.length, self.features()]),
            };
        };
        let linear = |x: Tensor<2>, part: &str| {
            let weight = shared.matrix(&self.transform(&format!("{part}.weight")));
            let bias = shared.vector(&self.transform(&format!("{part}.bias")));
            x.matmul(weight.transpose()) + bias.unsqueeze()
        };
        let hidden = linear(shared.matrix(&self.names.embedding), "0");
        let hidden = match mlp.activation {
            Some(activation) => activation.forward(hidden),
            None => {
                let slope = shared.vector(&self.transform("1.f.weight")).unsqueeze::<2>();
                hidden.clone().clamp_min(0.0) + hidden.clamp_max(0.0) * slope
            }
        };
        linear(hidden, "2")
    }

    /// The vectors by layer: `[2 layers, heads, length, d_head]`.
    fn vectors(&self, shared: &Shared) -> Tensor<4> {
        let Place {
            sites, heads, d_head, ..
        } = &self.place;
        self.rows(shared)
            .reshape([self.length, 2 * sites.len(), *heads, *d_head])
            .permute([1, 2, 0, 3])
    }
}

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
        let gates = ops::project(x, self.weight.val()) + self.bias.val().unsqueeze();
        burn::tensor::activation::sigmoid(gates).mean_dim(1).squeeze_dim(1)
    }
}

/// Vectors in front of keys and values: `attention(q, [P_k; K], [P_v; V])`.
///
/// *Prefix-Tuning: Optimizing Continuous Prompts for Generation*, Li and Liang, 2021,
/// <https://arxiv.org/abs/2101.00190>.
///
/// They are put there after the position encoding, so that they have no position, and in front of the keys of the whole
/// sequence: in generation with a cache the hook gets what is remembered and what is new, and what is remembered is
/// without them. In a stack the later prefix stands in front. With a gate, both are multiplied by it.
///
/// # Shapes
///
/// `[batch, heads, seq_k, d_head] -> [batch, heads, length + seq_k, d_head]`
#[derive(Module, Debug)]
pub struct PrefixLayer {
    gate: Option<Gate>,
    #[module(skip)]
    source: Source,
    index: usize,
    dropout: f64,
}

impl PrefixLayer {
    /// The layer at the `index`th site of a place.
    pub(crate) fn new(source: Source, index: usize, gate: Option<Gate>, dropout: f64) -> Self {
        Self {
            gate,
            source,
            index,
            dropout,
        }
    }

    /// Keys and values of this layer for each row, `[batch, heads, length, d_head]`.
    fn front(&self, batch: usize, call: &Call<'_>) -> (Tensor<4>, Tensor<4>) {
        let source = &self.source;
        let vectors = call.once(source.place.name, || source.vectors(call.shared));
        let slot = |slot: usize| {
            let one = vectors.clone().slice_dim(0, slot..slot + 1);
            let rows = one.expand([batch, source.place.heads, source.length, source.place.d_head]);
            call.dropout(rows, self.dropout)
        };
        let keys = source.place.slot(self.index);
        (slot(keys), slot(keys + 1))
    }
}

impl SiteAdapter<KeyValueState> for PrefixLayer {
    fn apply(&self, state: KeyValueState, call: &Call<'_>) -> KeyValueState {
        let (mut key, mut value) = self.front(state.key.dims()[0], call);
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
        state.with_front(key, value)
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
