//! A checkpoint of random tensors for an architecture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use adapters::core::Tensors;
use adapters::models::{Model, ModelError, Pretrained};
use adapters::nn::draw;
use adapters::store::{StoreError, TensorProblem, write_json, write_safetensors};
use burn::tensor::{Device, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::ModelCase;

/// Writes a checkpoint of random tensors for a case to `dir`, and loads it: the model and its tensors.
///
/// # Panics
///
/// Panics with the configuration where no such checkpoint loads.
pub fn random_checkpoint(case: &ModelCase, dir: &Path, device: &Device) -> (Model, Tensors) {
    let mut shapes: BTreeMap<String, Vec<usize>> = case
        .optional_keys
        .iter()
        .map(|key| ((*key).to_owned(), vec![1]))
        .collect();
    loop {
        let tensors = random_tensors(&shapes);
        let problems = match write_and_load(case, dir, &tensors, device) {
            Ok(model) => return (model, tensors),
            Err(ModelError::Store(StoreError::Mismatch { problems, .. })) => problems,
            Err(other) => panic!("{}: {other}", case.config),
        };
        let before = shapes.clone();
        for problem in problems {
            match problem {
                // Not every configuration has a use for it.
                TensorProblem::Unexpected { key } if case.optional_keys.contains(&key.as_str()) => shapes.remove(&key),
                TensorProblem::Missing { key, .. } => shapes.insert(key, vec![1]),
                TensorProblem::Shape { key, expected, .. } => shapes.insert(key, expected),
                other => panic!("{}: {other}", case.config),
            };
        }
        assert_ne!(shapes, before, "{}: the loader asks for what it has", case.config);
    }
}

/// Writes the checkpoint of a case and loads it.
pub(crate) fn write_and_load(
    case: &ModelCase,
    dir: &Path,
    tensors: &Tensors,
    device: &Device,
) -> Result<Model, ModelError> {
    let path: PathBuf = dir.join("config.json");
    write_json(&path, &case.config)?;
    write_safetensors(&dir.join("model.safetensors"), tensors, [])?;
    Pretrained::open_with(dir, case.architectures.clone())?.model(device)
}

/// Normal numbers, those of normalizations around one.
fn random_tensors(shapes: &BTreeMap<String, Vec<usize>>) -> Tensors {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let tensors = shapes.iter().map(|(key, shape)| {
        let data = draw::normal(&mut rng, [shape.iter().product()], 0.3);
        let is_norm = shape.len() == 1 && key.ends_with(".weight");
        let shift = if is_norm { 1.0 } else { 0.0 };
        let values: Vec<f32> = data.iter::<f32>().map(|x| x + shift).collect();
        (key.clone(), TensorData::new(values, shape.clone()))
    });
    tensors.collect()
}
