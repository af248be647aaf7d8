//! ViT, from the published configuration to the last hidden state.
//!
//! Paper: *An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale*, Dosovitskiy et al., 2020,
//! <https://arxiv.org/abs/2010.11929>. Behavior follows `ViTModel` of transformers; positions are not interpolated.

use crate::image_size::{ImageSize, image_size, patch_size};
use crate::modeling::*;
use crate::patches::{ImagePatches, patch_kernel};

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
    /// Checks the values against each other and against what is computed here; returns the activations of the feed-forward
    /// blocks and of the pooler.
    fn check(&self, path: &Path) -> Result<[Activation; 2], ModelError> {
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
        let of = |field, name: &str| check.activation(field, name);
        Ok([of("hidden_act", &self.hidden_act)?, of("pooler_act", &self.pooler_act)?])
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
    layers: Vec<VitLayer>,
    norm: Sited<LayerNorm>,
    /// `None` where the checkpoint was saved from a class that has none.
    pooler: Option<Sited<Linear>>,
    #[module(skip)]
    pooler_activation: Activation,
    #[module(skip)]
    config: VitConfig,
}

#[derive(Module, Sites, Debug)]
struct VitLayer {
    attention_norm: Sited<LayerNorm>,
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    attention_output: Sited<Linear>,
    after_attention: Point<ResidualHook>,
    ffn_norm: Sited<LayerNorm>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    dropout: f64,
    #[module(skip)]
    attention: AttentionOptions,
    #[module(skip)]
    activation: Activation,
}

impl FromCheckpoint for VitModel {
    type Config = VitConfig;
    const PREFIX: &'static str = "vit.";

    fn build(config: VitConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let [activation, pooler_activation] = config.check(path)?;
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let layer = |index| VitLayer::build(&config, activation, index, weights);
        let layers = (0..config.num_hidden_layers).map(layer).collect();
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
            pooler: at
                .has("pooler.dense.weight")
                .then(|| at.linear(LinearRole::Pooler, "pooler.dense", [d, d])),
            pooler_activation,
            config,
        })
    }

    /// The heads of larger classes, and what stands for a hidden patch in pretraining.
    fn is_unused(&self, key: &str) -> bool {
        key == "embeddings.mask_token" || key.starts_with("classifier.") || key.starts_with("decoder.")
    }
}

impl VitLayer {
    fn build(c: &VitConfig, activation: Activation, index: usize, weights: &mut Weights) -> Self {
        let mut at = weights.at(Location::layer(Stack::Encoder, index), format!("encoder.layer.{index}"));
        let (d, ffn, eps, bias) = (c.hidden_size, c.intermediate_size, c.layer_norm_eps, c.qkv_bias);
        let (heads, d_head) = (c.num_attention_heads, d / c.num_attention_heads);
        // The checkpoint has no module at the residual connections: these are the names of the reference's adapters.
        Self {
            attention_norm: at.layer_norm(NormRole::AttentionNorm, "layernorm_before", d, eps),
            query: at.linear_with(bias, LinearRole::Query, "attention.attention.query", [d, d]),
            key: at.linear_with(bias, LinearRole::Key, "attention.attention.key", [d, d]),
            value: at.linear_with(bias, LinearRole::Value, "attention.attention.value", [d, d]),
            key_value: at.key_value("attention.attention", heads, d_head),
            attention_output: at.linear(LinearRole::AttentionOutput, "attention.output.dense", [d, d]),
            after_attention: at.residual(ResidualRole::AfterAttention, "attention_adapters", d),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, "layernorm_after", d, eps),
            up: at.linear(LinearRole::FfnUp, "intermediate.dense", [d, ffn]),
            down: at.linear(LinearRole::FfnDown, "output.dense", [ffn, d]),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output.output_adapters", d),
            output: at.layer_output(d),
            dropout: c.hidden_dropout_prob,
            attention: AttentionOptions::new(d_head, c.attention_probs_dropout_prob, 0),
            activation,
        }
    }
}

impl Block for VitLayer {
    type Frame = ();

    fn forward(&self, x: Tensor<3>, _: &(), slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let heads = &self.attention;
        let normed = cx.norm(&self.attention_norm, x.clone());
        // Queries come last, as in the reference: gates are recorded in the order of the calls.
        let key = heads.split(cx.linear(&self.key, normed.clone()));
        let value = heads.split(cx.linear(&self.value, normed.clone()));
        let query = heads.split(cx.linear(&self.query, normed.clone()));
        let attended = heads.attend(query, (key, value), normed, None, (&self.key_value, slot), cx);
        let attended = cx.linear(&self.attention_output, attended);
        let attended = cx.dropout(attended, self.dropout);
        let x = cx.residual(&self.after_attention, attended, x, None);

        let normed = cx.norm(&self.ffn_norm, x.clone());
        let up = cx.linear(&self.up, normed);
        let down = cx.linear(&self.down, self.activation.forward(up));
        let down = cx.dropout(down, self.dropout);
        let x = cx.residual(&self.after_ffn, down, x, None);
        cx.output(&self.output, x)
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
        let chain = Chain::new(state.hidden).layers(&self.layers, ());
        Ok(chain.then(|x, cx| cx.norm(&self.norm, x)))
    }

    fn image_encoder(&self) -> Option<&dyn ImageEncoder> {
        Some(self)
    }

    /// `act(W h_0 + b)` of the first position.
    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        let first = hidden.slice_dim(1, 0..1);
        let pooled = cx.hooks().linear(self.pooler.as_ref()?, first);
        Some(self.pooler_activation.forward(pooled).squeeze_dim(1))
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
