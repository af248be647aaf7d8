//! BEiT, from the published configuration to the last hidden state.
//!
//! Paper: *BEiT: BERT Pre-Training of Image Transformers*, Bao et al., 2021, <https://arxiv.org/abs/2106.08254>. Behavior
//! follows `BeitModel` of transformers; images of another size than `image_size` are refused.

use crate::image_size::{ImageSize, image_size, patch_size};
use crate::modeling::*;
use crate::patches::{ImagePatches, linear_weights, patch_kernel, resampled};
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};

/// `config.json` of a BEiT checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct BeitConfig {
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) hidden_act: String,
    pub(crate) hidden_dropout_prob: f64,
    pub(crate) attention_probs_dropout_prob: f64,
    pub(crate) layer_norm_eps: f64,
    #[serde(deserialize_with = "image_size")]
    pub(crate) image_size: ImageSize,
    #[serde(deserialize_with = "patch_size")]
    pub(crate) patch_size: ImageSize,
    pub(crate) num_channels: usize,
    pub(crate) use_absolute_position_embeddings: bool,
    /// A bias of distances in every layer.
    pub(crate) use_relative_position_bias: bool,
    /// One bias of distances for all layers.
    pub(crate) use_shared_relative_position_bias: bool,
    /// Above zero, each layer has factors for the outputs of its blocks.
    pub(crate) layer_scale_init_value: f64,
    /// Probability that a row skips a block of the last layer, in training; less in those before it.
    pub(crate) drop_path_rate: f64,
    /// Whether the pooler is the mean of the patches, and the model has no normalization after the last layer.
    pub(crate) use_mean_pooling: bool,
}

impl Default for BeitConfig {
    /// The defaults of the published class.
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
            use_absolute_position_embeddings: false,
            use_relative_position_bias: false,
            use_shared_relative_position_bias: false,
            layer_scale_init_value: 0.1,
            drop_path_rate: 0.1,
            use_mean_pooling: true,
        }
    }
}

impl BeitConfig {
    /// Checks the values against each other.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
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
            ("drop_path_rate", self.drop_path_rate),
        ])?;
        check.patches(self.image_size, self.patch_size)?;
        let distances = self.use_relative_position_bias || self.use_shared_relative_position_bias;
        let expected =
            "one number, as there is a relative position bias: the published class has it for square patches";
        check.require(
            self.patch_size.is_square() || !distances,
            "patch_size",
            expected,
            self.patch_size,
        )?;
        check.activation("hidden_act", &self.hidden_act)
    }

    /// Rows and columns of patches.
    fn window(&self) -> [usize; 2] {
        self.image_size / self.patch_size
    }

    /// The class token and the patches.
    fn positions(&self) -> usize {
        let [rows, columns] = self.window();
        rows * columns + 1
    }

    fn layer(&self, index: usize, activation: Activation) -> StandardOptions {
        let steps = self.num_hidden_layers.saturating_sub(1).max(1);
        StandardOptions {
            names: StandardNames {
                scales: (self.layer_scale_init_value > 0.0).then_some(["lambda_1", "lambda_2"]),
                ..StandardNames::VIT
            },
            norm_epsilon: self.layer_norm_eps,
            // Keys have none.
            biases: [true, false, true, true],
            dropouts: [self.hidden_dropout_prob; 2],
            attention_dropout: self.attention_probs_dropout_prob,
            drop_path: self.drop_path_rate * index as f64 / steps as f64,
            ..StandardOptions::of(
                [self.hidden_size, self.num_attention_heads, self.intermediate_size],
                activation,
            )
        }
    }
}

/// BEiT: embeddings, layers, and a normalization or a pooler with one.
#[derive(Module, Sites, Debug)]
pub(crate) struct BeitModel {
    patches: ImagePatches,
    embeddings: Point<EmbeddingHook>,
    layers: Vec<BeitLayer>,
    /// Of all layers.
    shared_bias: Option<Param<Tensor<2>>>,
    /// After the last layer.
    norm: Option<Sited<LayerNorm>>,
    /// Of the mean of the patches; `None` where the checkpoint was saved from a class that has none.
    pooler: Option<Sited<LayerNorm>>,
    #[module(skip)]
    config: BeitConfig,
}

