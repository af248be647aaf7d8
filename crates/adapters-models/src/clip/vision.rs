//! The image model of CLIP.

use super::names::{CLIP_LAYER, is_of_the_other};
use crate::image_size::{ImageSize, image_size, patch_size};
use crate::modeling::*;
use crate::patches::{ImagePatches, patch_kernel};
use crate::standard_layer::{StandardLayer, StandardOptions};

/// `config.json` of an image model: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ClipVisionConfig {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) num_channels: usize,
    #[serde(deserialize_with = "image_size")]
    pub(crate) image_size: ImageSize,
    #[serde(deserialize_with = "patch_size")]
    pub(crate) patch_size: ImageSize,
    pub(crate) hidden_act: String,
    pub(crate) layer_norm_eps: f64,
    pub(crate) attention_dropout: f64,
}

impl Default for ClipVisionConfig {
    /// The defaults of the published class.
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: ImageSize::square(224),
            patch_size: ImageSize::square(32),
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
        }
    }
}

impl ClipVisionConfig {
    /// Checks the values; returns what the layers have in common.
    pub(crate) fn check(&self, path: &Path) -> Result<StandardOptions, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_channels", self.num_channels),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        check.dropouts([("attention_dropout", self.attention_dropout)])?;
        check.patches(self.image_size, self.patch_size)?;
        for (field, size) in [("image_size", self.image_size), ("patch_size", self.patch_size)] {
            let expected = "one number: the published class reads square images and patches";
            check.require(size.is_square(), field, expected, size)?;
        }
        Ok(StandardOptions {
            names: CLIP_LAYER,
            norm_epsilon: self.layer_norm_eps,
            attention_dropout: self.attention_dropout,
            ..StandardOptions::of(
                [self.hidden_size, self.num_attention_heads, self.intermediate_size],
                check.activation("hidden_act", &self.hidden_act)?,
            )
        })
    }

    /// Rows and columns of patches.
    pub(crate) fn grid(&self) -> [usize; 2] {
        self.image_size / self.patch_size
    }

    /// Patches of an image.
    pub(crate) fn patches(&self) -> usize {
        self.grid().iter().product()
    }

    /// Channels, height and width of the images.
    pub(crate) fn image(&self) -> [usize; 3] {
        [self.num_channels, self.image_size.height, self.image_size.width]
    }

    /// Facts of a model of this configuration with this many positions.
    pub(crate) fn info(&self, positions: usize) -> ModelInfo {
        ModelInfo {
            num_layers: self.num_hidden_layers,
            max_length: Some(positions),
            head_norm_epsilon: self.layer_norm_eps,
            activation: self.hidden_act.clone(),
            ..ModelInfo::default()
        }
    }

    /// The layers, whose indices begin with `first`.
    pub(crate) fn layers(
        &self,
        options: &StandardOptions,
        (stack, first): (Stack, usize),
        weights: &mut Weights,
    ) -> Vec<StandardLayer> {
        let layer = |index: usize| {
            let name = format!("vision_model.encoder.layers.{index}");
            StandardLayer::build(options, weights.at(Location::layer(stack, first + index), name))
        };
        (0..self.num_hidden_layers).map(layer).collect()
    }
}

/// The image model: embeddings with a normalization, layers, and a normalization of the class token.
#[derive(Module, Sites, Debug)]
pub(crate) struct ClipVisionModel {
    patches: ImagePatches,
    first_norm: Sited<LayerNorm>,
    layers: Vec<StandardLayer>,
    /// Of the pooler.
    norm: Sited<LayerNorm>,
    #[module(skip)]
    pub(super) config: ClipVisionConfig,
}

impl FromCheckpoint for ClipVisionModel {
    type Config = ClipVisionConfig;
    const PREFIX: &'static str = "clip.";

    fn build(config: ClipVisionConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        Self::build_at(config, path, (Stack::Encoder, 0), weights)
    }

    fn is_unused(&self, key: &str) -> bool {
        is_of_the_other(key, "text_model.")
    }
}

impl ClipVisionModel {
    /// Alone or in a larger model, in whose stack the layers are counted from a first one.
    pub(super) fn build_at(
        config: ClipVisionConfig,
        path: &Path,
        first_layer: (Stack, usize),
        weights: &mut Weights,
    ) -> Result<Self, ModelError> {
        let options = config.check(path)?;
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let layers = config.layers(&options, first_layer, weights);
        let class: Param<Tensor<1>> = weights.tensor("vision_model.embeddings.class_embedding", [d]);
        let positions = weights.matrix(
            "vision_model.embeddings.position_embedding.weight",
            config.patches() + 1,
            d,
        );
        let mut at = weights.at(Location::outside(first_layer.0), "vision_model");
        let kernel = patch_kernel(config.num_channels, config.patch_size);
        Ok(Self {
            patches: ImagePatches {
                projection: at.convolution("embeddings.patch_embedding", false, kernel, d),
                class_token: Some(Param::from_tensor(class.val().unsqueeze()).set_require_grad(false)),
                positions: Some(Param::from_tensor(positions.val().unsqueeze()).set_require_grad(false)),
                size: config.patch_size,
                grid: config.grid(),
            },
            // The published name.
            first_norm: at.layer_norm(NormRole::EmbeddingNorm, "pre_layrnorm", d, eps),
            layers,
            norm: at.layer_norm(NormRole::FinalNorm, "post_layernorm", d, eps),
            config,
        })
    }

    /// What enters the first layer; the pass begins with it.
    pub(super) fn embed(&self, input: ImageInput, model: &impl Host, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        let patches = self.cut(input, model)?;
        let (cx, patches) = cx.begin(model, patches)?;
        Ok(self.embed_patches(patches, cx))
    }

    /// The patches of images of the right size.
    pub(super) fn cut(&self, input: ImageInput, model: &impl Host) -> Result<Tensor<3>, Error> {
        Ok(self.patches.cut(input.of_size(self.config.image(), model)?).0)
    }

    /// What enters the first layer, in a pass that has begun.
    pub(super) fn embed_patches(&self, patches: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let hidden = self.patches.embed(patches, self.patches.grid, cx);
        cx.norm(&self.first_norm, hidden)
    }

    /// Goes on with the layers.
    pub(super) fn extend<'m>(&'m self, chain: Chain<'m>) -> Chain<'m> {
        chain.layers(&self.layers, [None, None])
    }

    /// The normalized class token, `[batch, 1, d_model]`.
    pub(super) fn class_vector(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        cx.norm(&self.norm, hidden.slice_dim(1, 0..1))
    }
}

impl Transformer for ClipVisionModel {
    type Input = ImageInput;

    fn info(&self) -> ModelInfo {
        self.config.info(self.config.patches() + 1)
    }

    fn chain(&self, input: ImageInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        Ok(self.extend(Chain::new(self.embed(input, self, cx)?)))
    }

    fn image_encoder(&self) -> Option<&dyn ImageEncoder> {
        Some(self)
    }

    /// The normalized class token.
    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        Some(self.class_vector(hidden, cx.hooks()).squeeze_dim(1))
    }

    fn has_pooler(&self) -> bool {
        true
    }
}

impl ImageEncoder for ClipVisionModel {
    fn image_size(&self) -> [usize; 3] {
        self.config.image()
    }
}

impl Host for ClipVisionModel {
    fn architecture(&self) -> &str {
        "clip_vision_model"
    }

    fn class_name(&self) -> &str {
        "CLIPVisionModel"
    }

    fn d_model(&self) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_dropout
    }

    fn attention_name(&self, _: Stack) -> &'static str {
        "clip_vision_model_self_prefix"
    }
}
