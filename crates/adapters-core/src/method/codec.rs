//! The two published formats of adapter folders, as far as a method has to know them.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

/// Tensors of a file by key.
pub type Tensors = BTreeMap<String, TensorData>;

/// A published layout of adapter folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The `adapters` library of AdapterHub.
    AdapterHub,
    /// Hugging Face `peft`.
    Peft,
}

impl Format {
    /// Both formats.
    pub const ALL: [Self; 2] = [Self::AdapterHub, Self::Peft];

    /// Name of the weights file this format writes.
    pub const fn weights_file(self) -> &'static str {
        match self {
            Self::AdapterHub => "adapter.safetensors",
            Self::Peft => "adapter_model.safetensors",
        }
    }

    /// What the format puts before every key.
    pub const fn key_prefix(self) -> &'static str {
        match self {
            Self::AdapterHub => "",
            Self::Peft => "base_model.model.",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AdapterHub => "AdapterHub",
            Self::Peft => "PEFT",
        })
    }
}
