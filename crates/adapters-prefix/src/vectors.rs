//! The vectors of all layers of a stack: one network computes them, or they are parameters themselves.

use adapters_core::{Host, Shared, SharedParam, Site, SiteInfo, SiteKind, Stack};
use adapters_nn::draw;
use adapters_nn::ops::Activation;
use burn::module::Param;
use burn::tensor::{Device, Tensor, activation};
use rand_chacha::ChaCha8Rng;

/// The attentions of a stack.
#[derive(Clone, Debug)]
pub(crate) struct AttentionStack {
    /// Its name in files, and in the memory of a pass.
    pub(crate) name: &'static str,
    /// The stack.
    pub(crate) stack: Stack,
    /// The sites, in the order of the forward pass.
    pub(crate) sites: Vec<Site>,
    /// Peft's `num_transformer_submodules`: 2 in its definition of a prefix for an encoder-decoder model.
    pub(crate) submodules: usize,
    /// Key and value heads.
    pub(crate) heads: usize,
    /// Features of a head.
    pub(crate) d_head: usize,
}

impl AttentionStack {
    /// The stack of an attention, with that one alone; `None` for a site of another kind.
    pub(crate) fn of(info: &SiteInfo, submodules: usize, host: &dyn Host) -> Option<Self> {
        let SiteKind::KeyValue { heads, d_head } = info.kind else {
            return None;
        };
        Some(Self {
            name: host.attention_name(info.site.stack),
            stack: info.site.stack,
            sites: vec![info.site],
            submodules,
            heads,
            d_head,
        })
    }

    /// The index of a site's keys among the vectors of all layers; its values come next. Peft's decoder uses every other
    /// pair, and begins again where they end.
    pub(crate) fn key_index(&self, site: usize) -> usize {
        2 * (site * self.submodules % self.sites.len())
    }

    /// Features of one position: keys and values of all layers.
    fn features(&self) -> usize {
        2 * self.sites.len() * self.heads * self.d_head
    }
}

/// Names of the shared parameters of a stack.
#[derive(Clone, Debug)]
pub(crate) struct ParamNames {
    /// The embedding.
    embedding: String,
    /// The MLP: `<transform>.0.weight` and so on.
    transform: String,
    /// The vectors themselves.
    pub(crate) flat: String,
    /// Whether the vectors are a matrix, `[length, ..]`, or one vector.
    flat_is_matrix: bool,
}

/// Peft's name of the vectors themselves.
pub(crate) const FLAT_PEFT: &str = "prompt_embeddings";

impl ParamNames {
    /// AdapterHub's, for a stack of that name.
    pub(crate) fn adapterhub(stack: &str) -> Self {
        Self {
            embedding: format!("{stack}.wte.weight"),
            transform: format!("{stack}.control_trans"),
            flat: format!("{stack}.control_trans"),
            flat_is_matrix: false,
        }
    }

    /// Peft's.
    pub(crate) fn peft() -> Self {
        Self {
            embedding: "prompt_encoder.embedding.weight".to_owned(),
            transform: "prompt_encoder.transform".to_owned(),
            flat: FLAT_PEFT.to_owned(),
            flat_is_matrix: true,
        }
    }

    /// Whether a name is one of a prefix.
    pub(crate) fn are_prefix(name: &str) -> bool {
        let names = [".wte.weight", ".control_trans", "prompt_encoder.", FLAT_PEFT];
        names.iter().any(|known| name.contains(known))
    }

    fn layer(&self, param: &str) -> String {
        format!("{}.{param}", self.transform)
    }
}

/// The MLP that computes the vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mlp {
    /// Features of the embedding.
    pub(crate) d_in: usize,
    /// Width between the linear layers.
    pub(crate) width: usize,
    /// The activation; `None` for `prelu`, whose slope is learned.
    pub(crate) activation: Option<Activation>,
}

/// The vectors of a stack, from what the layers of the adapter share.
#[derive(Clone, Debug)]
pub(crate) struct PrefixVectors {
    /// The attentions they are for.
    pub(crate) attentions: AttentionStack,
    /// Vectors in each layer.
    pub(crate) length: usize,
    /// Names of the parameters.
    pub(crate) names: ParamNames,
    /// What computes them; `None` where they are parameters themselves.
    pub(crate) mlp: Option<Mlp>,
}

