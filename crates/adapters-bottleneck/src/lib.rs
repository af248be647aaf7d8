#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod bottleneck;
mod compacter;
mod invertible;
mod layer;
mod presets;
mod projection;
mod reduction;
mod shadow;
#[cfg(test)]
mod tests;

pub use bottleneck::{BottleneckConfig, ResidualBeforeLn, Scaling};
pub use compacter::{RuleInit, WeightInit};
pub use invertible::CouplingKind;
pub use projection::{Dense, Init, Side};
pub use reduction::Reduction;
pub use shadow::Shadow;
