//! One file a command, each in the order: read, resolve, run, say.

pub mod bench;
pub mod chat;
pub mod combine;
pub mod completions;
pub mod convert;
pub mod doctor;
pub mod eject;
pub mod eval;
pub mod generate;
pub mod info;
pub mod merge;
pub mod methods;
pub mod new;
pub mod predict;
#[cfg(feature = "hub")]
pub mod pull;
#[cfg(feature = "hub")]
pub mod push;
pub mod recipe;
pub mod train;
