//! CLIP: the text model, the image model, and both with the scores of images and texts.
//!
//! Paper: *Learning Transferable Visual Models From Natural Language Supervision*, Radford et al., 2021,
//! <https://arxiv.org/abs/2103.00020>. Behavior follows `CLIPTextModel`, `CLIPVisionModel` and `CLIPModel` of transformers;
//! images of another size than `image_size` are refused.

mod dual;
mod text;
mod vision;

use crate::standard_layer::StandardNames;

pub use dual::{ClipConfig, ClipModel};
pub use text::{ClipTextConfig, ClipTextModel};
pub use vision::{ClipVisionConfig, ClipVisionModel};

/// Names of the modules of a layer.
pub(crate) const CLIP_LAYER: StandardNames = StandardNames {
    attention_norm: "layer_norm1",
    up: "mlp.fc1",
    down: "mlp.fc2",
    ffn_norm: "layer_norm2",
    ..StandardNames::BART
};

/// The checkpoint of both models has these keys beside those of one.
fn is_of_the_other(key: &str, other: &str) -> bool {
    ["text_projection.", "visual_projection.", "logit_scale", other]
        .iter()
        .any(|known| key.starts_with(known))
        || key.ends_with("embeddings.position_ids")
}
