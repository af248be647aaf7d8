#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod adaption_prompt;
mod cartridge;
mod codec;
mod eject;
mod layer;
mod prefix_tuning;
#[cfg(test)]
mod tests;
mod vectors;

pub use adaption_prompt::{AdaptionPrompt, AdaptionPromptConfig};
pub use cartridge::CartridgeConfig;
pub use eject::{Ejected, NothingToEject, eject};
pub use layer::Gate;
pub use prefix_tuning::{Definition, PrefixTuningConfig};
