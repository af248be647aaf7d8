#![doc = include_str!("../README.md")]

mod boft;
mod hra;
mod oft;
mod road;
mod rotation;

pub use boft::{Boft, ScaledRotation};
pub use hra::{Hra, Reflections};
pub use oft::{Oft, Rotation};
pub use road::{PairRotation, Road, RoadVariant};
