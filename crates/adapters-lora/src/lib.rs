#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod adalora;
mod adamss;
mod adapterhub;
mod alora;
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
mod low_rank_matrices;
mod low_rank_table;
mod miss;
mod mtl_lora;
mod osf;
mod peanut;
mod peft;
mod plain_lora;
mod poly;
mod pvera;
mod randlora;
mod scaling;
mod site_builder;
mod target;
mod tinylora;
mod unilora;
mod vblora;
mod velora;
mod vera;

pub use adalora::{Adalora, Triplets};
pub use adamss::{Adamss, AdamssInit, Groups, StoredGroups};
pub use alora::{Activated, Alora};
pub use bdlora::{Bdlora, BlockDiagonal, Cut};
pub use combine::{Combination, SignElection};
pub use deft::{Decomposition, Deft, Replaced};
pub use delora::{Delora, Normalized};
pub use dora::{DoraConfig, DoraDefinition, DoraLayer, Magnitude};
pub use dora_table::DoraTable;
pub use dtype::Dtype;
pub use dvora::DvoraConfig;
pub use frod::{BetweenFactors, Categories, Category, Frod};
pub use fused_projection::FusedProjection;
pub use gate::Gate;
pub use glora::{Factors, Form, Glora, Path, ScaleAndShift};
pub use gralora::{Gralora, Granular};
pub use hira::{HadamardOfWeight, Hira};
pub use ia3::{Ia3Config, InputScale, OutputScale};
pub use init::Init;
pub use kasa::{Kasa, SingularValues};
pub use lily::{Lily, Router, SharedByLayers};
pub use loha::{Hadamard, Loha};
pub use lokr::{Kronecker, Lokr};
pub use lora_config::{BiasTraining, LoraConfig};
pub use low_rank::{Factored, LowRank, Origin};
pub use low_rank_matrices::LowRankMatrices;
pub use low_rank_table::LowRankTable;
pub use miss::{Miss, Shard};
pub use mtl_lora::{MtlLora, MtlLoraConfig, TaskMatrix, TaskParam};
pub use osf::{LowTriplets, Osf};
pub use peanut::{Peanut, WeightNetwork};
pub use poly::{Poly, PolyType, Skills};
pub use pvera::{MeanAndVariance, Pvera};
pub use randlora::{Randlora, ScaledBases, SharedBases};
pub use scaling::Scaling;
pub use target::{AttentionMatrix, LayerRoles, LoraTarget};
pub use tinylora::{MixedMatrices, RandomMatrices, SharedVectors, Tinylora};
pub use unilora::{DrawnTable, SharedVector, StoredTable, Taken, TakenFromVector, Unilora};
pub use vblora::{Mixtures, Vblora, VectorBank};
pub use velora::{Compressed, Compression, UnitVector, Velora};
pub use vera::{
    DrawnMatrices, Projection, SharedMatrices, StoredMatrices, VeraConfig, VeraDefinition, VeraMatrices, VeraVectors,
};
