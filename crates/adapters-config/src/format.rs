//! The two published file formats of adapters.

use std::fmt;

use serde_json::{Map, Value};

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

    /// The key of a shared parameter where a method has no key of its own for it.
    pub fn shared_key(self, adapter: &str, param: &str) -> String {
        match self {
            Self::AdapterHub => format!("shared_parameters.{adapter}.{param}"),
            Self::Peft => format!("base_model.{param}"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdapterHub => "AdapterHub",
            Self::Peft => "PEFT",
        })
    }
}

/// A [`Format`] as a type, so that a method implements one codec for each.
pub trait FileFormat: 'static {
    /// The format at run time.
    const FORMAT: Format;
}

/// [`Format::AdapterHub`] as a type.
#[derive(Clone, Copy, Debug)]
pub struct AdapterHub;

/// [`Format::Peft`] as a type.
#[derive(Clone, Copy, Debug)]
pub struct Peft;

impl FileFormat for AdapterHub {
    const FORMAT: Format = Format::AdapterHub;
}

impl FileFormat for Peft {
    const FORMAT: Format = Format::Peft;
}

/// The configuration object of a file, with what the file says about its writer.
#[derive(Clone, Copy, Debug)]
pub struct StoredConfig<'a> {
    /// The format of the file.
    pub format: Format,
    /// The object.
    pub fields: &'a Map<String, Value>,
    /// Version of the library that wrote it, as `(major, minor)`; `None` in old files.
    pub version: Option<(u32, u32)>,
    /// Whether the file names any version, that of a predecessor included.
    pub versioned: bool,
}

impl StoredConfig<'_> {
    /// Whether its `peft_type` is this one.
    pub fn is_peft(&self, peft_type: &str) -> bool {
        self.fields.get("peft_type").is_some_and(|found| found == peft_type)
    }

    /// The fields besides `peft_type` of an object whose `peft_type` is this one; `None` for another.
    pub fn peft_fields(&self, peft_type: &str) -> Option<Map<String, Value>> {
        self.is_peft(peft_type).then(|| {
            let mut fields = self.fields.clone();
            fields.shift_remove("peft_type");
            fields
        })
    }
}
