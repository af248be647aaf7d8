//! Operations that make an adapter from others, and what must come out.

use std::path::Path;

use adapters::core::{NamedParams, ParamValues};
use adapters::lora::{Combination, SignElection};
use adapters::models::Model;
use adapters::prefix::eject;
use adapters::store::{LoadOptions, load_adapter};
use adapters::{AdapterSet, METHODS};
use adapters::{average, normalized};
use burn::tensor::{Device, TensorData};
use serde_json::Value;

use crate::golden::case::{AVERAGE, Case, EJECT, Op};
use crate::golden::compare::each_element;
use crate::golden::verdict::Stop;

/// Where such an operation runs.
pub(crate) struct Combined<'a> {
    pub(crate) case: &'a Case,
    pub(crate) dir: &'a Path,
    pub(crate) base: &'a Model,
    pub(crate) device: &'a Device,
}

impl Combined<'_> {
    /// Adds the new adapter to `set`; what differs from the expected one.
    pub(crate) fn run(&self, op: &Op, set: &mut AdapterSet) -> Result<Vec<String>, Stop> {
        let name = op.name.as_deref().unwrap_or_default();
        if op.op == EJECT {
            eject(set, name, self.base)?;
            return self.compare(name, set);
        }
        let weights: Vec<(&str, f64)> = op
            .adapters
            .iter()
            .map(String::as_str)
            .zip(op.weights.iter().copied())
            .collect();
        let weights = match op.op == AVERAGE && op.normalize_weights {
            true => normalized(&weights)?,
            false => weights
                .into_iter()
                .map(|(name, weight)| (name.to_owned(), weight))
                .collect(),
        };
        let sign = match op.majority_sign_method.as_deref() {
            Some("frequency") => SignElection::Frequency,
            _ => SignElection::Total,
        };
        let combination = match (op.combine_strategy.as_deref(), op.combination_type.as_deref()) {
            (Some("linear"), _) => None,
            (Some("lora_linear_only_negate_b"), _) => Some("negate_b"),
            (Some("lora_delta_w_svd"), _) => Some("delta_svd"),
            (None, Some(combination)) => Some(combination),
            (other, _) => return Err(Stop::unsupported(format!("combine_strategy = {other:?}"))),
        };
        match combination {
            None => average(set, name, &weights)?,
            Some(combination) => Combination::named(combination, op.svd_rank, op.density, sign, 0)?.combine(
                set,
                name,
                &weights,
                self.base,
                self.device,
            )?,
        }
        self.compare(name, set)
    }

    /// The signs of a pair of singular vectors are free: those of the expected adapter are taken. Then the parameters
    /// must be equal.
    fn compare(&self, name: &str, set: &mut AdapterSet) -> Result<Vec<String>, Stop> {
        let Some(folder) = self.case.expected_adapters.get(name).and_then(Value::as_str) else {
            return Ok(Vec::new());
        };
        let mut expected = AdapterSet::new();
        let options = LoadOptions {
            name: Some(name.to_owned()),
            allow_bin: true,
            ..LoadOptions::default()
        };
        // Shared parameters of headless models are in no file of the reference: the ones computed are compared with
        // the outputs alone.
        let dir = self.dir.join(folder);
        if let Err(error) = load_adapter(&dir, &mut expected, self.base, &METHODS, &options, self.device) {
            return match set.attached(name)?.shared().named_params().is_empty() {
                true => Err(error.into()),
                false => Ok(Vec::new()),
            };
        }
        let want = expected.attached(name)?.values();
        let mut got = set.remove(name)?;
        got = {
            let values = aligned(got.values(), &want);
            got.with_values(values)
        };
        let mut problems = Vec::new();
        for (key, got) in got.values() {
            let within = want
                .get(&key)
                .is_some_and(|want| each_element(&got, want, self.case.output_tolerance()).within);
            if !within {
                problems.push(format!("`{}` of `{name}` is not the expected one", key.1));
            }
        }
        set.insert(got)?;
        problems.dedup();
        Ok(problems)
    }
}

/// A and B with the signs of their singular vectors as in `want`.
fn aligned(mut values: ParamValues, want: &ParamValues) -> ParamValues {
    let pairs: Vec<_> = values.keys().filter(|(_, param)| param == "lora_A").cloned().collect();
    for key in pairs {
        let of_b = (key.0, "lora_B".to_owned());
        let (Some(a), Some(target)) = (values.get(&key), want.get(&key)) else {
            continue;
        };
        let (rows, cols) = (a.shape()[0], a.shape()[1]);
        let (values_a, target): (Vec<f32>, Vec<f32>) = (a.iter().collect(), target.iter().collect());
        if values_a.len() != target.len() {
            continue;
        }
        let signs: Vec<f32> = (0..rows)
            .map(|row| {
                let range = row * cols..(row + 1) * cols;
                let dot: f32 = values_a[range.clone()]
                    .iter()
                    .zip(&target[range])
                    .map(|(x, y)| x * y)
                    .sum();
                if dot < 0.0 { -1.0 } else { 1.0 }
            })
            .collect();
        let flipped = values_a
            .iter()
            .enumerate()
            .map(|(i, x)| x * signs[i / cols])
            .collect::<Vec<_>>();
        values.insert(key, TensorData::new(flipped, [rows, cols]));
        if let Some(b) = values.get(&of_b) {
            let shape = b.shape();
            let flipped = b
                .iter::<f32>()
                .enumerate()
                .map(|(i, x)| x * signs[i % rows])
                .collect::<Vec<_>>();
            values.insert(of_b, TensorData::new(flipped, shape));
        }
    }
    values
}
