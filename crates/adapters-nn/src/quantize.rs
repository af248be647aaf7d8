//! A frozen base in fewer bits: its linear weights quantized, restored a layer at a time where they are used.

use std::fmt;
use std::str::FromStr;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::quantization::{QuantScheme, QuantValue, QuantizationParameters, ScaleDtype};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::UnknownName;

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
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        match name {
            "int8" => Ok(Self::Int8),
            other => Err(UnknownName::new("quantization", other, ["int8"])),
        }
    }
}

/// The weight of a frozen linear layer in fewer bits, with the bytes it took and takes; `None` for a weight that is quantized
/// already, or would not get smaller.
pub fn quantize_linear(layer: &mut Linear, how: Quantization) -> Option<(usize, usize)> {
    let Quantization::Int8 = how;
    let weight = layer.weight.val();
    if is_quantized(&weight) {
        return None;
    }
    let [d_in, d_out] = weight.dims();
    let run = run_length(d_in);
    let (before, after) = (d_in * d_out * 4, d_in * d_out + d_in / run * d_out * 4);
    if after >= before {
        return None;
    }
    layer.weight = Param::from_tensor(int8(weight, run)).set_require_grad(false);
    Some((before, after))
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

/// The weight of a frozen layer in `f32`, `[d_in, d_out]`, whatever form it is held in.
pub fn float_weight(layer: &Linear) -> Tensor<2> {
    layer.weight.val().dequantize().cast(DType::F32)
}

/// Holds the weight of a frozen linear layer in `bf16`, eight bits of mantissa. Products with it round their other factor to
/// `bf16` too and add up in `f32`; everything else stays in `f32`. Nothing happens to a weight that is not in `f32`.
pub fn bf16_linear(layer: &mut Linear) {
    let weight = layer.weight.val();
    if weight.dtype() == DType::F32 {
        layer.weight = Param::from_tensor(weight.cast(DType::BF16)).set_require_grad(false);
    }
}
