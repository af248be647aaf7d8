//! How far the copy is from the original: checked a weight at a time, summed up by kind of tensor.

use std::collections::BTreeMap;

use miette::{IntoDiagnostic, Result, WrapErr, ensure};
use safetensors::SafeTensors;

use super::{POSITION_IDS, floats};

/// How far the tensors of one kind are from their originals.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Distance {
    tensors: usize,
    weights: usize,
    largest: f32,
    squared_error: f64,
    squared_weight: f64,
}

impl Distance {
    fn add(&mut self, original: &[f32], copy: &[f32]) {
        self.tensors += 1;
        self.weights += original.len();
        for (w, c) in original.iter().zip(copy) {
            let error = w - c;
            self.largest = self.largest.max(error.abs());
            self.squared_error += f64::from(error).powi(2);
            self.squared_weight += f64::from(*w).powi(2);
        }
    }

    fn merge(self, other: Self) -> Self {
        Self {
            tensors: self.tensors + other.tensors,
            weights: self.weights + other.weights,
            largest: self.largest.max(other.largest),
            squared_error: self.squared_error + other.squared_error,
            squared_weight: self.squared_weight + other.squared_weight,
        }
    }

    /// Root mean square of the error over that of the weights.
    fn relative(&self) -> f64 {
        if self.squared_error == 0.0 {
            return 0.0;
        }
        (self.squared_error / self.squared_weight).sqrt()
    }
}

/// Compares the copy with the original, tensor by tensor, and sums up by kind.
pub(super) fn compare(original: &SafeTensors<'_>, copy: &SafeTensors<'_>) -> Result<BTreeMap<String, Distance>> {
    let mut kinds: BTreeMap<String, Distance> = BTreeMap::new();
    let mut expected = 0;
    for (name, view) in original.iter() {
        if name.ends_with(POSITION_IDS) {
            continue;
        }
        let found = copy
            .tensor(name)
            .into_diagnostic()
            .wrap_err_with(|| format!("`{name}`: expected in the copy, found nothing"))?;
        ensure!(
            found.shape() == view.shape(),
            "`{name}`: expected shape {:?}, found {:?}",
            view.shape(),
            found.shape()
        );
        let weights = floats(view.data());
        let restored = if let [_, columns] = view.shape()[..] {
            expected += 2;
            restore(copy, name, found.data(), columns, &weights)?
        } else {
            expected += 1;
            ensure!(
                found.data() == view.data(),
                "`{name}`: expected the original bytes, found others"
            );
            weights.clone()
        };
        kinds.entry(kind(name)).or_default().add(&weights, &restored);
    }
    ensure!(
        copy.len() == expected,
        "expected {expected} tensors, found {}",
        copy.len()
    );
    Ok(kinds)
}

/// The matrix `name` of the copy as floats, each within half a step of the original.
fn restore(copy: &SafeTensors<'_>, name: &str, codes: &[u8], columns: usize, weights: &[f32]) -> Result<Vec<f32>> {
    let scale_name = format!("{name}.scale");
    let scales = copy
        .tensor(&scale_name)
        .into_diagnostic()
        .wrap_err_with(|| format!("`{scale_name}`: expected in the copy, found nothing"))?;
    let scales = floats(scales.data());
    let mut restored = Vec::with_capacity(codes.len());
    for (index, (code, weight)) in codes.iter().zip(weights).enumerate() {
        let scale = scales[index / columns];
        let value = f32::from(code.cast_signed()) * scale;
        // Rounding of the division and the product adds a little to the half step.
        let error = (value - weight).abs();
        ensure!(
            error <= 0.5001 * scale,
            "`{name}`: expected an error of at most {}, found {error}",
            0.5001 * scale
        );
        restored.push(value);
    }
    Ok(restored)
}

/// The name of a tensor without the numbers of layers.
fn kind(name: &str) -> String {
    name.split('.')
        .map(|part| {
            if part.chars().all(|c| c.is_ascii_digit()) {
                "*"
            } else {
                part
            }
        })
        .collect::<Vec<_>>()
        .join(".")
}

/// The table of errors: quantized kinds one a line, then everything.
pub(super) fn report(kinds: &BTreeMap<String, Distance>) -> String {
    let width = kinds.keys().map(String::len).max().unwrap_or(0);
    let line = |name: &str, d: &Distance| {
        format!(
            "{name:width$}  {:>7}  {:>10}  {:>12.6}  {:>12.6}\n",
            d.tensors,
            d.weights,
            d.largest,
            d.relative()
        )
    };
    let mut text = format!(
        "{:width$}  {:>7}  {:>10}  {:>12}  {:>12}\n",
        "kind", "tensors", "weights", "max |error|", "relative RMS"
    );
    let quantized = |d: &&Distance| d.squared_error > 0.0;
    for (name, distance) in kinds.iter().filter(|(_, d)| quantized(d)) {
        text.push_str(&line(name, distance));
    }
    let exact = kinds
        .values()
        .filter(|d| !quantized(d))
        .fold(Distance::default(), |sum, d| sum.merge(*d));
    text.push_str(&line("(exact)", &exact));
    let all = kinds.values().fold(Distance::default(), |sum, d| sum.merge(*d));
    text.push_str(&line("overall", &all));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_leave_out_the_numbers_of_layers() {
        assert_eq!(
            kind("encoder.layer.11.output.dense.weight"),
            "encoder.layer.*.output.dense.weight"
        );
    }
}
