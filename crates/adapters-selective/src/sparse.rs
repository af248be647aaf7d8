//! Updates of single elements of a weight.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};

/// `[d_out, d_in]`, zero but for `values` at `indices`, counted along the rows; `[n]` each.
pub(crate) fn dense(values: Tensor<1>, indices: Tensor<1, Int>, [d_out, d_in]: [usize; 2]) -> Tensor<2> {
    let zeros = Tensor::<1>::zeros([d_out * d_in], &values.device());
    let filled = zeros.scatter(0, indices, values, IndexingUpdateOp::Add);
    filled.reshape([d_out, d_in])
}

/// Integers that files hold.
pub(crate) fn stored<const D: usize>(data: TensorData, device: &Device) -> Param<Tensor<D, Int>> {
    Param::initialized(ParamId::new(), Tensor::from_data(data, device))
}
