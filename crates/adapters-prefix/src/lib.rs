#![doc = include_str!("../README.md")]

mod compat;
mod config;
mod eject;
mod error;
mod init;
mod inject;
mod module;

pub use compat::{PeftPrefixWire, PrefixTuningWire};
pub use config::{ACTIVATIONS, Form, Gating, PrefixTuningConfig, Reparametrization};
pub use eject::{Ejected, eject};
pub use error::PrefixError;
pub use inject::{Prefix, PrefixFamily};
pub use module::{Gate, PrefixLayer};
