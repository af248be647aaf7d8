//! One file a command, each in the order: read, resolve, run, say.

pub mod average;
pub mod bench;
pub mod completions;
pub mod eject;
pub mod eval;
pub mod generate;
pub mod info;
pub mod merge;
pub mod predict;
pub mod train;
