//! The cases of heads that the Python libraries computed, and the golden BERT they are about.

use std::path::PathBuf;

use adapters::core::Tensors;
use adapters::models::{Model, Pretrained, TextInput};
use adapters::store::read_safetensors;
use burn::tensor::{Device, Int, Tensor, TensorData};

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn case(name: &str) -> PathBuf {
    crate_dir().join("tests/heads").join(name)
}

pub(crate) fn encoder(device: &Device) -> Model {
    let dir = crate_dir().join("golden/bert/base");
    Pretrained::open(&dir).unwrap().encoder(device).unwrap()
}

pub(crate) fn input(expected: &Tensors, device: &Device) -> TextInput {
    let (inputs, _) = read_safetensors(&crate_dir().join("golden/bert/inputs.safetensors")).unwrap();
    let take = |key| expected.get(key).unwrap_or(&inputs[key]).clone();
    let mask = Tensor::<2, Int>::from_data(take("attention_mask"), device);
    TextInput {
        ids: Tensor::from_data(take("input_ids"), device),
        token_types: None,
        padding: Some(mask.equal_elem(0)),
        packing: None,
    }
}

pub(crate) fn close(name: &str, own: &TensorData, wanted: &TensorData) {
    assert_eq!(own.shape(), wanted.shape(), "{name}");
    let peak = wanted.iter::<f32>().fold(0.0, |peak: f32, x| peak.max(x.abs()));
    for (own, wanted) in own.iter::<f32>().zip(wanted.iter::<f32>()) {
        assert!((own - wanted).abs() <= 2e-5 + 2e-5 * peak, "{name}: {own} and {wanted}");
    }
}
