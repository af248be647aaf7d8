//! A frozen base in fewer bits: its linear weights quantized, restored a layer at a time where they are used.

use adapters_nn::{Quantization, quantize_linear};

use crate::host::Host;
use crate::site::Role;

/// What quantizing a model did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuantizeReport {
    /// Linear layers whose weights are quantized.
    pub layers: usize,
    /// Bytes of those weights before.
    pub bytes_before: usize,
    /// Bytes of those weights and their scales now.
    pub bytes_after: usize,
}

/// Quantizes the weights of all linear sites of `model` but a language model's head, in place. Biases, normalizations and embedding tables stay floats,
/// and so does what adapters add: a hook restores the weight, multiplies and drops it again.
///
/// A weight that is quantized already stays as it is, and so does one that would not get smaller.
pub fn quantize(model: &mut (impl Host + ?Sized), how: Quantization) -> QuantizeReport {
    let mut report = QuantizeReport::default();
    let sites = model.sites();
    // Rounding the scores of a whole vocabulary costs more than rounding what leads to them.
    for info in sites.into_iter().filter(|info| info.site.role != Role::LmHead) {
        if let Some((before, after)) = model
            .linear_mut(info.site)
            .and_then(|layer| quantize_linear(layer, how))
        {
            report.layers += 1;
            report.bytes_before += before;
            report.bytes_after += after;
        }
    }
    report
}
