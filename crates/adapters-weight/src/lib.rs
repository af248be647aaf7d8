#![doc = include_str!("../README.md")]

mod adalora;
mod boft;
mod c3a;
mod delora;
mod fourierft;
mod hira;
mod hra;
mod ln_tuning;
mod loha;
mod lokr;
mod miss;
mod oft;
mod road;
mod rotation;
mod trainable_tokens;
mod tuner;
mod vblora;

use adapters_core::MethodFamily;

pub use adalora::{Adalora, Triplets};
pub use boft::{Boft, ScaledRotation};
pub use c3a::{C3a, Circulant};
pub use delora::{Delora, Normalized};
pub use fourierft::{Fourierft, Spectrum};
pub use hira::{HadamardOfWeight, Hira};
pub use hra::{Hra, Reflections};
pub use ln_tuning::LnTuning;
pub use loha::{Hadamard, Loha};
pub use lokr::{Kronecker, Lokr};
pub use miss::{Miss, Shard};
pub use oft::{Oft, Rotation};
pub use road::{PairRotation, Road, RoadVariant};
pub use trainable_tokens::{TokenRows, TrainableTokens};
pub use tuner::{Tuned, Tuner, TunerFamily};
pub use vblora::{Mixtures, Vblora};

/// Reads the configurations of every method of this crate.
pub const FAMILIES: [&dyn MethodFamily; 15] = [
    &TunerFamily::<Adalora>::new(),
    &TunerFamily::<Boft>::new(),
    &TunerFamily::<C3a>::new(),
    &TunerFamily::<Delora>::new(),
    &TunerFamily::<Fourierft>::new(),
    &TunerFamily::<Hira>::new(),
    &TunerFamily::<Hra>::new(),
    &TunerFamily::<LnTuning>::new(),
    &TunerFamily::<Loha>::new(),
    &TunerFamily::<Lokr>::new(),
    &TunerFamily::<Miss>::new(),
    &TunerFamily::<Oft>::new(),
    &TunerFamily::<Road>::new(),
    &TunerFamily::<TrainableTokens>::new(),
    &TunerFamily::<Vblora>::new(),
];
