#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod adapted;
mod average;
mod merge;
mod quantize;

pub use adapted::{Adapted, AttachOptions};
pub use average::{average, normalized};
pub use merge::{MergeReport, Merged, merge};
pub use quantize::{QuantizeReport, quantize};

// For the crates of this workspace.
#[doc(hidden)]
pub use merge::{FrozenLayer, fold};
