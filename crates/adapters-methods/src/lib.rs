#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod by_module;
#[doc(hidden)]
pub mod copies;
mod module_fields;
mod peft_modules;
mod registry;
mod union;
mod with_copies;

/// For [`peft_modules!`].
#[doc(hidden)]
pub use adapters_core as core;

pub use by_module::ByModule;
pub use module_fields::ModuleFields;
pub use peft_modules::PeftModules;
pub use registry::{MethodEntry, Registry};
pub use union::Union;

// For the crates of this workspace.
#[doc(hidden)]
pub use module_fields::{OneOrMany, chooses_among_none};
#[doc(hidden)]
pub use peft_modules::{Fields, name_modules, read_modules};
