//! The forward pass of a case on a device that cannot be read.

use adapters::AdapterSet;
use adapters::core::Active;
use burn::module::Module;
use burn::tensor::Device;

use crate::golden::model::Inputs;
use crate::golden::run::Running;
use crate::golden::verdict::Stop;

/// Runs the pass on [`Device::capture`], which records operations and computes nothing: where a pass reads a tensor that it
/// computed, it panics.
pub(super) fn forward(
    running: &Running<'_>,
    inputs: &Inputs,
    set: &AdapterSet,
    active: Option<&Active>,
) -> Result<(), Stop> {
    let device = Device::capture();
    let mut result = Ok(());
    let captured = device.capture_scope(|scope| {
        let (model, top) = (running.model.clone().to_device(&device), running.top.to_device(&device));
        let running = Running {
            model: &model,
            top: &top,
            skipped: running.skipped,
            tasks: running.tasks.clone(),
        };
        let set = set.clone().to_device(&device);
        result = running.forward(inputs.to_device(&device), &set, active).map(|_| ());
        scope.complete([], [])
    });
    captured.map_err(|error| Stop::fail(format!("capturing the pass: {error}")))?;
    result
}
