//! An encoder of text: embeddings, a stack of layers, a pooler where there is one. What a family adds is its configuration,
//! its layers and a few names.

use std::fmt::Debug;

use burn::module::ModuleDisplay;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::checkpoint_folder::CheckpointFolder;
use crate::model::Model;
use crate::modeling::*;
use crate::standard_layer::StandardLayer;
use crate::text_embeddings::TextEmbeddings;

/// The published names of a family of encoders, of text or of images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncoderNames {
    /// The published `model_type`.
    pub(crate) model_type: &'static str,
    /// The published class.
    pub(crate) class_name: &'static str,
    /// Prefix of the keys in checkpoints of larger classes.
    pub(crate) prefix: &'static str,
    /// What the keys begin with that nothing here needs; anywhere in the key if it begins with a dot.
    pub(crate) unused: &'static [&'static str],
    /// What AdapterHub's files call the attention.
    pub(crate) attention: &'static str,
    /// The head for a class of a whole text or image.
    pub(crate) classifier: ClassifierLayout,
}

impl EncoderNames {
    /// Whether nothing needs the tensor of this key.
    pub(crate) fn is_unused(&self, key: &str) -> bool {
        let known = |part: &&str| key.starts_with(*part) || part.starts_with('.') && key.contains(*part);
        self.unused.iter().any(known)
    }
}

/// The layers of an encoder, and what they have in common.
pub trait EncoderStack: Module + ModuleDisplay + Sites + Debug + Sync {
    /// The chain that begins with these embeddings; `bias` says what the queries see of the text or image, broadcast to
    /// `[batch, heads, seq, seq]`, where they do not see all of it.
    fn chain(&self, embedded: EmbeddingState, bias: Option<Tensor<4>>, cx: &mut Hooks<'_>) -> Chain<'_>;

    /// What [`Transformer::pool`] returns for a family whose pooler is not a [`Pooler`].
    fn pool(&self, _hidden: Tensor<3>, _cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        None
    }

    /// Whether [`pool`](Self::pool) returns something.
    fn has_pooler(&self) -> bool {
        false
    }

    /// See [`Transformer::with_layers`].
    #[must_use]
    fn with_layers(self, _order: &[usize]) -> Option<Self> {
        None
    }
}

impl EncoderStack for Vec<StandardLayer> {
    fn chain(&self, embedded: EmbeddingState, bias: Option<Tensor<4>>, _: &mut Hooks<'_>) -> Chain<'_> {
        Chain::new(embedded.hidden).layers(self, [bias, None])
    }

    fn with_layers(self, order: &[usize]) -> Option<Self> {
        Some(replicated(&self, order))
    }
}

/// An encoder of text with the layers `S`.
#[derive(Module, Sites, Debug)]
pub struct Encoder<S: EncoderStack> {
    pub(crate) embeddings: TextEmbeddings,
    /// From the width of the embeddings to that of the layers, where they differ.
    pub(crate) projection: Option<Sited<Linear>>,
    pub(crate) stack: S,
    /// `None` where the checkpoint was saved from a class that has none, and in a family whose layers come with their own.
    pub(crate) pooler: Option<Pooler>,
    /// The layer before the last of the masked language model, which its head computes, where the checkpoint has it and the stack
    /// does not.
    pub(crate) head_transform: Option<Sited<Linear>>,
    #[module(skip)]
    pub(crate) facts: EncoderFacts,
}

/// `act(W h_0 + b)` of the first position.
#[derive(Module, Sites, Debug)]
pub struct Pooler {
    dense: Sited<Linear>,
    #[module(skip)]
    activation: Activation,
}

impl Pooler {
    /// The pooler of this path, where the checkpoint has it.
    pub(crate) fn build(path: &str, d_model: usize, activation: Activation, weights: &mut Weights) -> Option<Self> {
        let mut at = weights.at(Location::outside(Stack::Encoder), path);
        at.has("weight").then(|| Self {
            dense: at.linear(LinearRole::Pooler, "", [d_model, d_model]),
            activation,
        })
    }

