#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod device_mask;
pub mod draw;
mod dropout;
#[cfg(feature = "flex")]
mod fused;
mod kernel;
mod mask;
mod name;
mod non_linearity;
mod norm_parameters;
mod numpy_rng;
pub mod ops;
mod quantize;
#[cfg(feature = "flex")]
mod quantized;
mod torch_rng;

pub use dropout::Dropout;
pub use name::UnknownName;
pub use non_linearity::NonLinearity;
pub use quantize::{Precision, float_weight};

// For the crates of this workspace.
#[doc(hidden)]
pub use name::{did_you_mean, nearest};
#[doc(hidden)]
pub use norm_parameters::{NormParameters, NormWeight, Normalization};
#[doc(hidden)]
pub use numpy_rng::NumpyRng;
#[doc(hidden)]
pub use quantize::quantize_linear;
#[doc(hidden)]
pub use torch_rng::TorchRng;

/// The vector instructions that the fused kernels of the CPU use on this processor: `portable`, `avx2`, `avx512` or `amx`.
pub fn cpu_instructions() -> &'static str {
    kernel::Level::chosen().name()
}

use burn::tensor::Tensor;

/// `x w` for a frozen weight in a quantized form.
///
/// The gradient goes to `x` only. It is that of the product with the restored weight.
///
/// # Shapes
///
/// `x [rows, d_in]`, `weight [d_in, d_out]`; returns `[rows, d_out]`.
///
/// # Panics
///
/// Panics if the inner axes differ, or if the two are on different backends.
pub fn quantized_product(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(product) = quantized::product(&x, &weight) {
        return product;
    }
    x.matmul(weight)
}
