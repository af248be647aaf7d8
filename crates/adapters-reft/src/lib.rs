#![doc = include_str!("../README.md")]

mod compat;
mod config;
mod error;
mod init;
mod inject;
mod module;
mod orthogonal;
mod positions;

pub use compat::{LayersWire, ReftWire};
pub use config::{ACTIVATIONS, DTYPES, Layers, ReftConfig};
pub use error::ReftError;
pub use inject::{Reft, ReftFamily};
pub use module::{NonLinearity, ReftLayer, Unit};
pub use orthogonal::Projection;
