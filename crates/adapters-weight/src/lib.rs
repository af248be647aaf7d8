#![doc = include_str!("../README.md")]

mod adaptive;
mod boft;
mod circulant;
mod fourier;
mod high_rank;
mod kronecker;
mod loha;
mod normalised;
mod norms;
mod oft;
mod reflections;
mod road;
mod rotation;
mod shards;
mod tokens;
mod tuner;
mod vector_bank;

use adapters_core::MethodFamily;

pub use adaptive::{Adalora, Triplets};
pub use boft::{Boft, ScaledRotation};
pub use circulant::{C3a, Circulant};
pub use fourier::{Fourierft, Spectrum};
pub use high_rank::{HadamardOfWeight, Hira};
pub use kronecker::{Kronecker, Lokr};
pub use loha::{Hadamard, Loha};
pub use normalised::{Delora, Normalised};
pub use norms::LnTuning;
pub use oft::{Oft, Rotation};
pub use reflections::{Hra, Reflections};
pub use road::{PairRotation, Road, RoadVariant};
pub use shards::{Miss, Shard};
pub use tokens::{TokenRows, TrainableTokens};
pub use tuner::{Tuned, Tuner, TunerFamily};
pub use vector_bank::{Mixtures, Vblora};

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
