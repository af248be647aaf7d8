//! CLIP: the text model, the image model, and both with the scores of images and texts.
//!
//! Paper: *Learning Transferable Visual Models From Natural Language Supervision*, Radford et al., 2021,
//! <https://arxiv.org/abs/2103.00020>. Behavior follows `CLIPTextModel`, `CLIPVisionModel` and `CLIPModel` of transformers;
//! images of another size than `image_size` are refused.

mod dual;
mod text;
mod vision;

pub(crate) use dual::ClipModel;
pub(crate) use text::ClipTextModel;
pub(crate) use vision::{ClipVisionConfig, load as load_vision};

use crate::standard_layer::StandardNames;

/// Names of the modules of a layer.
const LAYER: StandardNames = StandardNames {
    attention_norm: "layer_norm1",
    up: "mlp.fc1",
    down: "mlp.fc2",
    ffn_norm: "layer_norm2",
    ..StandardNames::BART
};
