//! An encoder of images: patches, a stack of layers, a final normalization, a pooler. What a family adds is its configuration, its
//! layers, its pooler and a few names.

use std::fmt::Debug;

use burn::module::ModuleDisplay;

use crate::encoder::{EncoderNames, EncoderStack, Pooler};
use crate::image_size::{ImageSize, image_size, patch_size};
use crate::modeling::*;
use crate::patches::{ImagePatches, patch_kernel};
use crate::standard_layer::{StandardNames, StandardOptions};

/// The fields of `config.json` that ViT and its relatives have.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Activation of the feed-forward block.
    pub hidden_act: String,
    /// Dropout on embeddings and block outputs, in training.
    pub hidden_dropout_prob: f64,
    /// Dropout on attention weights, in training.
    pub attention_probs_dropout_prob: f64,
    /// Epsilon of the layer normalizations.
    pub layer_norm_eps: f64,
    /// Height and width of the images in pixels.
    #[serde(deserialize_with = "image_size")]
    pub image_size: ImageSize,
    /// Height and width of a patch in pixels.
    #[serde(deserialize_with = "patch_size")]
    pub patch_size: ImageSize,
    /// Channels of the images.
    pub num_channels: usize,
}

impl Default for VisionConfig {
    /// The defaults of the published class of ViT (ViT base).
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            layer_norm_eps: 1e-12,
            image_size: ImageSize::square(224),
            patch_size: ImageSize::square(16),
            num_channels: 3,
        }
    }
}

