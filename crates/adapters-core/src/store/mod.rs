//! Adapter directories, in and out.
//!
//! Two interchange grammars, each a folder of a configuration and a safetensors file whose keys are built on
//! the published module paths:
//!
//! | grammar | configuration | weights | key |
//! |---|---|---|---|
//! | [`AdapterHub`](Grammar::AdapterHub) | `adapter_config.json` | `adapter.safetensors` or `pytorch_adapter.bin` | `<prefix><path>.loras.<name>.lora_A` |
//! | [`Peft`](Grammar::Peft) | `adapter_config.json` | `adapter_model.safetensors` | `base_model.model.<prefix><path>.lora_A.weight` |
//!
//! Fusion layers have a folder of their own ([`save_fusion`], [`load_fusion`]), and a whole composition with its adapters
//! and fusions is one folder of such folders ([`Setup`]).
//!
//! Beside an adapter's files lies our [`Manifest`], which says what the grammars cannot: the head, its labels and pooling,
//! and the base the adapter was trained on. Loading validates everything, keys both ways, shapes and
//! finiteness, and only then touches a set.

mod error;
mod fusion;
mod head_setup;
mod load;
mod manifest;
mod save;
mod setup;
mod tensors;

pub use error::{StoreError, TensorProblem};
pub use fusion::{load_fusion, save_fusion};
pub use head_setup::HeadSetup;
pub(crate) use load::Fill;
pub use load::{LoadOptions, LoadReport, load_adapter};
pub use manifest::{HeadManifest, Manifest, Pooling};
pub use save::{SavedFiles, expressible, save_adapter, values};
pub use setup::Setup;
pub use tensors::{Tensors, read_json, read_pytorch, read_safetensors, write_json, write_safetensors};

/// A published layout of adapter folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grammar {
    /// The `adapters` library of AdapterHub.
    AdapterHub,
    /// Hugging Face `peft`.
    Peft,
}

impl Grammar {
    /// Both grammars.
    pub const ALL: [Self; 2] = [Self::AdapterHub, Self::Peft];

    /// Name of the weights file this grammar writes.
    pub const fn weights_file(self) -> &'static str {
        match self {
            Self::AdapterHub => "adapter.safetensors",
            Self::Peft => "adapter_model.safetensors",
        }
    }

    /// What the grammar puts before every key.
    pub const fn key_prefix(self) -> &'static str {
        match self {
            Self::AdapterHub => "",
            Self::Peft => "base_model.model.",
        }
    }
}

impl std::fmt::Display for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AdapterHub => "AdapterHub",
            Self::Peft => "PEFT",
        })
    }
}
