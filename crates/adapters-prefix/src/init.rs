//! Initial values, drawn on the host: those PyTorch gives its layers.

use adapters_nn::draw;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;

/// A parameter on `device` from host values.
fn param<const D: usize>(data: TensorData, device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(data, device))
}

/// Rows of an embedding, or the vectors themselves: normal with deviation one.
pub(crate) fn embedding<const D: usize>(rng: &mut ChaCha8Rng, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    param(draw::normal(rng, shape, 1.0), device)
}

/// Weight `[d_out, d_in]` and bias of a linear layer: uniform within `1 / sqrt(d_in)`.
pub(crate) fn linear(
    rng: &mut ChaCha8Rng,
    d_in: usize,
    d_out: usize,
    device: &Device,
) -> (Param<Tensor<2>>, Param<Tensor<1>>) {
    let bound = (d_in as f32).sqrt().recip();
    let weight = draw::uniform(rng, [d_out, d_in], bound);
    (param(weight, device), param(draw::uniform(rng, [d_out], bound), device))
}

/// Weight and bias of a gate: the weight normal with deviation 0.02.
pub(crate) fn gate(
    rng: &mut ChaCha8Rng,
    d_model: usize,
    outputs: usize,
    device: &Device,
) -> (Param<Tensor<2>>, Param<Tensor<1>>) {
    let (_, bias) = linear(rng, d_model, outputs, device);
    (param(draw::normal(rng, [outputs, d_model], 0.02), device), bias)
}

/// The learned slope of `prelu`.
pub(crate) fn slope(device: &Device) -> Param<Tensor<1>> {
    param(draw::constant([1], 0.25), device)
}
