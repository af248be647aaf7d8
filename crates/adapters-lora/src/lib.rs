#![doc = include_str!("../README.md")]

mod compat;
mod config;
mod error;
mod init;
mod inject;
mod merge;
mod module;
pub mod variants;

pub use compat::{LoraWire, OneOrMany, PeftLoraWire, WireInit, WireMode};
pub use config::{AttentionMatrix, Dtype, Init, LoraConfig, LoraTarget, Mode, Places, Scaling};
pub use error::LoraError;
pub use inject::{Lora, LoraFamily};
pub use module::{Gate, LowRank};
