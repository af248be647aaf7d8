//! Element types of parameters.

use burn::module::Param;
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};

/// Element type of an adapter's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits.
    Float32,
    /// 16 bits, IEEE.
    Float16,
    /// 16 bits, brain float.
    Bfloat16,
}

impl Dtype {
    /// A parameter of this type; without one of the device's default.
    pub(crate) fn param<const D: usize>(dtype: Option<Self>, tensor: Tensor<D>) -> Param<Tensor<D>> {
        Param::from_tensor(match dtype {
            Some(Self::Float32) => tensor.cast(FloatDType::F32),
            Some(Self::Float16) => tensor.cast(FloatDType::F16),
            Some(Self::Bfloat16) => tensor.cast(FloatDType::BF16),
            None => tensor,
        })
    }
}
