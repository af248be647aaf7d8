//! ViT, from the published configuration to the last hidden state.
//!
//! Paper: *An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale*, Dosovitskiy et al., 2020,
//! <https://arxiv.org/abs/2010.11929>. Behavior follows `ViTModel` of transformers; positions are not interpolated.

use crate::encoder::Pooler;
use crate::image_size::{ImageSize, image_size, patch_size};
use crate::modeling::*;
use crate::patches::{ImagePatches, patch_kernel};
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};

/// `config.json` of a ViT checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VitConfig {
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
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Width of the pooler's output; only `hidden_size`, which `None` means, is computed.
    pub pooler_output_size: Option<usize>,
    /// Activation of the pooler.
    pub pooler_act: String,
}

impl Default for VitConfig {
    /// The defaults of the published class (ViT base).
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
            qkv_bias: true,
            pooler_output_size: None,
            pooler_act: "tanh".to_owned(),
        }
    }
}

impl VitConfig {
    /// Checks the values against each other and against what is computed here; returns what the layers have in common, and the
    /// activation of the pooler.
    fn check(&self, path: &Path) -> Result<(StandardOptions, Activation), ModelError> {
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
        check.dropouts([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ])?;
        check.patches(self.image_size, self.patch_size)?;
        let (pooled, d) = (self.pooler_output_size.unwrap_or(self.hidden_size), self.hidden_size);
        check.require(pooled == d, "pooler_output_size", format!("hidden_size = {d}"), pooled)?;
        let activation = check.activation("hidden_act", &self.hidden_act)?;
        let options = StandardOptions {
            names: StandardNames {
                after: ["attention_adapters", "", "output.output_adapters"],
                ..StandardNames::VIT
            },
            norm_epsilon: self.layer_norm_eps,
            biases: [self.qkv_bias, self.qkv_bias, self.qkv_bias, true],
            query_last: true,
            dropouts: [self.hidden_dropout_prob; 2],
            attention_dropout: self.attention_probs_dropout_prob,
            ..StandardOptions::of([d, self.num_attention_heads, self.intermediate_size], activation)
        };
        Ok((options, check.activation("pooler_act", &self.pooler_act)?))
    }

    /// Rows and columns of patches.
    fn grid(&self) -> [usize; 2] {
        self.image_size / self.patch_size
    }

    /// The class token and the patches. Pixels beyond the last whole patch are not read.
    fn positions(&self) -> usize {
        let [rows, columns] = self.grid();
        rows * columns + 1
    }
}

/// ViT: embeddings, layers, a final normalization and a pooler.
#[derive(Module, Sites, Debug)]
pub struct VitModel {
    patches: ImagePatches,
    embeddings: Point<EmbeddingHook>,
    layers: Vec<StandardLayer>,
    norm: Sited<LayerNorm>,
    /// `None` where the checkpoint was saved from a class that has none.
    pooler: Option<Pooler>,
    #[module(skip)]
    config: VitConfig,
}

impl FromCheckpoint for VitModel {
    type Config = VitConfig;
    const PREFIX: &'static str = "vit.";

    fn build(config: VitConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let (options, pooler) = config.check(path)?;
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let layers = (Stack::Encoder, "encoder.layer");
        let layers = StandardLayer::stack(&options, layers, config.num_hidden_layers, weights);
        let pooler = Pooler::build("pooler.dense", d, pooler, weights);
        let mut at = weights.at(Location::outside(Stack::Encoder), "");
        let projection = "embeddings.patch_embeddings.projection";
        Ok(Self {
            patches: ImagePatches {
                projection: at.convolution(
                    projection,
                    true,
                    patch_kernel(config.num_channels, config.patch_size),
                    d,
                ),
                class_token: Some(at.tensor("embeddings.cls_token", [1, 1, d])),
                positions: Some(at.tensor("embeddings.position_embeddings", [1, config.positions(), d])),
                size: config.patch_size,
                grid: config.grid(),
            },
            embeddings: at.embedded(EmbeddingRole::Embedding, "embeddings", d),
            layers,
            norm: at.layer_norm(NormRole::FinalNorm, "layernorm", d, eps),
            pooler,
            config,
        })
    }

    /// The heads of larger classes, and what stands for a hidden patch in pretraining.
    fn is_unused(&self, key: &str) -> bool {
        key == "embeddings.mask_token" || key.starts_with("classifier.") || key.starts_with("decoder.")
    }
}

impl Transformer for VitModel {
    type Input = ImageInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: Some(c.positions()),
            head_norm_epsilon: c.layer_norm_eps,
            head_dropout: c.hidden_dropout_prob,
            activation: c.hidden_act.clone(),
            ..ModelInfo::default()
        }
    }

    fn chain(&self, input: ImageInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let pixels = input.of_size(self.image_size(), self)?;
        let hidden = self.patches.begin(pixels, self, cx)?;
        let cx = cx.hooks();
        let hidden = cx.dropout(hidden, self.config.hidden_dropout_prob);
        let state = cx.embedding(&self.embeddings, EmbeddingState::new(hidden, None));
        let chain = Chain::new(state.hidden).layers(&self.layers, [None, None]);
        Ok(chain.then(|x, cx| cx.norm(&self.norm, x)))
    }

    fn image_encoder(&self) -> Option<&dyn ImageEncoder> {
        Some(self)
    }

    /// `act(W h_0 + b)` of the first position.
    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        Some(self.pooler.as_ref()?.forward(hidden, cx))
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }
}

impl ImageEncoder for VitModel {
    fn image_size(&self) -> [usize; 3] {
        let c = &self.config;
        [c.num_channels, c.image_size.height, c.image_size.width]
    }
}

impl Host for VitModel {
    fn architecture(&self) -> &str {
        "vit"
    }

    fn class_name(&self) -> &str {
        "ViTModel"
    }

    fn d_model(&self) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_probs_dropout_prob
    }
}
