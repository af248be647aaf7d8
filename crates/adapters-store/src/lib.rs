#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

#[doc(hidden)]
pub mod atomic;
mod card;
mod dict;
mod error;
mod files;
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

pub use dict::CompositionDict;
pub use error::{StoreError, TensorProblem};
pub use fingerprint::{BaseMatch, Fingerprint};
pub use fusion::{load_fusion, save_fusion};
pub use load::{LoadOptions, LoadReport, load_adapter};
pub use manifest::{HeadManifest, Manifest};
pub use save::{SavedFiles, save_adapter};
pub use setup::Setup;
pub use tensors::{read_safetensors, write_safetensors};

// For the crates of this workspace: reading and writing single files.
#[doc(hidden)]
pub use card::{ModelCard, base_name, name_base};
#[doc(hidden)]
pub use files::{from_fields, is_there, open_regular, read_file, read_json, read_json_if_there, write_json};
#[doc(hidden)]
pub use head_setup::HeadSetup;
#[doc(hidden)]
pub use load::layer_replication;
#[doc(hidden)]
pub use origin::Origin;
#[doc(hidden)]
pub use pytorch_file::write_weights;
#[doc(hidden)]
pub use save::{REFERENCE_VERSION, expressible};
#[doc(hidden)]
pub use tensors::{TensorOutline, burn_dtype, file_dtype, read_pickle, read_pytorch, with_shape, write_each};
#[doc(hidden)]
pub use unique_keys::check_unique;
