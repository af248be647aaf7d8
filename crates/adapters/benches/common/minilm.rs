//! The model and the input that benchmarks measure with.

use std::path::Path;

use adapters::models::{Model, ModelError, Pretrained, TextInput};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The MiniLM encoder of this repository.
pub(crate) fn model(device: &Device) -> Result<Model, ModelError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    Pretrained::open(&folder)?.encoder(device)
}

/// Rows of tokens without padding.
pub(crate) fn input([rows, seq]: [usize; 2], device: &Device) -> TextInput {
    let ids: Vec<i64> = (0..rows * seq).map(|i| 1000 + (i as i64 * 7919) % 20_000).collect();
    TextInput {
        ids: Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, seq]), device),
        token_types: None,
        padding: None,
        packing: None,
    }
}
