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

pub use boft::{Boft, ScaledRotation};
pub use hra::{Hra, Reflections};
pub use oft::{Oft, Rotation};
pub use psoft::{Inner, Psoft, SubspaceRotation, Values};
pub use road::{PairRotation, Road, RoadVariant};
