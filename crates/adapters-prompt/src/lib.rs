#![doc = include_str!("../README.md")]

mod config;
mod error;
mod wire;

pub use config::{Combine, PromptInit, PromptTuningConfig};
pub use error::PromptError;
pub use wire::PromptTuningWire;
