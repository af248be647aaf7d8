//! DINOv2, from the published configuration to the last hidden state.
//!
//! Paper: *DINOv2: Learning Robust Visual Features without Supervision*, Oquab et al., 2023,
//! <https://arxiv.org/abs/2304.07193>. Behavior follows `Dinov2Model` of transformers, which interpolates positions for images
//! of another size than those of training.

use crate::image_size::{ImageSize, image_size, patch_size};
use crate::modeling::*;
use crate::patches::{ImagePatches, patch_kernel};
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};

/// `config.json` of a DINOv2 checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Dinov2Config {
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    /// Width of the feed-forward block by that of the residual stream.
    pub(crate) mlp_ratio: f64,
    pub(crate) hidden_act: String,
    pub(crate) hidden_dropout_prob: f64,
    pub(crate) attention_probs_dropout_prob: f64,
    pub(crate) layer_norm_eps: f64,
    /// Height and width of the images that the positions are for.
    #[serde(deserialize_with = "image_size")]
    pub(crate) image_size: ImageSize,
    #[serde(deserialize_with = "patch_size")]
    pub(crate) patch_size: ImageSize,
    pub(crate) num_channels: usize,
    pub(crate) qkv_bias: bool,
    /// Probability that a row skips a block, in training.
    pub(crate) drop_path_rate: f64,
    /// Whether the feed-forward block is gated, by SiLU.
    pub(crate) use_swiglu_ffn: bool,
}

impl Default for Dinov2Config {
    /// The defaults of the published class.
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            layer_norm_eps: 1e-6,
            image_size: ImageSize::square(224),
            patch_size: ImageSize::square(14),
            num_channels: 3,
            qkv_bias: true,
            drop_path_rate: 0.0,
            use_swiglu_ffn: false,
        }
    }
}

impl Dinov2Config {
    /// Checks the values against each other.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_channels", self.num_channels),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        check.dropouts([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("drop_path_rate", self.drop_path_rate),
        ])?;
        check.patches(self.image_size, self.patch_size)?;
        let ratio = self.mlp_ratio;
        check.require(
            (1.0 / 64.0..=64.0).contains(&ratio),
            "mlp_ratio",
            "between 1/64 and 64",
            ratio,
        )?;
        check.sizes([("hidden_size * mlp_ratio", self.intermediate_size())])?;
        Ok(match self.use_swiglu_ffn {
            true => Activation::Silu,
            false => check.activation("hidden_act", &self.hidden_act)?,
        })
    }

    /// Width of the feed-forward block: that of a gated one has two thirds of it, up to a multiple of 8.
    fn intermediate_size(&self) -> usize {
        let width = (self.hidden_size as f64 * self.mlp_ratio) as usize;
        match self.use_swiglu_ffn {
            true => (width * 2 / 3).next_multiple_of(8),
            false => width,
        }
    }

    fn layer(&self, activation: Activation) -> StandardOptions {
        let [up, down] = match self.use_swiglu_ffn {
            true => ["mlp.weights_in", "mlp.weights_out"],
            false => ["mlp.fc1", "mlp.fc2"],
        };
        let bias = self.qkv_bias;
        StandardOptions {
            names: StandardNames {
                attention_norm: "norm1",
                up,
                down,
                ffn_norm: "norm2",
                scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
                ..StandardNames::VIT
            },
            gated: self.use_swiglu_ffn,
            norm_epsilon: self.layer_norm_eps,
            biases: [bias, bias, bias, true],
            dropouts: [self.hidden_dropout_prob, 0.0],
            attention_dropout: self.attention_probs_dropout_prob,
            drop_path: self.drop_path_rate,
            ..StandardOptions::of(
                [self.hidden_size, self.num_attention_heads, self.intermediate_size()],
                activation,
            )
        }
    }
}

/// DINOv2: embeddings, layers and a final normalization.
#[derive(Module, Sites, Debug)]
pub(crate) struct Dinov2Model {
    patches: ImagePatches,
    layers: Vec<StandardLayer>,
    norm: Sited<LayerNorm>,
    #[module(skip)]
    config: Dinov2Config,
}

impl FromCheckpoint for Dinov2Model {
    type Config = Dinov2Config;
    const PREFIX: &'static str = "dinov2.";

    fn build(config: Dinov2Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let options = config.layer(config.check(path)?);
        let grid = ConfigCheck::new(path).position_grid(config.image_size, config.patch_size)?;
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let layers = (Stack::Encoder, "encoder.layer");
        let layers = StandardLayer::stack(&options, layers, config.num_hidden_layers, weights);
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
                positions: Some(at.tensor("embeddings.position_embeddings", [1, grid[0] * grid[1] + 1, d])),
                size: config.patch_size,
                grid,
            },
            layers,
            norm: at.layer_norm(NormRole::FinalNorm, "layernorm", d, eps),
            config,
        })
    }

    /// The head of a larger class, and what stands for a hidden patch in pretraining.
    fn is_unused(&self, key: &str) -> bool {
        key == "embeddings.mask_token" || key.starts_with("classifier.")
    }
}

impl Transformer for Dinov2Model {
    type Input = ImageInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: None,
            head_norm_epsilon: c.layer_norm_eps,
            head_dropout: c.hidden_dropout_prob,
            activation: c.hidden_act.clone(),
            ..ModelInfo::default()
        }
    }

    fn chain(&self, input: ImageInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let patch = self.config.patch_size;
        let pixels = match patch.is_square() {
            true => input.of_size_or_larger(self.image_size(), patch.height, self)?,
            false => input.of_size(self.image_size(), self)?,
        };
        let hidden = self.patches.begin(pixels, self, cx)?;
        let hidden = cx.hooks().dropout(hidden, self.config.hidden_dropout_prob);
        let chain = Chain::new(hidden).layers(&self.layers, [None, None]);
        Ok(chain.then(|x, cx| cx.norm(&self.norm, x)))
    }

    fn image_encoder(&self) -> Option<&dyn ImageEncoder> {
        Some(self)
    }

    /// The class token.
    fn pool(&self, hidden: Tensor<3>, _: &mut Ctx<'_>) -> Option<Tensor<2>> {
        Some(hidden.slice_dim(1, 0..1).squeeze_dim(1))
    }

    fn has_pooler(&self) -> bool {
        true
    }
}

impl ImageEncoder for Dinov2Model {
    fn image_size(&self) -> [usize; 3] {
        let c = &self.config;
        [c.num_channels, c.image_size.height, c.image_size.width]
    }
}

impl Host for Dinov2Model {
    fn architecture(&self) -> &str {
        "dinov2"
    }

    fn class_name(&self) -> &str {
        "Dinov2Model"
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
