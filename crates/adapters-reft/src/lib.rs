#![doc = include_str!("../README.md")]

mod layer;
mod orthogonal;
mod positions;
mod reft;
#[cfg(test)]
mod tests;

pub use layer::{ReftLayer, Unit};
pub use orthogonal::Projection;
pub use reft::{Layers, ReftConfig};
