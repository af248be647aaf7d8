#![doc = include_str!("../README.md")]

mod ln_tuning;
mod trainable_tokens;

pub use ln_tuning::LnTuning;
pub use trainable_tokens::{TokenRows, TrainableTokens};
