#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod beft;
mod ln_tuning;
mod shira;
mod sparse;
mod supertuning;
mod trainable_tokens;

pub use beft::Beft;
pub use ln_tuning::LnTuning;
pub use shira::{Elements, Shira};
pub use supertuning::{Indices, Supertuning};
pub use trainable_tokens::TrainableTokens;