#[derive(Module, Sites, Debug)]
struct BeitLayer {
    layer: StandardLayer,
    /// `[distances, heads]`, learned.
    bias: Option<Param<Tensor<2>>>,
}

/// What the layers read in a pass.
struct Frame {
    /// Which distance lies between each two positions, `[positions * positions]`.
    distances: Tensor<1, Int>,
    /// The bias that all layers share.
    shared: Option<Tensor<4>>,
    /// Rows and columns of patches.
    window: [usize; 2],
    /// Positions that adapters inserted. Distances to them have no bias.
    inserted: Vec<Inserted>,
}

impl FromCheckpoint for BeitModel {
    type Config = BeitConfig;
    const PREFIX: &'static str = "beit.";

    fn build(config: BeitConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let activation = config.check(path)?;
        let (d, eps, window) = (config.hidden_size, config.layer_norm_eps, config.window());
        let table = [distances(window), config.num_attention_heads];
        let layers = (0..config.num_hidden_layers).map(|index| {
            let name = format!("encoder.layer.{index}");
            let mut at = weights.at(Location::layer(Stack::Encoder, index), name);
            let key = "attention.attention.relative_position_bias.relative_position_bias_table";
            let bias = config.use_relative_position_bias.then(|| at.tensor(key, table));
            BeitLayer {
                layer: StandardLayer::build(&config.layer(index, activation), at),
                bias,
            }
        });
        let layers = layers.collect();
        let mut at = weights.at(Location::outside(Stack::Encoder), "");
        let projection = "embeddings.patch_embeddings.projection";
        let positions = "embeddings.position_embeddings";
        let grid = match config.use_absolute_position_embeddings {
            true => ConfigCheck::new(path).position_grid(config.image_size, config.patch_size)?,
            false => window,
        };
        let shared = "encoder.relative_position_bias.relative_position_bias_table";
        let (mean, absolute) = (config.use_mean_pooling, config.use_absolute_position_embeddings);
        Ok(Self {
            patches: ImagePatches {
                projection: at.convolution(
                    projection,
                    true,
                    patch_kernel(config.num_channels, config.patch_size),
                    d,
                ),
                class_token: Some(at.tensor("embeddings.cls_token", [1, 1, d])),
                positions: absolute.then(|| at.tensor(positions, [1, config.positions(), d])),
                size: config.patch_size,
                grid,
            },
            embeddings: at.embedded(EmbeddingRole::Embedding, "embeddings", d),
            layers,
            shared_bias: (config.use_shared_relative_position_bias).then(|| at.tensor(shared, table)),
            norm: (!mean).then(|| at.layer_norm(NormRole::FinalNorm, "layernorm", d, eps)),
            pooler: (mean && at.has("pooler.layernorm.weight"))
                .then(|| at.layer_norm(NormRole::FinalNorm, "pooler.layernorm", d, eps)),
            config,
        })
    }

    /// The heads of larger classes, what stands for a hidden patch in pretraining, and old buffers.
    fn is_unused(&self, key: &str) -> bool {
        let larger = [
            "classifier.",
            "lm_head.",
            "layernorm.",
            "decode_head.",
            "auxiliary_head.",
            "fpn",
        ];
        key == "embeddings.mask_token"
            || key.ends_with("relative_position_index")
            || larger.iter().any(|known| key.starts_with(known))
    }
}

/// Distances between patches of a window, and those from, to and at the class token.
fn distances([rows, columns]: [usize; 2]) -> usize {
    (2 * rows - 1) * (2 * columns - 1) + 3
}

/// Which distance lies between each two positions of a window, row by row of `[positions, positions]`.
fn distance_index(window: [usize; 2]) -> Vec<i64> {
    let ([rows, columns], count) = (window, distances(window) as i64);
    let coordinates = |position: usize| {
        let patch = position - 1;
        ((patch / columns) as i64, (patch % columns) as i64)
    };
    let between = |query: usize, key: usize| match (query, key) {
        (0, 0) => count - 1,
        (0, _) => count - 3,
        (_, 0) => count - 2,
        _ => {
            let ((row, column), (key_row, key_column)) = (coordinates(query), coordinates(key));
            let (down, right) = (rows as i64 - 1, columns as i64 - 1);
            (row - key_row + down) * (2 * right + 1) + column - key_column + right
        }
    };
    let positions = rows * columns + 1;
    let pairs = (0..positions).flat_map(|query| (0..positions).map(move |key| (query, key)));
    pairs.map(|(query, key)| between(query, key)).collect()
}

