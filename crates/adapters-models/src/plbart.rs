//! PLBART: BART with other defaults.
//!
//! Paper: *Unified Pre-training for Program Understanding and Generation*, Ahmad et al., 2021,
//! <https://arxiv.org/abs/2103.06333>. Behavior follows `PLBartModel` and `PLBartForConditionalGeneration` of Hugging Face
//! transformers.

use burn::tensor::Device;
use serde_json::json;

use crate::bart::{BART, Variant, load_variant};
use crate::checkpoint_folder::CheckpointFolder;
use crate::error::ModelError;
use crate::model::Model;

const PLBART: Variant = Variant {
    model_type: "plbart",
    class_name: "PLBartModel",
    ..BART
};

/// Loads a checkpoint, with the defaults of its published class.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = json!({
        "vocab_size": 50005, "d_model": 768, "encoder_layers": 6, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072,
        "decoder_layers": 6, "decoder_attention_heads": 12, "decoder_ffn_dim": 3072, "attention_dropout": 0.1,
        "scale_embedding": true, "decoder_start_token_id": 0,
    });
    load_variant(PLBART, defaults, source, device)
}
