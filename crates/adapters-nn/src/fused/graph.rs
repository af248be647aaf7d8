//! How an operation enters the graph of automatic differentiation: one extension of Burn's backends for all of them.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, backend_extension};
use burn::tensor::Tensor;

/// A function of one to three tensors, with its gradients.
pub(super) trait Operation: Debug + Send + Sync {
    /// The result and, if `keep`, what the backward pass needs.
    fn forward(&self, inputs: Vec<FlexTensor>, keep: bool) -> (FlexTensor, Vec<FlexTensor>);

    /// The gradient of each input, from what was kept and the gradient of the result; `None` where `wanted` is false.
    fn backward(&self, kept: Vec<FlexTensor>, grad: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>>;
}

/// An operation that graphs share.
pub(super) type Shared = Arc<dyn Operation>;

/// The differentiable inputs of an operation.
#[derive(Clone, Debug, ExtensionType)]
pub(super) enum Inputs<B: Backend> {
    /// One.
    One(FloatTensor<B>),
    /// Two.
    Two(FloatTensor<B>, FloatTensor<B>),
    /// Three.
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

/// What a backend with kernels computes, as the frontend calls it.
#[backend_extension(Flex, Autodiff)]
pub(super) trait FusedOps: Backend {
    /// The result of an operation, a node of the graph where there is one.
    fn fused(#[extension_type] inputs: Inputs<Self>, operation: Shared) -> FloatTensor<Self>;
}

/// A backend that runs operations.
pub(super) trait Kernels: Backend {
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

/// Runs an operation on inputs that [`runs_here`](super::numbers::runs_here).
pub(super) fn run<const D: usize>(inputs: Inputs<Dispatch>, operation: impl Operation + 'static) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused(inputs, Arc::new(operation)))
}
