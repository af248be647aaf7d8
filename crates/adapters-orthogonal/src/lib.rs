#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod boft;
mod hra;
mod oft;
mod psoft;
mod road;
mod rotation;

pub use boft::Boft;
pub use hra::{Hra, Reflections};
pub use oft::Oft;
pub use psoft::{Inner, Psoft, Values};
pub use road::{Road, RoadVariant};
