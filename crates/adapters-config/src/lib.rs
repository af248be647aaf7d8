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
mod preset;
mod text;

pub use composition::{Composition, CompositionError};
pub use config_string::{ConfigString, ConfigStringError, MemberConfig};
pub use fields::{ConfigError, LARGEST_SIZE};
pub use format::{AdapterHub, FileFormat, Format, Peft, StoredConfig};
pub use module_pattern::{ModuleNames, ModulePattern, PatternError, name_matches, pattern_value};
pub use preset::Preset;
