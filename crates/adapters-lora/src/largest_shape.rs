//! Matrices that all layers of an adapter take slices of.

use adapters_core::target::Target;
use adapters_core::{Build, Error};
use adapters_nn::TorchRng;
use burn::tensor::{Tensor, TensorData};

/// The largest numbers of input and output features among the adapted layers.
pub(crate) fn largest_dims(target: &Target, build: &Build<'_>) -> Result<(usize, usize), Error> {
    let selected = target.select(build.host)?.sites;
    // A reparameterized weight is a model of one site, whatever the target is.
    let sites = if selected.is_empty() {
        build.host.sites()
    } else {
        selected
    };
    let dims = sites.iter().filter_map(|site| site.linear_dims());
    Ok(dims.fold((0, 0), |most, next| (most.0.max(next.0), most.1.max(next.1))))
}

/// `[rows, columns]` from PyTorch's generator: Kaiming uniform with the gain of a rectifier, as VeRA draws.
pub(crate) fn kaiming(torch: &mut TorchRng, rows: usize, columns: usize, build: &Build<'_>) -> Tensor<2> {
    let bound = (3.0f64.sqrt() * 2.0f64.sqrt() / (columns as f64).sqrt()) as f32;
    let values = torch.uniform(rows * columns, -bound, bound);
    Tensor::from_data(TensorData::new(values, [rows, columns]), build.device)
}
