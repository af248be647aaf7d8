//! The image model of SigLIP, from the published configuration to the last hidden state.
//!
//! Paper: *Sigmoid Loss for Language Image Pre-Training*, Zhai et al., 2023, <https://arxiv.org/abs/2303.15343>. Behavior
//! follows `SiglipVisionModel` of transformers; images of another size than `image_size` are refused.

use adapters_core::KeyValueState;
use serde_json::json;

use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::clip::ClipVisionConfig;
use crate::encoder::{self, EncoderNames};
use crate::model::Model;
use crate::modeling::*;
use crate::patches::{ImagePatches, patch_kernel};
use crate::standard_layer::StandardLayer;
use crate::vision_encoder::{ImagePooler, VisionEncoder, VisionFacts};

/// `p + mlp(norm(p))` of what a learned vector reads of all patches, `p`.
#[derive(Module, Sites, Debug)]
struct AttentionPooler {
    /// `[1, 1, d_model]`.
    probe: Param<Tensor<3>>,
    /// Query, key and value projections below each other, `[3 d_model, d_model]`, and their biases.
    projections: Param<Tensor<2>>,
    biases: Param<Tensor<1>>,
    output: Sited<Linear>,
    norm: LayerNorm,
    up: Sited<Linear>,
    down: Sited<Linear>,
    #[module(skip)]
    attention: AttentionOptions,
    #[module(skip)]
    activation: Activation,
}

const NAMES: EncoderNames = EncoderNames {
    model_type: "siglip_vision_model",
    class_name: "SiglipVisionModel",
    prefix: "siglip.",
    // What the checkpoint of both models has in addition to those of the image model, and the head of a larger class.
    unused: &[
        "text_model.",
        "logit_scale",
        "logit_bias",
        "classifier.",
        ".embeddings.position_ids",
    ],
    attention: "self_prefix",
    classifier: ClassifierLayout::of(ModelKind::ImageEncoder),
};

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    }));
    encoder::load_named(&NAMES, defaults, (source, device), build)
}

/// Embeddings without a class token, layers, a final normalization, and a pooler in which a learned vector attends to all patches.
fn build(
    config: ClipVisionConfig,
    path: &Path,
    weights: &mut Weights,
) -> Result<VisionEncoder<Vec<StandardLayer>, AttentionPooler>, ModelError> {
    let (config, options) = config.check(path)?;
    let (d, d_ffn, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
    let layers = (Stack::Encoder, "vision_model.encoder.layers");
    let layers = StandardLayer::stack(&options, layers, config.num_hidden_layers, weights);
    let (grid, facts) = (config.grid(), config.facts(NAMES));
    let positions = grid[0] * grid[1];
    let table = weights.matrix("vision_model.embeddings.position_embedding.weight", positions, d);
    let mut at = weights.at(Location::outside(Stack::Encoder), "vision_model");
    let kernel = patch_kernel(config.num_channels, config.patch_size);
    Ok(VisionEncoder {
        patches: ImagePatches {
            projection: at.convolution("embeddings.patch_embedding", true, kernel, d),
            class_token: None,
            positions: Some(Param::from_tensor(table.val().unsqueeze()).set_require_grad(false)),
            size: config.patch_size,
            grid,
        },
        first_norm: None,
        embeddings: None,
        stack: layers,
        norm: Some(at.layer_norm(NormRole::FinalNorm, "post_layernorm", d, eps)),
        pooler: at.has("head.probe").then(|| AttentionPooler {
            probe: at.tensor("head.probe", [1, 1, d]),
            projections: at.tensor("head.attention.in_proj_weight", [3 * d, d]),
            biases: at.tensor("head.attention.in_proj_bias", [3 * d]),
            output: at.linear(LinearRole::AttentionOutput, "head.attention.out_proj", [d, d]),
            norm: at.plain_layer_norm("head.layernorm", d, eps),
            up: at.linear(LinearRole::FfnUp, "head.mlp.fc1", [d, d_ffn]),
            down: at.linear(LinearRole::FfnDown, "head.mlp.fc2", [d_ffn, d]),
            attention: AttentionOptions::new(d / options.heads, 0.0, 0),
            activation: options.activation,
        }),
        facts: VisionFacts {
            info: ModelInfo {
                max_length: Some(positions),
                ..facts.info
            },
            ..facts
        },
    })
}

impl ImagePooler for AttentionPooler {
    /// What the learned vector makes of all patches.
    fn pool(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<2> {
        let d = hidden.dims()[2];
        let probe = self.probe.val().repeat_dim(0, hidden.dims()[0]);
        let projected = |index: usize, x: Tensor<3>| {
            let rows = index * d..(index + 1) * d;
            let bias = self.biases.val().slice_dim(0, rows.clone());
            self.attention
                .split(ops::affine(x, self.projections.val().slice_dim(0, rows), bias))
        };
        let (query, key) = (projected(0, probe), projected(1, hidden.clone()));
        let value = projected(2, hidden.clone());
        let read = self
            .attention
            .weighted(query, KeyValueState::new(key, value, hidden), cx);
        let pooled = cx.linear(&self.output, read);
        let normed = ops::layer_norm(&self.norm, pooled.clone());
        let up = self.activation.forward(cx.linear(&self.up, normed));
        (pooled + cx.linear(&self.down, up)).squeeze_dim(1)
    }
}
