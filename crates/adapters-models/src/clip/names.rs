//! Published names that the models of CLIP have in common.

use crate::standard_layer::StandardNames;

/// Names of the modules of a layer.
pub(super) const CLIP_LAYER: StandardNames = StandardNames {
    attention_norm: "layer_norm1",
    up: "mlp.fc1",
    down: "mlp.fc2",
    ffn_norm: "layer_norm2",
    ..StandardNames::BART
};

/// The checkpoint of both models has these keys in addition to those of one.
pub(super) fn is_of_the_other(key: &str, other: &str) -> bool {
    ["text_projection.", "visual_projection.", "logit_scale", other]
        .iter()
        .any(|known| key.starts_with(known))
        || key.ends_with("embeddings.position_ids")
}
