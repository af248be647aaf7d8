#![doc = include_str!("../README.md")]

mod c3a;
mod fourierft;
mod waveft;
mod wavelets;

pub use c3a::{C3a, Circulant};
pub use fourierft::{Fourierft, Spectrum};
pub use waveft::{Waveft, Wavelets};
