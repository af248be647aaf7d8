#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod convolution;
mod matrices;
mod site;
mod sited;

pub use convolution::{GroupedConvolution, convolved};
pub use matrices::Matrices;
pub use site::{
    BareParameter, ConvolutionRole, EmbeddingRole, LinearRole, MatricesRole, NormRole, ResidualRole, Role, Site,
    SiteInfo, SiteKind, Stack, TableRole,
};
pub use sited::{
    Adaptable, EmbeddingHook, KeyValueHook, LayerMut, LayerRef, Location, OutputHook, Point, ResidualHook, Sited, Sites,
};
