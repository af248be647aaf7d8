#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod layer;
mod orthogonal;
mod positions;
mod reft;
#[cfg(test)]
mod tests;

pub use layer::Unit;
pub use orthogonal::Projection;
pub use reft::{Layers, ReftConfig};
