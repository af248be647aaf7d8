//! What tells one base model from another.

use serde::{Deserialize, Serialize};

/// A fingerprint of the tensors of a checkpoint. Two of the same checkpoint are equal whether it is in one file or in shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Hash of the names and shapes.
    pub shapes: String,
    /// Element types.
    pub types: String,
    /// Hash of the bytes of the tensors, or of a sample of them.
    pub values: String,
    /// Whether every byte is in the hash.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

/// How one base model relates to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseMatch {
    /// The same tensors.
    Same,
    /// The same names and shapes in other element types, so that the values cannot be compared.
    OtherTypes,
    /// The same names and shapes, and other values.
    OtherValues,
    /// Other names or shapes.
    OtherShapes,
}

impl Fingerprint {
    /// How `found` relates to this one. Both have to be of every byte, or both of a sample.
    pub fn compare(&self, found: &Self) -> BaseMatch {
        match (
            self.shapes == found.shapes,
            self.types == found.types,
            self.values == found.values,
        ) {
            (false, ..) => BaseMatch::OtherShapes,
            (true, false, _) => BaseMatch::OtherTypes,
            (true, true, false) => BaseMatch::OtherValues,
            (true, true, true) => BaseMatch::Same,
        }
    }
}