impl Frame {
    /// The bias of a table, `[1, heads, positions, positions]`, with nothing at inserted positions.
    fn bias(&self, table: Tensor<2>) -> Tensor<4> {
        let [count, heads] = table.dims();
        let positions = self.distances.dims()[0].isqrt();
        let [down, right] = self.window.map(|side| 2 * side - 1);
        let table = match down == right {
            true => table,
            // The published class takes rows for columns and fits the table to the window again.
            false => {
                let between = table.clone().slice_dim(0, 0..down * right);
                let between = resampled(between, [right, down], [down, right], linear_weights);
                Tensor::cat(vec![between, table.slice_dim(0, down * right..count)], 0)
            }
        };
        let bias = table.select(0, self.distances.clone());
        let mut bias = bias
            .reshape([positions, positions, heads])
            .permute([2, 0, 1])
            .unsqueeze::<4>();
        for Inserted { at, count } in &self.inserted {
            for axis in [2, 3] {
                let mut shape = bias.dims();
                let size = std::mem::replace(&mut shape[axis], *count);
                let zeros = Tensor::zeros(shape, &bias.device());
                let [front, behind] = [0..*at, *at..size].map(|part| bias.clone().slice_dim(axis, part));
                bias = Tensor::cat(vec![front, zeros, behind], axis);
            }
        }
        bias
    }
}

impl Block for BeitLayer {
    type Frame = Option<Frame>;

    fn forward(&self, x: Tensor<3>, frame: &Option<Frame>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let own = frame
            .as_ref()
            .zip(self.bias.as_ref())
            .map(|(frame, table)| frame.bias(table.val()));
        let shared = frame.as_ref().and_then(|frame| frame.shared.clone());
        let bias = match (own, shared) {
            (Some(own), Some(shared)) => Some(own + shared),
            (own, shared) => own.or(shared),
        };
        self.layer.forward(x, &[bias, None], slot, cx)
    }
}

impl BeitModel {
    fn frame(&self, inserted: Vec<Inserted>, device: &Device) -> Option<Frame> {
        let c = &self.config;
        (c.use_relative_position_bias || c.use_shared_relative_position_bias).then(|| {
            let index = distance_index(c.window());
            let shape = [index.len()];
            let mut frame = Frame {
                distances: Tensor::from_data(TensorData::new(index, shape), device),
                shared: None,
                window: c.window(),
                inserted,
            };
            frame.shared = self.shared_bias.as_ref().map(|table| frame.bias(table.val()));
            frame
        })
    }
}

impl Transformer for BeitModel {
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
        let device = pixels.device().inner();
        let hidden = self.patches.begin(pixels, self, cx)?;
        let cx = cx.hooks();
        let hidden = cx.dropout(hidden, self.config.hidden_dropout_prob);
        let state = cx.embedding(&self.embeddings, EmbeddingState::new(hidden, None));
        let chain = Chain::new(state.hidden).layers(&self.layers, self.frame(state.inserted, &device));
        Ok(match &self.norm {
            Some(norm) => chain.then(|x, cx| cx.norm(norm, x)),
            None => chain,
        })
    }

    fn image_encoder(&self) -> Option<&dyn ImageEncoder> {
        Some(self)
    }

    /// The normalized mean of the patches, or the class token.
    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        let pooled = match (&self.pooler, self.config.use_mean_pooling) {
            (Some(norm), _) => {
                let last = hidden.dims()[1];
                cx.hooks().norm(norm, hidden.slice_dim(1, 1..last).mean_dim(1))
            }
            (None, true) => return None,
            (None, false) => hidden.slice_dim(1, 0..1),
        };
        Some(pooled.squeeze_dim(1))
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some() || !self.config.use_mean_pooling
    }
}

impl ImageEncoder for BeitModel {
    fn image_size(&self) -> [usize; 3] {
        let c = &self.config;
        [c.num_channels, c.image_size.height, c.image_size.width]
    }
}

impl Host for BeitModel {
    fn architecture(&self) -> &str {
        "beit"
    }

    fn class_name(&self) -> &str {
        "BeitModel"
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
