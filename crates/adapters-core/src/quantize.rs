//! A frozen base in fewer bits: its linear weights quantised, restored a layer at a time where they are used.

use std::fmt;
use std::str::FromStr;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::quantization::{QuantScheme, QuantValue, QuantizationParameters, ScaleDtype};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, nearest};
use crate::host::Host;
use crate::site::Role;

/// The form the linear weights of a frozen base are held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// Eight bits a weight, symmetric, with one scale an output: `w_ij = s_j q_ij`, `s_j = max_i |w_ij| / 127`.
    Int8,
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for Quantization {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "int8" => Ok(Self::Int8),
            other => Err(Error::UnknownName {
                what: "quantization",
                found: other.to_owned(),
                nearest: nearest(other, ["int8"]),
                known: "int8".to_owned(),
            }),
        }
    }
}

/// What quantising a model did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuantizeReport {
    /// Linear layers whose weights are quantised.
    pub layers: usize,
    /// Bytes of those weights before.
    pub bytes_before: usize,
    /// Bytes of those weights and their scales now.
    pub bytes_after: usize,
}

/// Quantises the weights of all linear sites of `model` but a language model's head, in place. Biases, normalisations and embedding tables stay floats,
/// and so does what adapters add: a hook restores the weight, multiplies and drops it again.
///
/// A weight that is quantised already stays as it is, and so does one that would not get smaller.
pub fn quantize(model: &mut (impl Host + ?Sized), how: Quantization) -> QuantizeReport {
    let mut report = QuantizeReport::default();
    let sites = model.sites();
    // Rounding the scores of a whole vocabulary costs more than rounding what leads to them.
    for info in sites.into_iter().filter(|info| info.site.role != Role::LmHead) {
        if let Some(layer) = model.linear_mut(info.site)
            && !is_quantized(&layer.weight.val())
        {
            let Quantization::Int8 = how;
            let weight = layer.weight.val();
            let [d_in, d_out] = weight.dims();
            let run = run_length(d_in);
            let (before, after) = (d_in * d_out * 4, d_in * d_out + d_in / run * d_out * 4);
            if after < before {
                layer.weight = Param::from_tensor(int8(weight, run)).set_require_grad(false);
                report.layers += 1;
                report.bytes_before += before;
                report.bytes_after += after;
            }
        }
    }
    report
}

/// Burn counts a block's extent in a byte: the longest run of inputs that has one and divides them.
fn run_length(d_in: usize) -> usize {
    let most = usize::from(u8::MAX);
    (1..=most.min(d_in))
        .rev()
        .find(|run| d_in.is_multiple_of(*run))
        .unwrap_or(1)
}

/// A weight `[d_in, d_out]` in eight bits. Its blocks are runs down one output's column, which all have that output's scale.
fn int8(weight: Tensor<2>, run: usize) -> Tensor<2> {
    let [d_in, d_out] = weight.dims();
    let default = weight.device().settings().quantization.scheme;
    let scheme = scheme(default, run);
    let (_, most) = scheme.value.range();
    // An output whose weights are all zero has any scale.
    let scales = (weight.clone().abs().max_dim(0) / most).clamp_min(f32::MIN_POSITIVE);
    let scales = scales.expand([d_in / run, d_out]);
    weight.quantize(
        &scheme,
        QuantizationParameters {
            scales: scales.reshape([-1]),
            global: None,
        },
    )
}

fn scheme(default: QuantScheme, run: usize) -> QuantScheme {
    let run = u8::try_from(run).unwrap_or(1);
    QuantScheme::default()
        .with_store(default.store)
        .with_value(QuantValue::Q8S)
        .per_block([run, 1], ScaleDtype::F32)
}

fn is_quantized<const D: usize>(weight: &Tensor<D>) -> bool {
    matches!(weight.dtype(), DType::QFloat(_))
}

/// The weight of a frozen layer in floats, `[d_in, d_out]`, whatever form it is held in.
pub fn float_weight(layer: &Linear) -> Tensor<2> {
    layer.weight.val().dequantize()
}
