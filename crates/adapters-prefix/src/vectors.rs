//! The vectors of all layers of a stack: one network computes them, or they are parameters themselves.

use std::borrow::Cow;

use adapters_core::{Host, NamedParams, Site, SiteInfo, SiteKind, Stack};
use adapters_nn::draw;
use adapters_nn::ops::Activation;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData, activation};
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
    pub(crate) fn features(&self) -> usize {
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

/// Peft's names of the two matrices of a cartridge.
const UNTRAINED: &str = "prompt_encoder.frozen_embedding";
pub(crate) const TRAINED: &str = "prompt_encoder.trainable_embedding";

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

/// What the layers of a prefix share: the vectors of each stack.
#[derive(Module, Debug)]
pub(crate) struct SharedVectors {
    pub(crate) stacks: Vec<StackVectors>,
}

/// The vectors of all layers of one stack, or the MLP that computes them.
#[derive(Module, Debug)]
pub(crate) struct StackVectors {
    source: Source,
    #[module(skip)]
    stack: Stack,
    #[module(skip)]
    names: ParamNames,
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each stack")]
enum Source {
    /// The vectors, `[length, 2 layers heads d_head]`.
    Matrix(Param<Tensor<2>>),
    /// The same as one vector.
    Vector(Param<Tensor<1>>),
    /// What computes them.
    Mlp(MlpParams),
    /// A matrix of which the first rows are never trained.
    Split(Split),
}

#[derive(Module, Debug)]
struct Split {
    /// `[frozen, 2 layers heads d_head]`; `None` where all rows train.
    frozen: Option<Param<Tensor<2>>>,
    /// The rows after them.
    trained: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct MlpParams {
    /// `[length, d_in]`.
    embedding: Param<Tensor<2>>,
    first: Linear,
    /// The slope of `prelu`, `[1]`.
    slope: Option<Param<Tensor<1>>>,
    second: Linear,
    #[module(skip)]
    activation: Option<Activation>,
}

#[derive(Module, Debug)]
struct Linear {
    /// `[d_out, d_in]`.
    weight: Param<Tensor<2>>,
    /// `[d_out]`.
    bias: Param<Tensor<1>>,
}

impl Linear {
    /// As torch initializes a linear layer.
    fn draw(d_in: usize, d_out: usize, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        Self {
            weight: draw::linear_param(rng, [d_out, d_in], d_in, device),
            bias: draw::linear_param(rng, [d_out], d_in, device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}

impl MlpParams {
    /// `Linear(act(Linear(embedding)))`.
    fn rows(&self) -> Tensor<2> {
        let hidden = self.first.forward(self.embedding.val());
        let hidden = match (&self.slope, self.activation) {
            (Some(slope), _) => activation::prelu(hidden, slope.val()),
            (None, Some(activation)) => activation.forward(hidden),
            (None, None) => hidden,
        };
        self.second.forward(hidden)
    }
}

impl SharedVectors {
    /// Those of a stack; `None` for one that has none.
    pub(crate) fn of(&self, stack: Stack) -> Option<&StackVectors> {
        self.stacks.iter().find(|vectors| vectors.stack == stack)
    }
}

impl NamedParams for SharedVectors {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        self.stacks.iter().flat_map(StackVectors::named_params).collect()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        let frozen = self.stacks.iter().filter_map(|stack| match &stack.source {
            Source::Split(split) => Some(split.frozen.as_ref()?.id),
            _ => None,
        });
        frozen.collect()
    }
}

impl StackVectors {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let names = &self.names;
        let mlp = match &self.source {
            Source::Matrix(vectors) => return vec![(names.flat.clone().into(), vectors.id)],
            Source::Vector(vectors) => return vec![(names.flat.clone().into(), vectors.id)],
            Source::Split(split) => {
                let frozen = split.frozen.iter().map(|frozen| (UNTRAINED.into(), frozen.id));
                return frozen.chain([(TRAINED.into(), split.trained.id)]).collect();
            }
            Source::Mlp(mlp) => mlp,
        };
        let mut params = vec![(names.embedding.clone().into(), mlp.embedding.id)];
        for (index, layer) in [(0, &mlp.first), (2, &mlp.second)] {
            params.push((names.layer(&format!("{index}.weight")).into(), layer.weight.id));
            params.push((names.layer(&format!("{index}.bias")).into(), layer.bias.id));
        }
        params.extend(
            mlp.slope
                .iter()
                .map(|slope| (names.layer("1.f.weight").into(), slope.id)),
        );
        params
    }

    /// `[length, 2 layers heads d_head]`.
    fn rows(&self, length: usize) -> Tensor<2> {
        match &self.source {
            Source::Matrix(vectors) => vectors.val(),
            Source::Vector(vectors) => {
                let features = vectors.dims()[0] / length.max(1);
                vectors.val().reshape([length, features])
            }
            Source::Split(Split { frozen, trained }) => {
                let rows = frozen.iter().map(Param::val).chain([trained.val()]);
                Tensor::cat(rows.collect(), 0)
            }
            Source::Mlp(mlp) => mlp.rows(),
        }
    }

    /// The same vectors in two matrices, of which the first, of so many rows, is never trained; only a matrix can be split.
    pub(crate) fn split(&self, frozen: usize) -> Self {
        let Source::Matrix(vectors) = &self.source else {
            return self.clone();
        };
        let rows = vectors.val().detach();
        let [length, _] = rows.dims();
        let slice = |from: usize, to: usize| Param::from_tensor(rows.clone().slice_dim(0, from..to));
        Self {
            source: Source::Split(Split {
                frozen: (frozen > 0).then(|| slice(0, frozen)),
                trained: slice(frozen, length),
            }),
            ..self.clone()
        }
    }

    /// The same vectors as one matrix.
    pub(crate) fn joined(&self) -> Self {
        match &self.source {
            Source::Split(_) => Self {
                source: Source::Matrix(Param::from_tensor(self.rows(0).detach())),
                ..self.clone()
            },
            _ => self.clone(),
        }
    }
}

impl PrefixVectors {
    /// Fresh parameters: those of the embedding and of a flat prefix normal with standard deviation one, the layers as torch
    /// initializes them.
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng, device: &Device) -> StackVectors {
        let (length, features) = (self.length, self.attentions.features());
        let source = match self.mlp {
            Some(mlp) => Source::Mlp(MlpParams {
                embedding: Param::from_data(draw::normal(rng, [length, mlp.d_in], 1.0), device),
                first: Linear::draw(mlp.d_in, mlp.width, rng, device),
                slope: match mlp.activation {
                    Some(_) => None,
                    None => Some(Param::from_data(draw::constant([1], 0.25), device)),
                },
                second: Linear::draw(mlp.width, features, rng, device),
                activation: mlp.activation,
            }),
            None if self.names.flat_is_matrix => {
                Source::Matrix(Param::from_data(draw::normal(rng, [length, features], 1.0), device))
            }
            None => Source::Vector(Param::from_data(draw::normal(rng, [length * features], 1.0), device)),
        };
        StackVectors {
            source,
            stack: self.attentions.stack,
            names: self.names.clone(),
        }
    }

    /// The vectors as the parameter of a flat prefix: a matrix or one vector.
    pub(crate) fn flat(&self, vectors: &StackVectors) -> TensorData {
        let rows = vectors.rows(self.length);
        match self.names.flat_is_matrix {
            true => rows.into_data(),
            false => {
                let count = rows.shape().num_elements();
                rows.reshape([count]).into_data()
            }
        }
    }

    /// The vectors by layer: `[2 layers, heads, length, d_head]`.
    pub(crate) fn by_layer(&self, vectors: &StackVectors) -> Tensor<4> {
        let AttentionStack {
            sites, heads, d_head, ..
        } = &self.attentions;
        vectors
            .rows(self.length)
            .reshape([self.length, 2 * sites.len(), *heads, *d_head])
            .permute([1, 2, 0, 3])
    }
}
