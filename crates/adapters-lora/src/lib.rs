#![doc = include_str!("../README.md")]

mod build;
mod combine;
mod compat;
mod config;
mod fused;
mod init;
mod inject;
mod module;
mod origin;
mod places;
mod table;
pub mod variants;

pub use adapters_core::ConfigError;
pub use combine::{Combination, SignElection};
pub use compat::{LoraWire, PeftIa3Wire, PeftLoraWire, PeftVeraWire, WireMode};
pub use config::{BiasTraining, Dtype, Init, LoraConfig, Scaling};
pub use fused::FusedParts;
pub use inject::{Lora, LoraFamily};
pub use module::{Factored, Gate, LowRank, Origin};
pub use places::{AttentionMatrix, LoraTarget, Places};
pub use table::LowRankTable;