impl VisionConfig {
    /// Checks the values against each other.
    pub(crate) fn check(&self, check: &ConfigCheck<'_>) -> Result<(), ModelError> {
        check.sizes([
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_channels", self.num_channels),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        check.dropouts([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ])?;
        check.patches(self.image_size, self.patch_size)
    }

    /// Rows and columns of patches.
    pub(crate) fn grid(&self) -> [usize; 2] {
        self.image_size / self.patch_size
    }

    /// What its layers have in common, under the names of ViT.
    pub(crate) fn layers(&self, activation: Activation) -> StandardOptions {
        StandardOptions {
            names: StandardNames::VIT,
            norm_epsilon: self.layer_norm_eps,
            dropouts: [self.hidden_dropout_prob; 2],
            attention_dropout: self.attention_probs_dropout_prob,
            ..StandardOptions::of(
                [self.hidden_size, self.num_attention_heads, self.intermediate_size],
                activation,
            )
        }
    }

    /// The class token and the patches under the names of ViT, with learned positions for a grid, if there are any.
    pub(crate) fn patches(&self, positions: Option<[usize; 2]>, at: &mut Scope<'_>) -> ImagePatches {
        let (d, kernel) = (self.hidden_size, patch_kernel(self.num_channels, self.patch_size));
        ImagePatches {
            projection: at.convolution("embeddings.patch_embeddings.projection", true, kernel, d),
            class_token: Some(at.tensor("embeddings.cls_token", [1, 1, d])),
            positions: positions
                .map(|[rows, columns]| at.tensor("embeddings.position_embeddings", [1, rows * columns + 1, d])),
            size: self.patch_size,
            grid: positions.unwrap_or(self.grid()),
        }
    }

    /// What is known of a model with a class token that reads images of one size.
    pub(crate) fn facts(&self, names: EncoderNames) -> VisionFacts {
        let [rows, columns] = self.grid();
        VisionFacts {
            names,
            d_model: self.hidden_size,
            dropout: self.hidden_dropout_prob,
            attention_dropout: self.attention_probs_dropout_prob,
            image: [self.num_channels, self.image_size.height, self.image_size.width],
            smallest: None,
            info: ModelInfo {
                num_layers: self.num_hidden_layers,
                max_length: Some(rows * columns + 1),
                head_norm_epsilon: self.layer_norm_eps,
                head_dropout: self.hidden_dropout_prob,
                activation: self.hidden_act.clone(),
                ..ModelInfo::default()
            },
        }
    }
}

/// What makes one vector of the last hidden state.
pub trait ImagePooler: Module + ModuleDisplay + Sites + Debug + Sync {
    /// `[batch, positions, d_model] -> [batch, d_model]`
    fn pool(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<2>;
}

impl ImagePooler for Pooler {
    fn pool(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<2> {
        self.forward(hidden, cx)
    }
}

/// The class token, or the mean of the patches behind it, normalized or not.
#[derive(Module, Sites, Debug)]
pub(crate) struct TokenPooler {
    pub(crate) norm: Option<Sited<LayerNorm>>,
    #[module(skip)]
    pub(crate) reads_mean: bool,
}

impl TokenPooler {
    /// The class token.
    pub(crate) const CLASS: Self = Self {
        norm: None,
        reads_mean: false,
    };
}

impl ImagePooler for TokenPooler {
    fn pool(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<2> {
        let positions = hidden.dims()[1];
        let read = match self.reads_mean {
            true => hidden.slice_dim(1, 1..positions).mean_dim(1),
            false => hidden.slice_dim(1, 0..1),
        };
        normed(&self.norm, read, cx).squeeze_dim(1)
    }
}

/// An encoder of images with the layers `S` and the pooler `P`.
#[derive(Module, Sites, Debug)]
pub struct VisionEncoder<S: EncoderStack, P: ImagePooler> {
    pub(crate) patches: ImagePatches,
    /// In front of the first layer, in a family that has one.
    pub(crate) first_norm: Option<Sited<LayerNorm>>,
    /// In a family whose embeddings AdapterHub's library adapts.
    pub(crate) embeddings: Option<Point<EmbeddingHook>>,
    pub(crate) stack: S,
    /// After the last layer, in a family that has one.
    pub(crate) norm: Option<Sited<LayerNorm>>,
    /// `None` where the checkpoint was saved from a class that has none.
    pub(crate) pooler: Option<P>,
    #[module(skip)]
    pub(crate) facts: VisionFacts,
}

/// What is known of an encoder of images in addition to its layers.
#[derive(Clone, Debug)]
pub(crate) struct VisionFacts {
    /// Its names.
    pub(crate) names: EncoderNames,
    /// Width of the layers.
    pub(crate) d_model: usize,
    /// Dropout on embeddings, in training.
    pub(crate) dropout: f64,
    /// Dropout on attention weights, in training.
    pub(crate) attention_dropout: f64,
    /// Channels, height and width of the images that the positions are for.
    pub(crate) image: [usize; 3],
    /// Pixels of the shorter side of the smallest images, where it reads images of any size.
    pub(crate) smallest: Option<usize>,
    /// What heads and reports need.
    pub(crate) info: ModelInfo,
}

/// What a norm makes of `x`, where there is one.
fn normed(norm: &Option<Sited<LayerNorm>>, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
    match norm {
        Some(norm) => cx.norm(norm, x),
        None => x,
    }
}

impl<S: EncoderStack, P: ImagePooler> VisionEncoder<S, P> {
    /// The patches of images that `model` reads, and how many rows and columns of them there are.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`]
    pub(crate) fn cut(&self, input: ImageInput, model: &impl Host) -> Result<(Tensor<3>, [usize; 2]), Error> {
        let image = self.facts.image;
        let pixels = match self.facts.smallest {
            Some(side) => input.of_size_or_larger(image, side, model),
            None => input.of_size(image, model),
        };
        Ok(self.patches.cut(pixels?))
    }

    /// What enters the first layer, in a pass that has begun with the patches.
    pub(crate) fn embed(&self, patches: Tensor<3>, grid: [usize; 2], cx: &mut Hooks<'_>) -> EmbeddingState {
        let hidden = self.patches.embed(patches, grid, cx);
        let hidden = normed(&self.first_norm, hidden, cx);
        let state = EmbeddingState::new(cx.dropout(hidden, self.facts.dropout), None);
        match &self.embeddings {
            Some(point) => cx.embedding(point, state),
            None => state,
        }
    }
}

impl<S: EncoderStack, P: ImagePooler> Transformer for VisionEncoder<S, P> {
    type Input = ImageInput;

    fn info(&self) -> ModelInfo {
        self.facts.info.clone()
    }

    fn chain(&self, input: ImageInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (patches, grid) = self.cut(input, self)?;
        let (cx, patches) = cx.begin(self, patches)?;
        let embedded = self.embed(patches, grid, cx);
        let chain = self.stack.chain(embedded, None, cx);
        Ok(match &self.norm {
            Some(norm) => chain.then(|x, cx| cx.norm(norm, x)),
            None => chain,
        })
    }

    fn image_encoder(&self) -> Option<&dyn ImageEncoder> {
        Some(self)
    }

    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        Some(self.pooler.as_ref()?.pool(hidden, cx.hooks()))
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }

    fn classifier(&self) -> Option<ClassifierLayout> {
        Some(self.facts.names.classifier)
    }
}

impl<S: EncoderStack, P: ImagePooler> ImageEncoder for VisionEncoder<S, P> {
    fn image_size(&self) -> [usize; 3] {
        self.facts.image
    }
}

impl<S: EncoderStack, P: ImagePooler> Host for VisionEncoder<S, P> {
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
