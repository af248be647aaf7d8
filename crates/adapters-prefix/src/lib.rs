#![doc = include_str!("../README.md")]

mod config;
mod error;
mod wire;

pub use config::{ACTIVATIONS, Gating, PrefixTuningConfig, Reparametrization};
pub use error::PrefixError;
pub use wire::PrefixTuningWire;
