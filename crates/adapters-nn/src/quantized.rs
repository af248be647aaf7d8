//! The product with a quantized weight on the backends that have one of their own, and its gradient on any.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexQTensor, FlexTensor};
use burn::backend::ops::{FloatTensorOps, QTensorOps};
use burn::backend::tensor::{FloatTensor, QuantizedTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, FloatDType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};

use crate::fused::numbers::{dense, is_flex, numbers, tensor};
use crate::kernel::Level;
use crate::kernel::int8::{ByColumn, FEW};

/// What a backend with a product of its own computes.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait QuantizedOps: Backend {
    /// `x w` with `w` restored for the duration of the product.
    fn product(x: FloatTensor<Self>, weight: QuantizedTensor<Self>) -> FloatTensor<Self>;

    /// `g w^T`, the gradient of the product with regard to `x`.
    fn product_backward(grad: FloatTensor<Self>, weight: QuantizedTensor<Self>) -> FloatTensor<Self>;
}

/// The product where a kernel exists.
pub(crate) fn product(x: &Tensor<2>, weight: &Tensor<2>) -> Option<Tensor<2>> {
    if !matches!(weight.dtype(), DType::QFloat(_)) {
        return None;
    }
    let (x, weight) = (x.clone().into_dispatch(), weight.clone().into_dispatch());
    let known = is_flex(&x.kind) && is_flex(&weight.kind);
    known.then(|| Tensor::from_dispatch(<Dispatch as QuantizedOps>::product(x, weight)))
}

impl QuantizedOps for Flex {
    fn product(x: FloatTensor<Self>, weight: QuantizedTensor<Self>) -> FloatTensor<Self> {
        of_few_rows(&x, &weight).unwrap_or_else(|| Self::float_matmul(x, restored(weight)))
    }

    fn product_backward(grad: FloatTensor<Self>, weight: QuantizedTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(grad, Self::float_transpose(restored(weight)))
    }
}

/// The product of a few rows, as in generation, where restoring the weight would take longer.
fn of_few_rows(x: &FlexTensor, weight: &FlexQTensor) -> Option<FlexTensor> {
    let ([rows, inner], weight) = (x.layout().shape().as_slice().try_into().ok()?, by_column(weight)?);
    if rows > FEW || x.dtype() != DType::F32 || rows * inner == 0 || weight.values.len() != inner * weight.columns {
        return None;
    }
    let out = weight.product(Level::chosen(), numbers(&dense(x.clone())));
    Some(tensor(out, [rows, weight.columns]))
}

/// A weight in floats.
fn restored(weight: FlexQTensor) -> FlexTensor {
    match by_column(&weight) {
        Some(columns) => tensor(columns.restored(), weight.shape()),
        None => Flex::dequantize(weight, FloatDType::F32),
    }
}

/// The numbers of a weight whose blocks are a run down one column with one level of scales; `None` for others. The block of
/// each element then needs no looking up.
fn by_column(weight: &FlexQTensor) -> Option<ByColumn<'_>> {
    let DType::QFloat(scheme) = weight.dtype() else {
        return None;
    };
    let [run, 1] = scheme.block_size()?.as_dim::<2>() else {
        return None;
    };
    let (run, values) = (usize::from(run), weight.tensor());
    let [rows, columns] = *weight.shape().as_slice() else {
        return None;
    };
    if scheme.num_levels() != 1 || !values.is_contiguous() || !rows.is_multiple_of(run) || columns == 0 {
        return None;
    }
    Some(ByColumn {
        values: &values.storage::<i8>()[..rows * columns],
        scales: &weight.scales()[..rows / run * columns],
        run,
        columns,
    })
}

/// Keeps the quantized weight for the backward pass.
impl<B: QuantizedOps, C: CheckpointStrategy> QuantizedOps for Autodiff<B, C> {
    fn product(x: FloatTensor<Self>, weight: QuantizedTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Product;

        impl<B: QuantizedOps> Backward<B, 1> for Product {
            type State = QuantizedTensor<B>;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
                let [parent] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                if let Some(parent) = parent {
                    grads.register::<B>(parent.id, B::product_backward(grad, ops.state));
                }
            }
        }

        match Product.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(weight.clone(), B::product(x.into_primitive(), weight)),
            OpsKind::UnTracked(prep) => prep.finish(B::product(x.into_primitive(), weight)),
        }
    }

    #[expect(
        clippy::panic,
        reason = "the backward pass runs on the inner backend; only a gradient of a gradient comes here, and Burn makes none"
    )]
    fn product_backward(_grad: FloatTensor<Self>, _weight: QuantizedTensor<Self>) -> FloatTensor<Self> {
        panic!("no second derivative of the product with a quantized weight")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::quantization::{QuantScheme, QuantValue, ScaleDtype};
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    fn schemes() -> [QuantScheme; 3] {
        let scheme = QuantScheme::default().with_value(QuantValue::Q8S);
        [
            scheme,
            scheme.per_block([4, 1], ScaleDtype::F32),
            scheme.per_block([2, 3], ScaleDtype::F32),
        ]
    }

    #[test]
    fn product_and_gradient_are_those_of_the_restored_weight() {
        let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
        let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &plain);
        let weight = random([8, 6]);
        for (scheme, rows) in schemes().into_iter().flat_map(|scheme| [(scheme, 5), (scheme, 12)]) {
            let (x, probe) = (random([rows, 8]), random([rows, 6]));
            let quantized = weight.clone().quantize_dynamic(&scheme);
            let restored = quantized.clone().dequantize();
            let leaf = || Tensor::<2>::from_data(x.to_data(), &autodiff).require_grad();
            let (own, stock) = (leaf(), leaf());
            let y = product(&own, &quantized).expect("a kernel for this backend");
            let wanted = stock.clone().matmul(restored.clone());
            // Sums of up to eight products of about ten, each rounded to 24 bits, in two orders.
            let close = |a: Tensor<2>, b: Tensor<2>| {
                a.into_data()
                    .assert_approx_eq::<f32>(&b.into_data(), Tolerance::absolute(5e-6));
            };
            close(y.clone().inner(), wanted.clone().inner());
            let grads = (y * probe.clone()).sum().backward();
            let stock_grads = (wanted * probe.clone()).sum().backward();
            close(
                own.grad(&grads).expect("a gradient"),
                stock.grad(&stock_grads).expect("a gradient"),
            );
            // Without a graph as well.
            let y = product(&x, &quantized).expect("a kernel for this backend");
            close(y, x.clone().matmul(restored));
        }
    }

    #[test]
    fn a_float_weight_is_no_business_of_the_kernel() {
        let device = Device::flex();
        let x = Tensor::<2>::ones([2, 3], &device);
        assert!(product(&x, &x.clone().transpose()).is_none());
    }
}
