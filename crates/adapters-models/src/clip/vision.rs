//! The image model of CLIP.

use super::LAYER;
use crate::checkpoint_folder::CheckpointFolder;
use crate::encoder::{self, EncoderNames};
use crate::image_size::{ImageSize, image_size, patch_size};
use crate::model::Model;
use crate::modeling::*;
use crate::patches::{ImagePatches, patch_kernel};
use crate::standard_layer::{StandardLayer, StandardOptions};
use crate::vision_encoder::{TokenPooler, VisionConfig, VisionEncoder};

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
    /// Checks the values; returns them under the names of ViT, and what the layers have in common.
    pub(crate) fn check(self, path: &Path) -> Result<(VisionConfig, StandardOptions), ModelError> {
        let check = ConfigCheck::new(path);
        check.dropouts([("attention_dropout", self.attention_dropout)])?;
        let vision = VisionConfig {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.hidden_act,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: self.attention_dropout,
            layer_norm_eps: self.layer_norm_eps,
            image_size: self.image_size,
            patch_size: self.patch_size,
            num_channels: self.num_channels,
        };
        vision.check(&check)?;
        for (field, size) in [("image_size", self.image_size), ("patch_size", self.patch_size)] {
            let expected = "one number: the published class reads square images and patches";
            check.require(size.is_square(), field, expected, size)?;
        }
        let options = StandardOptions {
            names: LAYER,
            ..vision.layers(check.activation("hidden_act", &vision.hidden_act)?)
        };
        Ok((vision, options))
    }
}

/// The image model: embeddings with a normalization, layers, and a normalization of the class token.
pub(crate) type ClipVisionModel = VisionEncoder<Vec<StandardLayer>, TokenPooler>;

const NAMES: EncoderNames = EncoderNames {
    model_type: "clip_vision_model",
    class_name: "CLIPVisionModel",
    prefix: "clip.",
    // The checkpoint of both models has these keys in addition.
    unused: &[
        "text_projection.",
        "visual_projection.",
        "logit_scale",
        "text_model.",
        ".embeddings.position_ids",
    ],
    attention: "clip_vision_model_self_prefix",
    classifier: ClassifierLayout::of(ModelKind::ImageEncoder),
};

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let build = |config, path: &Path, weights: &mut Weights| build(config, path, (Stack::Encoder, 0), weights);
    encoder::load_named(&NAMES, Default::default(), (source, device), build)
}

/// Alone or in a larger model, in whose stack the layers are counted from a first one.
pub(super) fn build(
    config: ClipVisionConfig,
    path: &Path,
    (stack, first): (Stack, usize),
    weights: &mut Weights,
) -> Result<ClipVisionModel, ModelError> {
    let (config, options) = config.check(path)?;
    let (d, eps, grid) = (config.hidden_size, config.layer_norm_eps, config.grid());
    let layers = (0..config.num_hidden_layers).map(|index| {
        let name = format!("vision_model.encoder.layers.{index}");
        StandardLayer::build(&options, weights.at(Location::layer(stack, first + index), name))
    });
    let layers = layers.collect();
    let class: Param<Tensor<1>> = weights.tensor("vision_model.embeddings.class_embedding", [d]);
    let positions = "vision_model.embeddings.position_embedding.weight";
    let positions = weights.matrix(positions, grid[0] * grid[1] + 1, d);
    let mut at = weights.at(Location::outside(stack), "vision_model");
    let kernel = patch_kernel(config.num_channels, config.patch_size);
    Ok(VisionEncoder {
        patches: ImagePatches {
            projection: at.convolution("embeddings.patch_embedding", false, kernel, d),
            class_token: Some(Param::from_tensor(class.val().unsqueeze()).set_require_grad(false)),
            positions: Some(Param::from_tensor(positions.val().unsqueeze()).set_require_grad(false)),
            size: config.patch_size,
            grid,
        },
        // The published name.
        first_norm: Some(at.layer_norm(NormRole::EmbeddingNorm, "pre_layrnorm", d, eps)),
        embeddings: None,
        stack: layers,
        norm: None,
        pooler: Some(TokenPooler {
            norm: Some(at.layer_norm(NormRole::FinalNorm, "post_layernorm", d, eps)),
            reads_mean: false,
        }),
        facts: config.facts(NAMES),
    })
}
