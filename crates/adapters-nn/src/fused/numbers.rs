//! The numbers of `flex` tensors: which tensors kernels read, and how they get at them.

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::kernel::attention::Strided;
use crate::kernel::raw::Mat;

/// Whether a tensor is on the `flex` backend, with autodiff or without.
pub(crate) fn is_flex(kind: &DispatchTensorKind) -> bool {
    match kind {
        DispatchTensorKind::Flex(_) => true,
        DispatchTensorKind::Autodiff(inner) => is_flex(inner),
        #[allow(
            unreachable_patterns,
            reason = "other backends are there only where their features are on"
        )]
        _ => false,
    }
}

/// Whether a tensor is of a kind the kernels read.
pub(crate) fn runs_here<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.dims().iter().all(|len| *len > 0) && is_flex(&x.clone().into_dispatch().kind)
}

/// A tensor of `f32` that no gradient goes to, for an operation to hold; `None` for one that the kernels cannot read, or
/// that is tracked.
pub(crate) fn constant<const D: usize>(x: &Tensor<D>) -> Option<FlexTensor> {
    constant_of(x, DType::F32)
}

/// As [`constant`], of another type.
pub(crate) fn constant_of<const D: usize>(x: &Tensor<D>, dtype: DType) -> Option<FlexTensor> {
    fn untracked(kind: DispatchTensorKind) -> Option<FlexTensor> {
        match kind {
            DispatchTensorKind::Flex(BackendTensor::Float(x)) => Some(x),
            DispatchTensorKind::Flex(BackendTensor::Autodiff(x)) if !x.is_tracked() => Some(x.into_primitive()),
            DispatchTensorKind::Autodiff(inner) => untracked(*inner),
            _ => None,
        }
    }
    untracked(x.clone().into_dispatch().kind).filter(|x| x.dtype() == dtype)
}

/// The numbers of a tensor of integers.
pub(crate) fn integers(x: &Tensor<1, Int>) -> Option<Vec<i64>> {
    fn flex(kind: DispatchTensorKind) -> Option<FlexTensor> {
        match kind {
            DispatchTensorKind::Flex(BackendTensor::Int(x)) => Some(x),
            DispatchTensorKind::Autodiff(inner) => flex(*inner),
            _ => None,
        }
    }
    let x = flex(x.clone().into_dispatch().kind)?.to_contiguous();
    match x.dtype() {
        DType::I64 => x.as_slice::<i64>().map(<[i64]>::to_vec),
        DType::I32 => x.as_slice::<i32>().map(|x| x.iter().copied().map(i64::from).collect()),
        _ => None,
    }
}

/// A tensor of these numbers.
pub(crate) fn tensor(numbers: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, shape))
}

/// The same tensor, its numbers one after the other in the order of its axes.
pub(crate) fn dense(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// The numbers of a [`dense`] tensor.
#[expect(
    clippy::unreachable,
    reason = "callers made the tensor with `dense` from one that `constant_of` checked for `f32`"
)]
pub(crate) fn numbers(x: &FlexTensor) -> &[f32] {
    x.as_slice::<f32>()
        .unwrap_or_else(|| unreachable!("a dense tensor of f32, as made by `dense` of a checked tensor: {x:?}"))
}

/// The tensor itself if its numbers can be written over: it is dense, and nothing else holds them.
pub(crate) fn writable(x: FlexTensor) -> Result<FlexTensor, FlexTensor> {
    let layout = x.layout();
    let whole = layout.is_contiguous() && layout.start_offset() == 0;
    match whole && x.is_unique() && x.bytes().len() == layout.num_elements() * size_of::<f32>() {
        true => Ok(x),
        false => Err(x),
    }
}

/// The tensor, or a copy of it, for numbers to be written over.
pub(crate) fn owned(x: FlexTensor) -> FlexTensor {
    writable(x).unwrap_or_else(|x| {
        let x = dense(x);
        tensor(numbers(&x).to_vec(), x.layout().shape().clone())
    })
}

/// The lengths of four axes.
pub(crate) fn axes(x: &FlexTensor) -> [usize; 4] {
    let shape = x.layout().shape();
    [shape[0], shape[1], shape[2], shape[3]]
}

/// A matrix of `f32` where it is.
pub(crate) fn matrix(x: &FlexTensor) -> Mat<'_> {
    let (layout, numbers) = (x.layout(), x.storage());
    let (shape, strides) = (layout.shape(), layout.strides());
    Mat::new(
        numbers,
        layout.start_offset(),
        [shape[0], shape[1]],
        [strides[0], strides[1]],
    )
}

/// The numbers of four axes where they are.
pub(crate) fn strided(x: &FlexTensor) -> Strided<'_> {
    let strides = x.layout().strides();
    Strided {
        data: x.storage(),
        offset: x.layout().start_offset(),
        shape: axes(x),
        strides: [strides[0], strides[1], strides[2], strides[3]],
    }
}
