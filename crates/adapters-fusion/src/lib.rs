#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod attach;
mod config;
mod layer;
mod method;

pub use attach::{attach, attach_named};
pub use config::{
    FusionConfig, Projection, QueryState, Regularization, ResidualPath, Temperature, ValueOrder, ValueProjection,
    ValueStart,
};
pub use method::Fusion;

// For the crates of this workspace.
#[doc(hidden)]
pub use attach::build;
