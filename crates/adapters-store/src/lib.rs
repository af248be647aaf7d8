#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod atomic;
mod card;
mod dict;
mod error;
mod fingerprint;
mod fusion;
mod head_setup;
mod key_names;
mod larger_class;
mod load;
mod manifest;
mod mismatch;
mod mlx;
mod origin;
mod pickle;
mod pytorch_file;
mod save;
mod setup;
mod tensors;
mod unique_keys;

pub use card::{ModelCard, base_name, name_base};
pub use dict::CompositionDict;
pub use error::{StoreError, TensorProblem};
pub use fingerprint::{BaseMatch, Fingerprint};
pub use fusion::{load_fusion, save_fusion};
pub use head_setup::HeadSetup;
pub use load::{LoadOptions, LoadReport, layer_replication, load_adapter};
pub use manifest::{HeadManifest, Manifest};
pub use origin::Origin;
pub use pytorch_file::{write_pytorch, write_weights};
pub use save::{SavedFiles, expressible, save_adapter};
pub use setup::Setup;
pub use tensors::{
    TensorOutline, burn_dtype, file_dtype, read_file, read_json, read_pickle, read_pytorch, read_safetensors,
    with_shape, write_each, write_json, write_safetensors,
};
pub use unique_keys::check_unique;
