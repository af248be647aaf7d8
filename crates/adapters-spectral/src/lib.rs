#![doc = include_str!("../README.md")]

mod c3a;
mod fourierft;

pub use c3a::{C3a, Circulant};
pub use fourierft::{Fourierft, Spectrum};
