//! ELECTRA, generators and discriminators: BERT with embeddings of a width of their own, and without a pooler.
//!
//! Paper: *ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators*, Clark et al., 2020,
//! <https://arxiv.org/abs/2003.10555>. Behavior follows `ElectraModel` of Hugging Face transformers.

use serde_json::json;

use crate::bert::{self, BertConfig, Variant};
use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::encoder::{self, EncoderNames};
use crate::model::Model;
use crate::modeling::*;
use crate::text_embeddings::Counting;

const ELECTRA: EncoderNames = EncoderNames {
    model_type: "electra",
    class_name: "ElectraModel",
    prefix: "electra.",
    unused: &[
        "embeddings.position_ids",
        "generator_predictions.",
        "generator_lm_head.",
        "discriminator_predictions.",
        "classifier.",
        "qa_outputs.",
    ],
    classifier: ClassifierLayout {
        hidden: Some(("classifier.dense", "gelu")),
        last: "classifier.out_proj",
        bias: true,
        reads_pooler: false,
        prefixed: true,
    },
    ..bert::NAMES
};

/// The configuration: BERT's, and the width of the embeddings.
#[derive(Deserialize)]
struct ElectraConfig {
    embedding_size: usize,
    #[serde(flatten)]
    bert: BertConfig,
}

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
    }));
    encoder::load(
        &ELECTRA,
        defaults,
        (source, device),
        |config: ElectraConfig, path, weights| {
            let ElectraConfig { embedding_size, bert } = config;
            ConfigCheck::new(path).sizes([("embedding_size", embedding_size)])?;
            let variant = Variant {
                names: ELECTRA,
                projection: (embedding_size != bert.hidden_size).then_some((embedding_size, "embeddings_project")),
                counting: Counting::FromZero,
                adds_positions: false,
                masked_lm: Some(MaskedLmLayout {
                    dense: "generator_predictions.dense",
                    norm: "generator_predictions.LayerNorm",
                    decoder: "generator_lm_head",
                    bias: Some("generator_lm_head.bias"),
                    activation: Some("gelu".into()),
                    ..MaskedLmLayout::BIASED
                }),
            };
            variant.build(bert, path, weights)
        },
    )
}
