//! mBART: BART with norms in front of the blocks.
//!
//! Paper: *Multilingual Denoising Pre-training for Neural Machine Translation*, Liu et al., 2020,
//! <https://arxiv.org/abs/2001.08210>. Behavior follows `MBartModel` and `MBartForConditionalGeneration` of Hugging Face
//! transformers.

use burn::tensor::Device;
use serde_json::json;

use crate::bart::{Variant, load_variant};
use crate::checkpoint_folder::CheckpointFolder;
use crate::error::ModelError;
use crate::model::Model;

const MBART: Variant = Variant {
    model_type: "mbart",
    class_name: "MBartModel",
    norm_first: true,
    off: &[
        "encoder_layerdrop",
        "decoder_layerdrop",
        "add_bias_logits",
        "static_position_embeddings",
        "is_decoder",
    ],
    on: &[
        "tie_word_embeddings",
        "normalize_embedding",
        "normalize_before",
        "add_final_layer_norm",
    ],
};

/// Loads a checkpoint. Where it names no start token, the decoder starts with that of texts, as in the reference.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({"decoder_start_token_id": 0});
    load_variant(MBART, defaults, source, device)
}
