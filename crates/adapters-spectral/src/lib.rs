#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod c3a;
mod fourierft;
mod waveft;
mod wavelets;

pub use c3a::C3a;
pub use fourierft::Fourierft;
pub use waveft::Waveft;