/// Values of the shared parameters.
#[allow(clippy::large_enum_variant)] // It lives for one call.
enum Values {
    /// The vectors, `[length, 2 layers heads d_head]`.
    Flat(Tensor<2>),
    /// The embedding, and weight and bias of both layers.
    Mlp {
        embedding: Tensor<2>,
        layers: [(Tensor<2>, Tensor<1>); 2],
        activation: Result<Activation, Tensor<1>>,
    },
}

impl PrefixVectors {
    /// Fresh parameters: those of the embedding and of a flat prefix normal with standard deviation one, the layers as torch
    /// initializes them.
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng, device: &Device) -> Shared {
        let (length, features, names) = (self.length, self.attentions.features(), &self.names);
        let one = |data| SharedParam::One(Param::from_data(data, device));
        let two = |data| SharedParam::Two(Param::from_data(data, device));
        let Some(mlp) = self.mlp else {
            let vectors = match names.flat_is_matrix {
                true => two(draw::normal(rng, [length, features], 1.0)),
                false => one(draw::normal(rng, [length * features], 1.0)),
            };
            return Shared::new().with(names.flat.clone(), vectors);
        };
        let embedding = two(draw::normal(rng, [length, mlp.d_in], 1.0));
        let mut linear = |shared: Shared, index: usize, d_in: usize, d_out: usize| {
            let bound = (d_in as f32).sqrt().recip();
            let weight = two(draw::uniform(rng, [d_out, d_in], bound));
            let bias = one(draw::uniform(rng, [d_out], bound));
            let name = |param| names.layer(&format!("{index}.{param}"));
            shared.with(name("weight"), weight).with(name("bias"), bias)
        };
        let shared = linear(
            Shared::new().with(names.embedding.clone(), embedding),
            0,
            mlp.d_in,
            mlp.width,
        );
        let shared = match mlp.activation {
            Some(_) => shared,
            None => shared.with(names.layer("1.f.weight"), one(draw::constant([1], 0.25))),
        };
        linear(shared, 2, mlp.width, features)
    }

    /// The parameters that [`draw`](Self::draw) named.
    fn values(&self, shared: &Shared) -> Values {
        let names = &self.names;
        let layer = |index: usize| {
            let name = |param| names.layer(&format!("{index}.{param}"));
            (shared.matrix(&name("weight")), shared.vector(&name("bias")))
        };
        match self.mlp {
            Some(mlp) => Values::Mlp {
                embedding: shared.matrix(&names.embedding),
                layers: [layer(0), layer(2)],
                activation: mlp.activation.ok_or_else(|| shared.vector(&names.layer("1.f.weight"))),
            },
            None if names.flat_is_matrix => Values::Flat(shared.matrix(&names.flat)),
            None => {
                let vector = shared.vector(&names.flat);
                Values::Flat(vector.reshape([self.length, self.attentions.features()]))
            }
        }
    }

    /// `Linear(act(Linear(embedding)))`, or the vectors as they are: `[length, 2 layers heads d_head]`.
    fn rows(&self, shared: &Shared) -> Tensor<2> {
        let linear =
            |x: Tensor<2>, (weight, bias): (Tensor<2>, Tensor<1>)| x.matmul(weight.transpose()) + bias.unsqueeze();
        match self.values(shared) {
            Values::Flat(rows) => rows,
            Values::Mlp {
                embedding,
                layers: [first, second],
                activation,
            } => {
                let hidden = linear(embedding, first);
                let hidden = match activation {
                    Ok(function) => function.forward(hidden),
                    Err(slope) => activation::prelu(hidden, slope),
                };
                linear(hidden, second)
            }
        }
    }

    /// The vectors as the parameter of a flat prefix: a matrix or one vector.
    pub(crate) fn flat(&self, shared: &Shared) -> burn::tensor::TensorData {
        let rows = self.rows(shared);
        match self.names.flat_is_matrix {
            true => rows.into_data(),
            false => {
                let count = rows.shape().num_elements();
                rows.reshape([count]).into_data()
            }
        }
    }

    /// The vectors by layer: `[2 layers, heads, length, d_head]`.
    pub(crate) fn by_layer(&self, shared: &Shared) -> Tensor<4> {
        let AttentionStack {
            sites, heads, d_head, ..
        } = &self.attentions;
        self.rows(shared)
            .reshape([self.length, 2 * sites.len(), *heads, *d_head])
            .permute([1, 2, 0, 3])
    }
}