    /// `act(W h_0 + b)` of the first position.
    pub(crate) fn forward(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<2> {
        let pooled = cx.linear(&self.dense, hidden.slice_dim(1, 0..1));
        self.activation.forward(pooled).squeeze_dim(1)
    }
}

/// What is known of an encoder in addition to its layers.
#[derive(Clone, Debug)]
pub(crate) struct EncoderFacts {
    /// Its names.
    pub(crate) names: EncoderNames,
    /// Width of the layers.
    pub(crate) d_model: usize,
    /// Dropout on attention weights, in training.
    pub(crate) attention_dropout: f64,
    /// Whether a token sees no later ones.
    pub(crate) causal: bool,
    /// What heads, tokenizers and reports need.
    pub(crate) info: ModelInfo,
}

/// Loads a checkpoint of a family; `defaults` are those of its published class where the configuration's are others.
///
/// # Errors
///
/// Those of the configuration, of `build`, and [`ModelError::Store`] listing every tensor that does not fit.
pub(crate) fn load<C: DeserializeOwned, S: EncoderStack + 'static>(
    names: &EncoderNames,
    defaults: Map<String, Value>,
    (source, device): (&CheckpointFolder, &Device),
    build: impl FnOnce(C, &Path, &mut Weights) -> Result<Encoder<S>, ModelError>,
) -> Result<Model, ModelError> {
    load_named(names, defaults, (source, device), |config, path, weights| {
        let mut model = build(config, path, weights)?;
        model.head_transform = model.transform_of_head(weights);
        Ok(model)
    })
}

/// The same for a model of any type that has these names.
///
/// # Errors
///
/// As [`load`].
pub(crate) fn load_named<C: DeserializeOwned, M: Transformer + Module + 'static>(
    names: &EncoderNames,
    defaults: Map<String, Value>,
    (source, device): (&CheckpointFolder, &Device),
    build: impl FnOnce(C, &Path, &mut Weights) -> Result<M, ModelError>,
) -> Result<Model, ModelError> {
    let config = source.config_with(defaults)?;
    let mut weights = source.weights(names.prefix, device)?;
    let model = build(config, &source.dir().join("config.json"), &mut weights)?;
    weights.ignore(|key| names.is_unused(key));
    weights.finish(&[])?;
    Ok(Model::new(model))
}

impl<S: EncoderStack> Encoder<S> {
    /// The layer before the last of the masked language model, where the checkpoint has it.
    fn transform_of_head(&self, weights: &mut Weights) -> Option<Sited<Linear>> {
        let layout = self.facts.info.masked_lm.as_ref()?;
        let dims = [self.facts.d_model, self.embeddings.width()];
        let has = weights.has(&format!("{}.weight", layout.dense));
        let mut at = weights.at_top(Location::outside(Stack::Encoder), "");
        has.then(|| at.linear_with(layout.dense_bias, LinearRole::HeadTransform, layout.dense, dims))
    }
}

impl<S: EncoderStack> Transformer for Encoder<S> {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        self.facts.info.clone()
    }

    fn chain(&self, input: TextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (cx, input) = cx.begin(self, input)?;
        let mut state = self.embeddings.forward(input, cx);
        if let Some(projection) = &self.projection {
            state.hidden = cx.linear(projection, state.hidden);
        }
        let [_, seq, _] = state.hidden.dims();
        let padding = state.padding.clone();
        let bias = match self.facts.causal {
            true => Some(ops::causal_bias(seq, 0, None, padding.as_ref(), &state.hidden.device())),
            false => padding.map(ops::padding_bias),
        };
        Ok(self.stack.chain(state, bias, cx))
    }

    fn with_layers(mut self, order: &[usize]) -> Option<Self> {
        self.stack = self.stack.with_layers(order)?;
        self.facts.info.num_layers = order.len();
        Some(self)
    }

    fn text_encoder(&self) -> Option<&dyn TextEncoder> {
        Some(self)
    }

    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        match &self.pooler {
            Some(pooler) => Some(pooler.forward(hidden, cx.hooks())),
            None => self.stack.pool(hidden, cx),
        }
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some() || self.stack.has_pooler()
    }

    fn classifier(&self) -> Option<ClassifierLayout> {
        Some(self.facts.names.classifier)
    }
}

impl<S: EncoderStack> TextEncoder for Encoder<S> {}

impl<S: EncoderStack> Host for Encoder<S> {
    fn architecture(&self) -> &str {
        self.facts.names.model_type
    }

    fn class_name(&self) -> &str {
        self.facts.names.class_name
    }

    fn d_model(&self) -> usize {
        self.facts.d_model
    }

    fn base_prefix(&self) -> &str {
        self.facts.names.prefix
    }

    fn attention_dropout(&self) -> f64 {
        self.facts.attention_dropout
    }

    fn attention_name(&self, _: Stack) -> &'static str {
        self.facts.names.attention
    }
}
