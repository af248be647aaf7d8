#![doc = include_str!("../README.md")]

mod config;
mod error;
mod wire;

pub use config::{ACTIVATIONS, DTYPES, Layers, ReftConfig};
pub use error::ReftError;
pub use wire::{LayersWire, ReftWire};
