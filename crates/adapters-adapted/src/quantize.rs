//! A frozen base in fewer bits: its linear weights in `bf16`, or in eight bits and restored a layer at a time where they are used.

use adapters_core::{LayerMut, Role, Sites};
use adapters_nn::{Precision, quantize_linear};

/// What quantizing a model did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuantizeReport {
    /// Linear layers whose weights are quantized.
    pub layers: usize,
    /// Bytes of those weights before.
    pub bytes_before: usize,
    /// Bytes of those weights and their scales now.
    pub bytes_after: usize,
}

/// Holds the weights of all linear sites of `model` in fewer bits, in place; a language model's head in `bf16` at least. Biases,
/// normalizations, embedding tables and what adapters add stay in `f32`. A head that is tied to a table gets a weight of its own.
///
/// A weight that is not in `f32` stays as it is, and so does one that would not get smaller.
pub fn quantize(model: &mut (impl Sites + ?Sized), precision: Precision) -> QuantizeReport {
    let mut report = QuantizeReport::default();
    // Rounding the scores of a whole vocabulary to eight bits costs more than rounding what leads to them.
    let of = |role| match (role, precision) {
        (Role::LmHead, Precision::Int8) => Precision::Bf16,
        _ => precision,
    };
    model.visit_sites_mut(&mut |info, layer| {
        if let LayerMut::Linear(layer) = layer
            && let Some((before, after)) = quantize_linear(layer, of(info.site.role))
        {
            report.layers += 1;
            report.bytes_before += before;
            report.bytes_after += after;
        }
    });
    report
}
