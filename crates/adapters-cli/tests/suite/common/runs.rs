//! Runs of the tiny task.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use adapters::METHODS;
use adapters::train::{MetricsLog, Outcome, Recipe, Run, train};
use burn::tensor::Device;

use super::Task;

/// A run of the recipe with overrides.
pub(crate) fn run(task: &Task, out: &Path, overrides: &[&str]) -> Run {
    let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::read(&task.recipe(), &overrides).unwrap();
    Run {
        model_dir: recipe.model.path.clone().into(),
        dir: out.to_owned(),
        registry: METHODS,
        device: Device::flex(),
        recipe,
    }
}

/// Trains to the end.
pub(crate) fn finish(run: &Run) -> Outcome {
    let outcome = train(run, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(outcome.finished);
    outcome
}

/// Bytes of the adapter and its head.
pub(crate) fn weights(run: &Run) -> Vec<u8> {
    let mut bytes = fs::read(run.dir.join("adapter/adapter.safetensors")).unwrap();
    bytes.extend(fs::read(run.dir.join("adapter/head.safetensors")).unwrap());
    bytes
}

/// The metrics, without what depends on the clock.
pub(crate) fn metrics(run: &Run) -> String {
    let records = MetricsLog::records(run.dir.join("metrics.jsonl")).unwrap();
    records
        .into_iter()
        .map(|r| serde_json::Value::Object(r).to_string() + "\n")
        .collect()
}
