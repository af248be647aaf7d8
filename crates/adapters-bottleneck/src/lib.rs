#![doc = include_str!("../README.md")]

mod config;
mod error;
mod phm;
mod preset;
mod reduction;
mod wire;

pub use config::{ACTIVATIONS, BottleneckConfig, Init, Insertion, Invertible, LnAfter, Residual, Scaling};
pub use error::BottleneckError;
pub use phm::{Phm, PhmWeight, PhmWire, Projection, RuleInit, WeightInit};
pub use reduction::{Reduction, ReductionWire};
pub use wire::{BottleneckWire, ResidualWire, ScalingWire};
