//! Operations with kernels of their own on Burn's `flex` backend: how they enter the graph of automatic differentiation.
//!
//! An [`Operation`] computes on `flex` tensors and knows its gradients. One extension of Burn's backends, [`FusedOps`], runs
//! any of them, with one to three differentiable inputs; what an operation holds besides is constant. The functions of
//! this module return `None` where an input is on another backend, is not `f32`, or a constant is tracked; then the
//! caller runs the stock operation.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchTensorKind, ExtensionType, Flex, backend_extension,
};
use burn::tensor::{DType, Int, Tensor, TensorData};

mod attention;
mod elementwise;
mod linear;
mod loss;
mod norm;

pub use attention::attention;
pub use elementwise::{activation, dropout, silu_gated};
pub use linear::linear;
pub use loss::cross_entropy;
pub use norm::{Normalization, norm, norm_of_sum};

/// A function of one to three tensors, with its gradients.
pub trait Operation: Debug + Send + Sync {
    /// The result and, if `keep`, what the backward pass needs.
    fn forward(&self, inputs: Vec<FlexTensor>, keep: bool) -> (FlexTensor, Vec<FlexTensor>);

    /// The gradient of each input, from what was kept and the gradient of the result; `None` where `wanted` is false.
    fn backward(&self, kept: Vec<FlexTensor>, grad: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>>;
}

/// An operation that graphs share.
pub type Shared = Arc<dyn Operation>;

/// The differentiable inputs of an operation.
#[derive(Clone, Debug, ExtensionType)]
pub enum Inputs<B: Backend> {
    /// One.
    One(FloatTensor<B>),
    /// Two.
    Two(FloatTensor<B>, FloatTensor<B>),
    /// Three.
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

/// What a backend with kernels computes, as the frontend calls it.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    /// The result of an operation, a node of the graph where there is one.
    fn fused(#[extension_type] inputs: Inputs<Self>, operation: Shared) -> FloatTensor<Self>;
}

/// A backend that runs operations.
pub trait Kernels: Backend {
    /// [`Operation::forward`].
    fn forward(
        inputs: Vec<FloatTensor<Self>>,
        operation: &Shared,
        keep: bool,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>);

    /// [`Operation::backward`].
    fn backward(
        kept: Vec<FloatTensor<Self>>,
        grad: FloatTensor<Self>,
        operation: &Shared,
        wanted: &[bool],
    ) -> Vec<Option<FloatTensor<Self>>>;
}

impl Kernels for Flex {
    fn forward(inputs: Vec<FlexTensor>, operation: &Shared, keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        operation.forward(inputs, keep)
    }

    fn backward(
        kept: Vec<FlexTensor>,
        grad: FlexTensor,
        operation: &Shared,
        wanted: &[bool],
    ) -> Vec<Option<FlexTensor>> {
        operation.backward(kept, grad, wanted)
    }
}

impl FusedOps for Flex {
    fn fused(inputs: Inputs<Self>, operation: Shared) -> FloatTensor<Self> {
        let inputs = match inputs {
            Inputs::One(a) => vec![a],
            Inputs::Two(a, b) => vec![a, b],
            Inputs::Three(a, b, c) => vec![a, b, c],
        };
        Self::forward(inputs, &operation, false).0
    }
}

impl<B: Kernels, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn fused(inputs: Inputs<Self>, operation: Shared) -> FloatTensor<Self> {
        match inputs {
            Inputs::One(a) => record::<B, C, 1>([a], operation),
            Inputs::Two(a, b) => record::<B, C, 2>([a, b], operation),
            Inputs::Three(a, b, c) => record::<B, C, 3>([a, b, c], operation),
        }
    }
}

/// Runs an operation as a node of the graph.
fn record<B: Kernels, C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<B, C>>; N],
    operation: Shared,
) -> FloatTensor<Autodiff<B, C>> {
    #[derive(Debug)]
    struct Node;

    impl<B: Kernels, const N: usize> Backward<B, N> for Node {
        type State = (Shared, Vec<FloatTensor<B>>);

        fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
            let (operation, kept) = ops.state;
            let grad = grads.consume::<B>(&ops.node);
            let wanted = ops.parents.each_ref().map(Option::is_some);
            let input_grads = B::backward(kept, grad, &operation, &wanted);
            for (parent, grad) in ops.parents.into_iter().zip(input_grads) {
                if let (Some(parent), Some(grad)) = (parent, grad) {
                    grads.register::<B>(parent.id, grad);
                }
            }
        }
    }

    let nodes = inputs.each_ref().map(|input| input.node());
    let inputs = inputs.map(|input| input.into_primitive()).to_vec();
    match Node.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (output, kept) = B::forward(inputs, &operation, true);
            prep.finish((operation, kept), output)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::forward(inputs, &operation, false).0),
    }
}

/// Runs an operation on inputs that [`runs_here`].
fn run<const D: usize>(inputs: Inputs<Dispatch>, operation: impl Operation + 'static) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused(inputs, Arc::new(operation)))
}

/// Whether a tensor is of a kind the kernels read.
fn runs_here<const D: usize>(x: &Tensor<D>) -> bool {
    fn flex(kind: &DispatchTensorKind) -> bool {
        match kind {
            DispatchTensorKind::Flex(_) => true,
            DispatchTensorKind::Autodiff(inner) => flex(inner),
            // Other backends, where their features are on.
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
    x.dtype() == DType::F32 && x.dims().iter().all(|len| *len > 0) && flex(&x.clone().into_dispatch().kind)
}

/// A tensor of `f32` that no gradient goes to, for an operation to hold; `None` for one that the kernels cannot read, or
/// that is tracked.
fn constant<const D: usize>(x: &Tensor<D>) -> Option<FlexTensor> {
    constant_of(x, DType::F32)
}

/// As [`constant`], of another type.
fn constant_of<const D: usize>(x: &Tensor<D>, dtype: DType) -> Option<FlexTensor> {
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
fn integers(x: &Tensor<1, Int>) -> Option<Vec<i64>> {
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
fn tensor(numbers: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, shape))
}

/// The same tensor, its numbers one after the other in the order of its axes.
fn dense(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// The numbers of a [`dense`] tensor.
fn numbers(x: &FlexTensor) -> &[f32] {
    x.as_slice::<f32>()
        .unwrap_or_else(|| unreachable!("a dense tensor of f32, as made by `dense` of a checked tensor: {x:?}"))
}

/// The tensor itself if its numbers can be written over: it is dense, and nothing else holds them.
fn writable(x: FlexTensor) -> Result<FlexTensor, FlexTensor> {
    let layout = x.layout();
    let whole = layout.is_contiguous() && layout.start_offset() == 0;
    match whole && x.is_unique() && x.bytes().len() == layout.num_elements() * size_of::<f32>() {
        true => Ok(x),
        false => Err(x),
    }
}

/// The tensor, or a copy of it, for numbers to be written over.
fn owned(x: FlexTensor) -> FlexTensor {
    writable(x).unwrap_or_else(|x| {
        let x = dense(x);
        tensor(numbers(&x).to_vec(), x.layout().shape().clone())
    })
}
