//! The relatives of LoRA, one type each.

mod scale;

pub use scale::OutputScale;
