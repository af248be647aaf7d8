//! DINOv2, from the published configuration to the last hidden state.
//!
//! Paper: *DINOv2: Learning Robust Visual Features without Supervision*, Oquab et al., 2023,
//! <https://arxiv.org/abs/2304.07193>. Behavior follows `Dinov2Model` of transformers, which interpolates positions for images
//! of another size than those of training.

use serde_json::json;

use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::encoder::{self, EncoderNames};
use crate::model::Model;
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};
use crate::vision_encoder::{TokenPooler, VisionConfig, VisionEncoder, VisionFacts};

/// `config.json` of a DINOv2 checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Dinov2Config {
    /// Images of `image_size` are those that the positions are for.
    #[serde(flatten)]
    vision: VisionConfig,
    /// Width of the feed-forward block by that of the residual stream.
    mlp_ratio: f64,
    qkv_bias: bool,
    /// Probability that a row skips a block, in training.
    drop_path_rate: f64,
    /// Whether the feed-forward block is gated, by SiLU.
    use_swiglu_ffn: bool,
}

impl Dinov2Config {
    /// Width of the feed-forward block: that of a gated one has two thirds of it, up to a multiple of 8.
    fn intermediate_size(&self) -> usize {
        let width = (self.vision.hidden_size as f64 * self.mlp_ratio) as usize;
        match self.use_swiglu_ffn {
            true => (width * 2 / 3).next_multiple_of(8),
            false => width,
        }
    }

    /// Checks the values against each other; returns what the layers have in common.
    fn check(&mut self, check: &ConfigCheck<'_>) -> Result<StandardOptions, ModelError> {
        let ratio = self.mlp_ratio;
        let holds = (1.0 / 64.0..=64.0).contains(&ratio);
        check.require(holds, "mlp_ratio", "between 1/64 and 64", ratio)?;
        check.sizes([("hidden_size", self.vision.hidden_size)])?;
        self.vision.intermediate_size = self.intermediate_size();
        check.sizes([("hidden_size * mlp_ratio", self.vision.intermediate_size)])?;
        self.vision.check(check)?;
        check.dropouts([("drop_path_rate", self.drop_path_rate)])?;
        let (activation, [up, down]) = match self.use_swiglu_ffn {
            true => (Activation::Silu, ["mlp.weights_in", "mlp.weights_out"]),
            false => {
                let activation = check.activation("hidden_act", &self.vision.hidden_act)?;
                (activation, ["mlp.fc1", "mlp.fc2"])
            }
        };
        Ok(StandardOptions {
            names: StandardNames {
                attention_norm: "norm1",
                up,
                down,
                ffn_norm: "norm2",
                scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
                ..StandardNames::VIT
            },
            gated: self.use_swiglu_ffn,
            biases: [self.qkv_bias, self.qkv_bias, self.qkv_bias, true],
            dropouts: [self.vision.hidden_dropout_prob, 0.0],
            drop_path: self.drop_path_rate,
            ..self.vision.layers(activation)
        })
    }
}

const NAMES: EncoderNames = EncoderNames {
    model_type: "dinov2",
    class_name: "Dinov2Model",
    prefix: "dinov2.",
    // The head of a larger class, and what stands for a hidden patch in pretraining.
    unused: &["embeddings.mask_token", "classifier."],
    attention: "self_prefix",
    classifier: ClassifierLayout::of(ModelKind::ImageEncoder),
};

/// Loads a checkpoint, with the defaults of the published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "layer_norm_eps": 1e-6, "patch_size": 14, "mlp_ratio": 4, "qkv_bias": true, "drop_path_rate": 0.0,
        "use_swiglu_ffn": false,
    }));
    encoder::load_named(&NAMES, defaults, (source, device), build)
}

/// Embeddings, layers and a final normalization.
fn build(
    mut config: Dinov2Config,
    path: &Path,
    weights: &mut Weights,
) -> Result<VisionEncoder<Vec<StandardLayer>, TokenPooler>, ModelError> {
    let check = ConfigCheck::new(path);
    let options = config.check(&check)?;
    let c = &config.vision;
    let grid = check.position_grid(c.image_size, c.patch_size)?;
    let layers = (Stack::Encoder, "encoder.layer");
    let layers = StandardLayer::stack(&options, layers, c.num_hidden_layers, weights);
    let facts = c.facts(NAMES);
    let mut at = weights.at(Location::outside(Stack::Encoder), "");
    Ok(VisionEncoder {
        patches: c.patches(Some(grid), &mut at),
        first_norm: None,
        embeddings: None,
        stack: layers,
        norm: Some(at.layer_norm(NormRole::FinalNorm, "layernorm", c.hidden_size, c.layer_norm_eps)),
        pooler: Some(TokenPooler::CLASS),
        facts: VisionFacts {
            smallest: c.patch_size.is_square().then_some(c.patch_size.height),
            info: ModelInfo {
                max_length: None,
                ..facts.info
            },
            ..facts
        },
    })
}
