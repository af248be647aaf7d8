#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod copies;
mod module_fields;
mod peft_modules;
mod registry;
mod union;

/// For [`peft_modules!`].
#[doc(hidden)]
pub use adapters_core as core;

pub use module_fields::{ModuleFields, OneOrMany, chooses_among_none};
pub use peft_modules::{Fields, PeftModules, name_modules, read_modules};
pub use registry::{MethodEntry, Registry};
pub use union::Union;
