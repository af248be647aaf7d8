//! A frozen base in fewer bits: its linear weights quantized, restored a layer at a time where they are used.

use std::fmt;
use std::str::FromStr;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::quantization::{QuantScheme, QuantValue, QuantizationParameters, ScaleDtype};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::UnknownName;

/// The form the linear weights of a frozen base are held in. Whatever it is, sums, normalizations, softmax, adapters and their
/// optimizer are in `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As loaded, `f32`.
    #[default]
    F32,
    /// Eight bits of mantissa, and so for what they are multiplied with.
    Bf16,
    /// Eight bits a weight, symmetric, with one scale an output: `w_ij = s_j q_ij`, `s_j = max_i |w_ij| / 127`.
    Int8,
}

impl Precision {
    const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Its name in recipes and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Whether it is `f32`.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = Self::ALL.into_iter().find(|precision| precision.name() == name);
        known.ok_or_else(|| UnknownName::new("precision", name, Self::ALL.map(Self::name)))
    }
}

/// Holds the weight of a frozen linear layer in fewer bits, and returns the bytes it took and takes; `None` for a weight that is
/// not in `f32`, or would not get smaller.
pub fn quantize_linear(layer: &mut Linear, precision: Precision) -> Option<(usize, usize)> {
    let weight = layer.weight.val();
    if weight.dtype() != DType::F32 {
        return None;
    }
    let [d_in, d_out] = weight.dims();
    let run = run_length(d_in);
    let before = d_in * d_out * 4;
    let after = match precision {
        Precision::F32 => before,
        Precision::Bf16 => d_in * d_out * 2,
        Precision::Int8 => d_in * d_out + d_in / run * d_out * 4,
    };
    if after >= before {
        return None;
    }
    let weight = match precision {
        Precision::Int8 => int8(weight, run),
        _ => weight.cast(DType::BF16),
    };
    layer.weight = Param::from_tensor(weight).set_require_grad(false);
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

/// The weight of a frozen layer in `f32`, `[d_in, d_out]`, whatever form it is held in.
pub fn float_weight(layer: &Linear) -> Tensor<2> {
    layer.weight.val().dequantize().cast(DType::F32)
}
