//! The published forms of the configuration.

pub(crate) mod adapterhub;
mod peft;

pub use adapterhub::PrefixTuningWire;
pub use peft::PeftPrefixWire;
pub(crate) use peft::{from_peft, to_peft};
