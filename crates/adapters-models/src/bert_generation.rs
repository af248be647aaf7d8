//! The encoder of BertGeneration: BERT without token types and without a pooler.
//!
//! Paper: *Leveraging Pre-trained Checkpoints for Sequence Generation Tasks*, Rothe et al., 2019,
//! <https://arxiv.org/abs/1907.12461>. Behavior follows `BertGenerationEncoder` of Hugging Face transformers.

use serde_json::json;

use crate::bert::{self, BertConfig, Variant};
use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::encoder::{self, EncoderNames};
use crate::model::Model;
use crate::modeling::*;
use crate::text_embeddings::Counting;

const BERT_GENERATION: EncoderNames = EncoderNames {
    model_type: "bert-generation",
    class_name: "BertGenerationEncoder",
    unused: &["embeddings.position_ids", "lm_head."],
    ..bert::NAMES
};

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "vocab_size": 50358, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096,
    }));
    let build = |config: BertConfig, path: &Path, weights: &mut Weights| {
        let variant = Variant {
            names: BERT_GENERATION,
            projection: None,
            counting: Counting::FromZero,
            adds_positions: true,
            masked_lm: None,
        };
        // Whatever the file says of token types, the published class has none.
        let config = BertConfig {
            type_vocab_size: 0,
            ..config
        };
        variant.build(config, path, weights)
    };
    encoder::load(&BERT_GENERATION, defaults, (source, device), build)
}
