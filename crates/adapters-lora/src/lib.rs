#![doc = include_str!("../README.md")]

mod adalora;
mod adapterhub;
mod combine;
mod delora;
mod dora;
mod dvora;
mod fused_projection;
mod gate;
mod hira;
mod ia3;
mod init;
mod loha;
mod lokr;
mod lora;
mod low_rank;
mod low_rank_table;
mod miss;
mod mtl_lora;
mod peft;
mod plain_lora;
mod scaling;
mod site_builder;
mod target;
mod vblora;
mod vera;

pub use adalora::{Adalora, Triplets};
pub use combine::{Combination, SignElection};
pub use delora::{Delora, Normalized};
pub use dora::{DoraConfig, DoraDefinition, DoraLayer, Magnitude};
pub use dvora::DvoraConfig;
pub use fused_projection::FusedProjection;
pub use gate::Gate;
pub use hira::{HadamardOfWeight, Hira};
pub use ia3::{Ia3Config, InputScale, OutputScale};
pub use init::Init;
pub use loha::{Hadamard, Loha};
pub use lokr::{Kronecker, Lokr};
pub use lora::{BiasTraining, LoraConfig};
pub use low_rank::{Factored, LowRank, Origin};
pub use low_rank_table::LowRankTable;
pub use miss::{Miss, Shard};
pub use mtl_lora::{MtlLora, MtlLoraConfig, TaskMatrix, TaskParam};
pub use scaling::Scaling;
pub use site_builder::Dtype;
pub use target::{AttentionMatrix, LayerRoles, LoraTarget};
pub use vblora::{Mixtures, Vblora, VectorBank};
pub use vera::{
    DrawnMatrices, Projection, SharedMatrices, StoredMatrices, VeraConfig, VeraDefinition, VeraMatrices, VeraVectors,
};
