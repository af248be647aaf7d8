#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod device;
mod files;
pub mod methods;

pub use adapters_adapted::{Adapted, AttachOptions, Merged, average, merge, normalized, quantize};
pub use adapters_core as core;
pub use adapters_core::{
    AdapterSet, AnyMethod, AttachReport, Composition, Ctx, Error, Format, Forward, Host, IntoMethod, Location, Method,
    Point, Site, Sited, Sites,
};
pub use adapters_fusion as fusion;
#[cfg(feature = "hub")]
pub use adapters_hub as hub;
pub use adapters_methods::{MethodEntry, Registry};
pub use adapters_module as module;
pub use adapters_module::Frozen;
pub use adapters_nn as nn;
pub use adapters_reparam::{AdapterReparameterizer, ForPaths};
pub use adapters_store as store;
pub use burn;
pub use device::{AvailableDevice, DeviceError, available_backends, device_caution, devices, parse_device};
pub use files::{AdapterFiles, SaveOptions};
pub use methods::{METHODS, method};

#[cfg(feature = "bottleneck")]
pub use adapters_bottleneck as bottleneck;
#[cfg(feature = "lora")]
pub use adapters_lora as lora;
#[cfg(feature = "models")]
pub use adapters_models as models;
#[cfg(feature = "orthogonal")]
pub use adapters_orthogonal as orthogonal;
#[cfg(feature = "prefix")]
pub use adapters_prefix as prefix;
#[cfg(feature = "prompt")]
pub use adapters_prompt as prompt;
#[cfg(feature = "reft")]
pub use adapters_reft as reft;
#[cfg(feature = "selective")]
pub use adapters_selective as selective;
#[cfg(feature = "spectral")]
pub use adapters_spectral as spectral;
#[cfg(feature = "train")]
pub use adapters_train as train;

/// What most programs need.
pub mod prelude {
    pub use crate::{Adapted, AdapterFiles, AttachOptions, Composition, Format, METHODS, SaveOptions, method};
    #[cfg(feature = "bottleneck")]
    pub use adapters_bottleneck::BottleneckConfig;
    #[cfg(feature = "lora")]
    pub use adapters_lora::{DoraConfig, Ia3Config, LoraConfig};
    #[cfg(feature = "models")]
    pub use adapters_models::{Model, Pretrained, TextInput};
    #[cfg(feature = "prefix")]
    pub use adapters_prefix::PrefixTuningConfig;
    #[cfg(feature = "prompt")]
    pub use adapters_prompt::PromptTuningConfig;
    #[cfg(feature = "reft")]
    pub use adapters_reft::ReftConfig;
    pub use burn::module::Module;
    pub use burn::tensor::Device;
}

/// The README of the repository, so that its example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct RepositoryReadme;
