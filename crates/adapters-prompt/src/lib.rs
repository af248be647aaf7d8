#![doc = include_str!("../README.md")]

mod compat;
mod config;
mod encoder;
mod error;
mod init;
mod inject;
mod module;
mod peft;
mod virtual_tokens;

use adapters_core::MethodFamily;

pub use compat::PromptTuningWire;
pub use config::{Combine, PromptInit, PromptTuningConfig};
pub use error::PromptError;
pub use inject::{Prompt, PromptFamily};
pub use module::{PromptLayer, VirtualPrompt};
pub use peft::{Reparameterisation, Source, VirtualTokensConfig, VirtualTokensWire};
pub use virtual_tokens::{VirtualTokens, VirtualTokensFamily};

/// The families of this crate.
pub const FAMILIES: [&dyn MethodFamily; 2] = [&PromptFamily, &VirtualTokensFamily];
