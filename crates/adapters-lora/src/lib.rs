#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod adalora;
mod adamss;
mod adapterhub;
mod alora;
mod arrow;
mod bdlora;
mod combine;
mod deft;
mod delora;
mod dora;
mod dora_table;
mod dtype;
mod dvora;
mod frod;
mod fused_projection;
mod gate;
mod glora;
mod gralora;
mod hira;
mod ia3;
mod init;
mod kasa;
mod kernel_product;
mod largest_shape;
mod lily;
mod loha;
mod lokr;
mod lora;
mod lora_config;
mod low_rank;
mod low_rank_convolution;
mod low_rank_matrices;
mod low_rank_table;
mod miss;
mod monteclora;
mod mtl_lora;
mod osf;
mod peanut;
mod peft;
mod plain_lora;
mod poly;
mod pvera;
mod randlora;
mod routing;
mod scaling;
mod site_builder;
mod start;
mod target;
mod tinylora;
mod unilora;
mod update_dropout;
mod vblora;
mod velora;
mod vera;
mod xlora;

pub use adalora::Adalora;
pub use adamss::{Adamss, AdamssInit};
pub use alora::Alora;
pub use arrow::{Arrow, subtract_general};
pub use bdlora::Bdlora;
pub use combine::{Combination, SignElection};
pub use deft::{Decomposition, Deft};
pub use delora::Delora;
pub use dora::{DoraConfig, DoraDefinition};
pub use dtype::Dtype;
pub use dvora::DvoraConfig;
pub use frod::Frod;
pub use glora::{Form, Glora};
pub use gralora::Gralora;
pub use hira::Hira;
pub use ia3::Ia3Config;
pub use init::{CordaMethod, GaDirection, GaScale, Init};
pub use kasa::Kasa;
pub use lily::Lily;
pub use loha::Loha;
pub use lokr::Lokr;
pub use lora_config::{BiasTraining, LoraConfig};
pub use miss::Miss;
pub use monteclora::{Monteclora, Sampling};
pub use mtl_lora::{MtlLoraConfig, TaskMatrix};
pub use osf::Osf;
pub use peanut::Peanut;
pub use poly::{Poly, PolyType};
pub use pvera::Pvera;
pub use randlora::Randlora;
pub use scaling::Scaling;
pub use target::{AttentionMatrix, LayerRoles, LoraTarget};
pub use tinylora::{SharedVectors, Tinylora};
pub use unilora::Unilora;
pub use vblora::Vblora;
pub use velora::{Compression, UnitVector, Velora};
pub use vera::{Projection, VeraConfig, VeraDefinition};
pub use xlora::Xlora;

// Values of configurations that are computed, not written.
#[doc(hidden)]
pub use adamss::StoredGroups;
#[doc(hidden)]
pub use init::StartValues;
