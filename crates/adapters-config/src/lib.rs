#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod composition;
mod config_string;
pub mod fields;
mod format;
mod module_pattern;
mod other_tools;
mod preset;
mod text;

pub use composition::{Composition, CompositionError};
pub use config_string::{ConfigString, ConfigStringError, MemberConfig};
pub use fields::ConfigError;
pub use format::{AdapterHub, Format, Peft, StoredConfig};
pub use module_pattern::{ModuleNames, ModulePattern, PatternError};
pub use other_tools::nearest_field;
pub use preset::Preset;

// For the crates of this workspace.
#[doc(hidden)]
pub use fields::LARGEST_SIZE;
#[doc(hidden)]
pub use format::FileFormat;
#[doc(hidden)]
pub use module_pattern::{name_matches, pattern_value};
