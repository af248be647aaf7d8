//! One file a command, each in the order: read, resolve, run, say.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod combine;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod doctor;
pub(crate) mod eject;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod info;
pub(crate) mod merge;
pub(crate) mod methods;
pub(crate) mod new;
pub(crate) mod predict;
#[cfg(feature = "hub")]
pub(crate) mod pull;
#[cfg(feature = "hub")]
pub(crate) mod push;
pub(crate) mod recipe;
pub(crate) mod train;
