//! The image model of SigLIP, from the published configuration to the last hidden state.
//!
//! Paper: *Sigmoid Loss for Language Image Pre-Training*, Zhai et al., 2023, <https://arxiv.org/abs/2303.15343>. Behavior
//! follows `SiglipVisionModel` of transformers; images of another size than `image_size` are refused.

use adapters_core::KeyValueState;
use serde_json::json;

use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::clip::ClipVisionConfig;
use crate::model::Model;
use crate::modeling::*;
use crate::patches::{ImagePatches, patch_kernel};
use crate::standard_layer::StandardLayer;

/// SigLIP's image model: embeddings, layers, a final normalization and a pooler, in which a learned vector attends to all
/// patches.
#[derive(Module, Sites, Debug)]
pub(crate) struct SiglipVisionModel {
    patches: ImagePatches,
    layers: Vec<StandardLayer>,
    norm: Sited<LayerNorm>,
    /// `None` where the checkpoint was saved from a class that has none.
    head: Option<AttentionPooler>,
    #[module(skip)]
    config: ClipVisionConfig,
}

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

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    }));
    load_relative(source, device, defaults, SiglipVisionModel::build)
}

impl FromCheckpoint for SiglipVisionModel {
    type Config = ClipVisionConfig;
    const PREFIX: &'static str = "siglip.";

    fn build(config: ClipVisionConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let options = config.check(path)?;
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let layers = config.layers(&options, (Stack::Encoder, 0), weights);
        let positions = weights.matrix("vision_model.embeddings.position_embedding.weight", config.patches(), d);
        let mut at = weights.at(Location::outside(Stack::Encoder), "vision_model");
        let kernel = patch_kernel(config.num_channels, config.patch_size);
        let has_head = at.has("head.probe");
        Ok(Self {
            patches: ImagePatches {
                projection: at.convolution("embeddings.patch_embedding", true, kernel, d),
                class_token: None,
                positions: Some(Param::from_tensor(positions.val().unsqueeze()).set_require_grad(false)),
                size: config.patch_size,
                grid: config.grid(),
            },
            layers,
            norm: at.layer_norm(NormRole::FinalNorm, "post_layernorm", d, eps),
            head: has_head.then(|| AttentionPooler {
                probe: at.tensor("head.probe", [1, 1, d]),
                projections: at.tensor("head.attention.in_proj_weight", [3 * d, d]),
                biases: at.tensor("head.attention.in_proj_bias", [3 * d]),
                output: at.linear(LinearRole::AttentionOutput, "head.attention.out_proj", [d, d]),
                norm: at.plain_layer_norm("head.layernorm", d, eps),
                up: at.linear(LinearRole::FfnUp, "head.mlp.fc1", [d, config.intermediate_size]),
                down: at.linear(LinearRole::FfnDown, "head.mlp.fc2", [config.intermediate_size, d]),
                attention: AttentionOptions::new(d / options.heads, 0.0, 0),
                activation: options.activation,
            }),
            config,
        })
    }

    /// What the checkpoint of both models has in addition to those of the image model, and the head of a larger class.
    fn is_unused(&self, key: &str) -> bool {
        let larger = ["text_model.", "logit_scale", "logit_bias", "classifier."];
        larger.iter().any(|known| key.starts_with(known)) || key.ends_with("embeddings.position_ids")
    }
}

impl AttentionPooler {
    fn forward(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
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
        pooled + cx.linear(&self.down, up)
    }
}

impl Transformer for SiglipVisionModel {
    type Input = ImageInput;

    fn info(&self) -> ModelInfo {
        self.config.info(self.config.patches())
    }

    fn chain(&self, input: ImageInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let pixels = input.of_size(self.image_size(), self)?;
        let hidden = self.patches.begin(pixels, self, cx)?;
        let chain = Chain::new(hidden).layers(&self.layers, [None, None]);
        Ok(chain.then(|x, cx| cx.norm(&self.norm, x)))
    }

    fn image_encoder(&self) -> Option<&dyn ImageEncoder> {
        Some(self)
    }

    /// What the learned vector makes of all patches.
    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        Some(self.head.as_ref()?.forward(hidden, cx.hooks()).squeeze_dim(1))
    }

    fn has_pooler(&self) -> bool {
        self.head.is_some()
    }
}

impl ImageEncoder for SiglipVisionModel {
    fn image_size(&self) -> [usize; 3] {
        self.config.image()
    }
}

impl Host for SiglipVisionModel {
    fn architecture(&self) -> &str {
        "siglip_vision_model"
    }

    fn class_name(&self) -> &str {
        "SiglipVisionModel"
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
}
