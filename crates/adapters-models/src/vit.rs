//! ViT, from the published configuration to the last hidden state.
//!
//! Paper: *An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale*, Dosovitskiy et al., 2020,
//! <https://arxiv.org/abs/2010.11929>. Behavior follows `ViTModel` of transformers; positions are not interpolated.

use crate::encoder::{EncoderNames, Pooler};
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};
use crate::vision_encoder::{VisionConfig, VisionEncoder};

/// `config.json` of a ViT checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VitConfig {
    /// The fields that its relatives have, too.
    #[serde(flatten)]
    pub vision: VisionConfig,
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
            vision: VisionConfig::default(),
            qkv_bias: true,
            pooler_output_size: None,
            pooler_act: "tanh".to_owned(),
        }
    }
}

/// ViT: embeddings, layers, a final normalization and a pooler.
pub type VitModel = VisionEncoder<Vec<StandardLayer>, Pooler>;

const NAMES: EncoderNames = EncoderNames {
    model_type: "vit",
    class_name: "ViTModel",
    prefix: VitModel::PREFIX,
    // The heads of larger classes, and what stands for a hidden patch in pretraining.
    unused: &["embeddings.mask_token", "classifier.", "decoder."],
    attention: "self_prefix",
    classifier: ClassifierLayout::of(ModelKind::ImageEncoder),
};

impl FromCheckpoint for VitModel {
    type Config = VitConfig;
    const PREFIX: &'static str = "vit.";

    fn build(config: VitConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let (c, check) = (&config.vision, ConfigCheck::new(path));
        c.check(&check)?;
        let d = c.hidden_size;
        let pooled = config.pooler_output_size.unwrap_or(d);
        check.require(pooled == d, "pooler_output_size", format!("hidden_size = {d}"), pooled)?;
        let options = StandardOptions {
            names: StandardNames {
                after: ["attention_adapters", "", "output.output_adapters"],
                ..StandardNames::VIT
            },
            biases: [config.qkv_bias, config.qkv_bias, config.qkv_bias, true],
            query_last: true,
            ..c.layers(check.activation("hidden_act", &c.hidden_act)?)
        };
        let layers = (Stack::Encoder, "encoder.layer");
        let layers = StandardLayer::stack(&options, layers, c.num_hidden_layers, weights);
        let activation = check.activation("pooler_act", &config.pooler_act)?;
        let pooler = Pooler::build("pooler.dense", d, activation, weights);
        let mut at = weights.at(Location::outside(Stack::Encoder), "");
        Ok(Self {
            patches: c.patches(Some(c.grid()), &mut at),
            first_norm: None,
            embeddings: Some(at.embedded(EmbeddingRole::Embedding, "embeddings", d)),
            stack: layers,
            norm: Some(at.layer_norm(NormRole::FinalNorm, "layernorm", d, c.layer_norm_eps)),
            pooler,
            facts: c.facts(NAMES),
        })
    }

    fn is_unused(&self, key: &str) -> bool {
        NAMES.is_unused(key)
    }
}
