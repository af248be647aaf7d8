//! The closed list of methods: the one place where a method enters the system.

use std::sync::Arc;

use adapters_core::{Error, Method, MethodFamily, Registry};

/// Every method this build has.
pub const METHODS: Registry = Registry(FAMILIES);

const FAMILIES: &[&[&dyn MethodFamily]] = &[
    #[cfg(feature = "bottleneck")]
    &[&adapters_bottleneck::BottleneckFamily],
    #[cfg(feature = "lora")]
    &[&adapters_lora::LoraFamily],
    #[cfg(feature = "prefix")]
    &[&adapters_prefix::PrefixFamily],
    #[cfg(feature = "prompt")]
    &adapters_prompt::FAMILIES,
    #[cfg(feature = "reft")]
    &[&adapters_reft::ReftFamily],
    #[cfg(feature = "weight")]
    &adapters_weight::FAMILIES,
    &[&crate::presets::UnionNames],
];

/// A method from a config string, e.g. `lora[r=8,alpha=16]`.
///
/// # Errors
///
/// As [`Registry::parse`].
pub fn method(config: &str) -> Result<Arc<dyn Method>, Error> {
    METHODS.parse(config)
}
