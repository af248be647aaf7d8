//! Hooks that run between the optimizer steps of a training run.

use std::fmt::Debug;

use crate::method::codec::Tensors;
use crate::method::named_params::ParamValues;

/// A schedule that changes parameters between the optimizer's steps: cutting ranks, for example.
pub trait TrainingSchedule: Debug + Send {
    /// Called after optimizer step `step`, counted from 1, with the values after it and the gradients it was made with;
    /// the values to put in their place, of those that change.
    fn after_step(&mut self, step: u64, values: &ParamValues, gradients: &ParamValues) -> ParamValues;

    /// What it remembers, for a checkpoint.
    fn state(&self) -> Tensors;

    /// Takes back what [`state`](Self::state) gave.
    fn restore(&mut self, state: Tensors);
}
