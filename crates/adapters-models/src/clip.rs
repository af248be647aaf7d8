//! CLIP: the text model, the image model, and both with the scores of images and texts.
//!
//! Paper: *Learning Transferable Visual Models From Natural Language Supervision*, Radford et al., 2021,
//! <https://arxiv.org/abs/2103.00020>. Behavior follows `CLIPTextModel`, `CLIPVisionModel` and `CLIPModel` of transformers;
//! images of another size than `image_size` are refused.

mod dual;
mod names;
mod text;
mod vision;

pub(crate) use dual::ClipModel;
pub(crate) use text::ClipTextModel;
pub(crate) use vision::{ClipVisionConfig, ClipVisionModel};
