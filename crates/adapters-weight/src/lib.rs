#![doc = include_str!("../README.md")]

mod loha;
mod tuner;

use adapters_core::MethodFamily;

pub use loha::{Hadamard, Loha};
pub use tuner::{OneOrMany, Targets, Tuned, Tuner, TunerFamily};

/// The families of this crate, for a [`Registry`](adapters_core::Registry).
pub const FAMILIES: &[&dyn MethodFamily] = &[&LOHA];

/// Reads [`Loha`].
pub const LOHA: TunerFamily<Loha> = TunerFamily::new();
