#![doc = include_str!("../README.md")]

mod cartridge;
mod codec;
mod eject;
mod layer;
mod prefix_tuning;
#[cfg(test)]
mod tests;
mod vectors;

pub use cartridge::CartridgeConfig;
pub use eject::{Ejected, NothingToEject, eject};
pub use layer::{Gate, PrefixLayer};
pub use prefix_tuning::{Definition, PrefixTuningConfig};
