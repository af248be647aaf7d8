//! ViT, from the published configuration to the last hidden state.
//!
//! Paper: *An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale*, Dosovitskiy et al., 2020,
//! <https://arxiv.org/abs/2010.11929>. Behavior follows `ViTModel` of Hugging Face transformers. Positions are not
//! interpolated: images have the size of the configuration.

use crate::modeling::*;

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
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
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
    /// The defaults of the published class (ViT base, 16 by 16 patches of 224 by 224 pixels).
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
            image_size: 224,
            patch_size: 16,
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
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("num_channels", self.num_channels),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        check.dropouts([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ])?;
        let expected = format!("at most image_size = {}", self.image_size);
        check.require(
            self.patch_size <= self.image_size,
            "patch_size",
            expected,
            self.patch_size,
        )?;
        let pooled = self.pooler_output_size.unwrap_or(self.hidden_size);
        let expected = format!("hidden_size = {}", self.hidden_size);
        check.require(pooled == self.hidden_size, "pooler_output_size", expected, pooled)?;
        Ok([self.hidden_act.parse()?, self.pooler_act.parse()?])
    }

    /// The class token and the patches. Pixels beyond the last whole patch are not read.
    fn positions(&self) -> usize {
        let patches = self.image_size / self.patch_size;
        patches * patches + 1
    }
}

/// ViT: embeddings, layers, a last normalization and, where the checkpoint has one, a pooler.
#[derive(Module, Sites, Debug)]
pub struct VitModel {
    embeddings: VitEmbeddings,
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
struct VitEmbeddings {
    patches: Conv2d,
    class_token: Param<Tensor<3>>,
    positions: Param<Tensor<3>>,
    output: Point<EmbeddingHook>,
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
        let outside = Location::outside(Stack::Encoder);
        let mut at = weights.at(outside, "embeddings");
        let channels = [config.num_channels, d];
        let embeddings = VitEmbeddings {
            patches: at.patch_convolution("patch_embeddings.projection", channels, config.patch_size),
            class_token: at.tensor("cls_token", [1, 1, d]),
            positions: at.tensor("position_embeddings", [1, config.positions(), d]),
            output: at.embedded(EmbeddingRole::Embedding, "", d),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| {
                let location = Location::layer(Stack::Encoder, index);
                VitLayer::build(
                    &config,
                    activation,
                    weights.at(location, format!("encoder.layer.{index}")),
                )
            })
            .collect();
        let norm = weights
            .at(outside, "")
            .layer_norm(NormRole::FinalNorm, "layernorm", d, eps);
        let mut at = weights.at(outside, "pooler");
        let pooler = at
            .has("dense.weight")
            .then(|| at.linear(LinearRole::Pooler, "dense", [d, d]));
        Ok(Self {
            embeddings,
            layers,
            norm,
            pooler,
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
    fn build(config: &VitConfig, activation: Activation, mut at: Scope<'_>) -> Self {
        let (d, ffn, eps, bias) = (
            config.hidden_size,
            config.intermediate_size,
            config.layer_norm_eps,
            config.qkv_bias,
        );
        let (heads, d_head) = (config.num_attention_heads, d / config.num_attention_heads);
        // The residual connections have no module of their own in the published checkpoint: these are the names of the
        // reference's adapters.
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
            dropout: config.hidden_dropout_prob,
            attention: AttentionOptions::new(d_head, config.attention_probs_dropout_prob, 0),
            activation,
        }
    }
}

impl Block for VitLayer {
    type Frame = ();

    fn forward(&self, x: Tensor<3>, _: &(), slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let heads = &self.attention;
        let normed = cx.norm(&self.attention_norm, x.clone());
        let query = heads.split(cx.linear(&self.query, normed.clone()));
        let key = heads.split(cx.linear(&self.key, normed.clone()));
        let value = heads.split(cx.linear(&self.value, normed.clone()));
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

impl VitEmbeddings {
    /// The class token and the patches, row by row, each with its position:
    /// `[batch, channels, height, width] -> [batch, 1 + patches, d_model]`
    fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let [batch, ..] = pixels.dims();
        let patches: Tensor<3> = self.patches.forward(pixels).flatten(2, 3);
        let class_token = self.class_token.val().repeat_dim(0, batch);
        Tensor::cat(vec![class_token, patches.swap_dims(1, 2)], 1) + self.positions.val()
    }
}

impl Transformer for VitModel {
    type Input = ImageInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: c.positions(),
            head_norm_epsilon: c.layer_norm_eps,
            head_dropout: c.hidden_dropout_prob,
            activation: c.hidden_act.clone(),
            ..ModelInfo::default()
        }
    }

    fn chain(&self, input: ImageInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let ([_, found @ ..], expected) = (input.pixels.dims(), self.image_size());
        if found != expected {
            let architecture = self.architecture().to_owned();
            return Err(Error::ImageSize {
                architecture,
                expected,
                found,
            });
        }
        // Nothing attaches to pixels and patches: for adapters the pass begins with the embeddings.
        let (cx, hidden) = cx.begin(self, self.embeddings.forward(input.pixels))?;
        let hidden = cx.dropout(hidden, self.config.hidden_dropout_prob);
        let state = cx.embedding(&self.embeddings.output, EmbeddingState::new(hidden, None));
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
        [c.num_channels, c.image_size, c.image_size]
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
