//! BEiT, from the published configuration to the last hidden state.
//!
//! Paper: *BEiT: BERT Pre-Training of Image Transformers*, Bao et al., 2021, <https://arxiv.org/abs/2106.08254>. Behavior
//! follows `BeitModel` of transformers; images of another size than `image_size` are refused.

use serde_json::json;

use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::encoder::{self, EncoderNames, EncoderStack};
use crate::model::Model;
use crate::modeling::*;
use crate::patches::{linear_weights, resampled};
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};
use crate::vision_encoder::{TokenPooler, VisionConfig, VisionEncoder};

/// `config.json` of a BEiT checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct BeitConfig {
    #[serde(flatten)]
    vision: VisionConfig,
    use_absolute_position_embeddings: bool,
    /// A bias of distances in every layer.
    use_relative_position_bias: bool,
    /// One bias of distances for all layers.
    use_shared_relative_position_bias: bool,
    /// Above zero, each layer has factors for the outputs of its blocks.
    layer_scale_init_value: f64,
    /// Probability that a row skips a block of the last layer, in training; less in those before it.
    drop_path_rate: f64,
    /// Whether the pooler is the mean of the patches, and the model has no normalization after the last layer.
    use_mean_pooling: bool,
}

impl BeitConfig {
    /// Checks the values against each other; returns the options of a layer.
    fn check(&self, check: &ConfigCheck<'_>) -> Result<impl Fn(usize) -> StandardOptions, ModelError> {
        let vision = &self.vision;
        vision.check(check)?;
        check.dropouts([("drop_path_rate", self.drop_path_rate)])?;
        let distances = self.use_relative_position_bias || self.use_shared_relative_position_bias;
        let expected =
            "one number, as there is a relative position bias: the published class has it for square patches";
        let (patch, drop_path) = (vision.patch_size, self.drop_path_rate);
        check.require(patch.is_square() || !distances, "patch_size", expected, patch)?;
        let options = StandardOptions {
            names: StandardNames {
                scales: (self.layer_scale_init_value > 0.0).then_some(["lambda_1", "lambda_2"]),
                ..StandardNames::VIT
            },
            // Keys have none.
            biases: [true, false, true, true],
            ..vision.layers(check.activation("hidden_act", &vision.hidden_act)?)
        };
        let steps = vision.num_hidden_layers.saturating_sub(1).max(1);
        Ok(move |index| StandardOptions {
            drop_path: drop_path * index as f64 / steps as f64,
            ..options
        })
    }
}

/// The layers, and what they read of distances.
#[derive(Module, Sites, Debug)]
struct BeitStack {
    layers: Vec<BeitLayer>,
    /// Of all layers.
    shared_bias: Option<Param<Tensor<2>>>,
    /// Rows and columns of patches.
    #[module(skip)]
    window: [usize; 2],
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

const NAMES: EncoderNames = EncoderNames {
    model_type: "beit",
    class_name: "BeitModel",
    prefix: "beit.",
    // The heads of larger classes, what stands for a hidden patch in pretraining, and old buffers.
    unused: &[
        "classifier.",
        "lm_head.",
        "layernorm.",
        "decode_head.",
        "auxiliary_head.",
        "fpn",
        "embeddings.mask_token",
        ".relative_position_index",
    ],
    attention: "self_prefix",
    classifier: ClassifierLayout::of(ModelKind::ImageEncoder),
};

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "use_absolute_position_embeddings": false, "use_relative_position_bias": false,
        "use_shared_relative_position_bias": false, "layer_scale_init_value": 0.1, "drop_path_rate": 0.1,
        "use_mean_pooling": true,
    }));
    encoder::load_named(&NAMES, defaults, (source, device), build)
}

/// Embeddings, layers, and a normalization or a pooler with one.
fn build(
    config: BeitConfig,
    path: &Path,
    weights: &mut Weights,
) -> Result<VisionEncoder<BeitStack, TokenPooler>, ModelError> {
    let (c, check) = (&config.vision, ConfigCheck::new(path));
    let options = config.check(&check)?;
    let (d, eps, window) = (c.hidden_size, c.layer_norm_eps, c.grid());
    let table = [distances(window), c.num_attention_heads];
    let layers = (0..c.num_hidden_layers).map(|index| {
        let name = format!("encoder.layer.{index}");
        let mut at = weights.at(Location::layer(Stack::Encoder, index), name);
        let key = "attention.attention.relative_position_bias.relative_position_bias_table";
        let bias = config.use_relative_position_bias.then(|| at.tensor(key, table));
        BeitLayer {
            layer: StandardLayer::build(&options(index), at),
            bias,
        }
    });
    let layers = layers.collect();
    let mut at = weights.at(Location::outside(Stack::Encoder), "");
    let positions = match config.use_absolute_position_embeddings {
        true => Some(check.position_grid(c.image_size, c.patch_size)?),
        false => None,
    };
    let shared = "encoder.relative_position_bias.relative_position_bias_table";
    let mean = config.use_mean_pooling;
    Ok(VisionEncoder {
        patches: c.patches(positions, &mut at),
        first_norm: None,
        embeddings: Some(at.embedded(EmbeddingRole::Embedding, "embeddings", d)),
        stack: BeitStack {
            layers,
            shared_bias: (config.use_shared_relative_position_bias).then(|| at.tensor(shared, table)),
            window,
        },
        norm: (!mean).then(|| at.layer_norm(NormRole::FinalNorm, "layernorm", d, eps)),
        pooler: match mean {
            true => at.has("pooler.layernorm.weight").then(|| TokenPooler {
                norm: Some(at.layer_norm(NormRole::FinalNorm, "pooler.layernorm", d, eps)),
                reads_mean: true,
            }),
            false => Some(TokenPooler::CLASS),
        },
        facts: c.facts(NAMES),
    })
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

impl EncoderStack for BeitStack {
    fn chain(&self, embedded: EmbeddingState, _: Option<Tensor<4>>, _: &mut Hooks<'_>) -> Chain<'_> {
        let device = embedded.hidden.device().inner();
        let has_bias = self.shared_bias.is_some() || self.layers.iter().any(|layer| layer.bias.is_some());
        let frame = has_bias.then(|| {
            let index = distance_index(self.window);
            let shape = [index.len()];
            let mut frame = Frame {
                distances: Tensor::from_data(TensorData::new(index, shape), &device),
                shared: None,
                window: self.window,
                inserted: embedded.inserted,
            };
            frame.shared = self.shared_bias.as_ref().map(|table| frame.bias(table.val()));
            frame
        });
        Chain::new(embedded.hidden).layers(&self.layers, frame)
    }
}
