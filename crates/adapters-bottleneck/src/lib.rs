#![doc = include_str!("../README.md")]

mod config;
mod error;
mod inject;
mod invertible;
mod module;
mod phm;
mod preset;
mod projection;
mod reduction;
mod wire;

pub use config::{ACTIVATIONS, BottleneckConfig, Init, Insertion, Invertible, LnAfter, Residual, Scaling};
pub use error::BottleneckError;
pub use inject::{Bottleneck, BottleneckFamily};
pub use invertible::Coupling;
pub use module::{BottleneckLayer, NonLinearity};
pub use phm::{Phm, PhmWeight, PhmWire, Projection, RuleInit, WeightInit};
pub use projection::{Dense, PhmLayer, Project};
pub use reduction::{Reduction, ReductionWire};
pub use wire::{BottleneckWire, ResidualWire, ScalingWire};
