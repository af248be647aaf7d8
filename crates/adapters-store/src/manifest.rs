//! This library's own file next to the interchange files, for what those have no field for.

use std::path::{Component, Path};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::fingerprint::Fingerprint;
use crate::{StoreError, read_json_if_there, write_json};
use adapters_nn::Precision;

/// What the interchange formats have no field for. Written as `manifest.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The adapter's name.
    pub name: String,
    /// Its config string.
    pub config: String,
    /// `model_type` of the base.
    pub base_architecture: String,
    /// Where the base was read from when the adapter was trained: a folder or a Hub id.
    pub base_model: String,
    /// What the tensors of the base were when the adapter was trained.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base_fingerprint: Option<Fingerprint>,
    /// Longest input in tokens, in training.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_length: Option<usize>,
    /// Form the linear weights of the base were held in, in training; `f32` without it.
    #[serde(skip_serializing_if = "Precision::is_f32", default)]
    pub precision: Precision,
    /// Whether it was trained on prompts in the chat template of the base.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub chat: bool,
    /// Folder of the adapter it was trained on top of, which must be active below it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stack_on: Option<String>,
    /// Names of the labels of its head, which peft's files have no field for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub labels: Vec<String>,
    /// Whether several labels of its head may be right, which peft's files have no field for either.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub several_labels: bool,
    /// The head trained with it, where the format of the folder has no file for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub head: Option<HeadManifest>,
    /// Version of this library that wrote it.
    pub written_by: String,
    /// Fields this version does not know, kept and written back.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A head in this library's own file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadManifest {
    /// Name of the weight file in the same folder. Its tensors are `weight [outputs, d_model]` and `bias [outputs]` of the last
    /// layer, and `hidden.N.weight [d_model, d_model]`, `hidden.N.bias`, `hidden.N.norm.weight` and `hidden.N.norm.bias` of the
    /// layers before it.
    #[serde(deserialize_with = "file_name")]
    pub file: String,
    /// Its configuration: the fields of AdapterHub's `head_config.json`, and `pooling`.
    #[serde(flatten)]
    pub config: Map<String, Value>,
}

/// A name without a path: what is somebody else's reads and writes in its own folder only.
fn file_name<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    let name = String::deserialize(text)?;
    let inside = matches!(
        Path::new(&name).components().collect::<Vec<_>>()[..],
        [Component::Normal(_)]
    );
    match inside {
        true => Ok(name),
        false => Err(D::Error::custom(format!(
            "head.file is {name:?}, expected the name of a file in the same folder"
        ))),
    }
}

impl Manifest {
    /// Name of the file.
    pub const FILE: &'static str = "manifest.json";
    /// This version of the library, as `written_by` names it.
    pub const WRITER: &'static str = concat!("adapters ", env!("CARGO_PKG_VERSION"));

    /// Reads the manifest of an adapter folder; `None` if it has none, as folders written in Python.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Json`].
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        read_json_if_there(&dir.join(Self::FILE))
    }

    /// The name of the adapter in a folder, which peft's own files have no field for; `None` without a manifest that has one.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn name_in(dir: &Path) -> Result<Option<String>, StoreError> {
        let name = Self::read(dir)?.map(|manifest| manifest.name);
        Ok(name.filter(|name| !name.is_empty()))
    }

    /// Writes the manifest into an adapter folder.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`].
    pub fn write(&self, dir: &Path) -> Result<(), StoreError> {
        write_json(&dir.join(Self::FILE), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_survive() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = Manifest {
            name: "a".into(),
            ..Manifest::default()
        };
        manifest.extra.insert("later".into(), Value::from(1));
        manifest.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap().unwrap(), manifest);
    }

    #[test]
    fn the_file_of_a_head_is_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        for (file, is_inside) in [
            ("head.safetensors", true),
            ("../head.safetensors", false),
            ("/head.safetensors", false),
            ("a/head.safetensors", false),
            ("..", false),
            ("", false),
        ] {
            let head = serde_json::json!({"file": file, "head_type": "classification"});
            let manifest = serde_json::json!({"name": "a", "config": "lora", "base_architecture": "bert", "base_model": "",
                "written_by": "", "head": head});
            write_json(&dir.path().join(Manifest::FILE), &manifest).unwrap();
            match Manifest::read(dir.path()) {
                Ok(_) => assert!(is_inside, "{file}"),
                Err(error) => {
                    let why = std::error::Error::source(&error).unwrap().to_string();
                    assert!(!is_inside && why.contains("head.file"), "{file}: {why}");
                }
            }
        }
    }
}
