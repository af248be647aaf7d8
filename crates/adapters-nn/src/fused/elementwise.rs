//! Activations, gated activations, sums and dropout.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::graph::{Inputs, Operation, run};
use super::numbers::{dense, numbers, owned, runs_here, tensor, writable};
use crate::kernel::activation::{self, Function};
use crate::kernel::philox::Mask;
use crate::kernel::{Level, raw};

/// `f(x)`, of an `x` that [`runs_here`]; in its memory where nothing else holds it.
pub(crate) fn activation<const D: usize>(function: Function, x: Tensor<D>) -> Tensor<D> {
    run(Inputs::One(x.into_dispatch()), Activation(function))
}

/// `silu(gate) up`.
pub(crate) fn silu_gated<const D: usize>(gate: &Tensor<D>, up: &Tensor<D>) -> Option<Tensor<D>> {
    let fits = runs_here(gate) && runs_here(up) && gate.dims() == up.dims();
    fits.then(|| {
        run(
            Inputs::Two(gate.clone().into_dispatch(), up.clone().into_dispatch()),
            SiluGated,
        )
    })
}

/// `x + y`, of one shape; in the memory of one of them where nothing else holds it.
pub(crate) fn add<const D: usize>(x: &Tensor<D>, y: &Tensor<D>) -> Option<Tensor<D>> {
    let fits = runs_here(x) && runs_here(y) && x.dims() == y.dims();
    fits.then(|| run(Inputs::Two(x.clone().into_dispatch(), y.clone().into_dispatch()), Add))
}

/// `x` under a mask, of an `x` that [`runs_here`]; in its memory where nothing else holds it.
pub(crate) fn dropout<const D: usize>(mask: Mask, x: Tensor<D>) -> Tensor<D> {
    run(Inputs::One(x.into_dispatch()), Dropout(mask))
}

#[derive(Debug)]
struct Activation(Function);

impl Operation for Activation {
    fn forward(&self, mut inputs: Vec<FlexTensor>, keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        let x = dense(inputs.remove(0));
        let kept = if keep { vec![x.clone()] } else { Vec::new() };
        let out = match writable(x) {
            Ok(mut x) => {
                activation::apply(Level::chosen(), self.0, x.storage_mut());
                x
            }
            Err(x) => {
                let mut out = raw::unfilled(numbers(&x).len());
                activation::apply_into(Level::chosen(), self.0, numbers(&x), &mut out);
                tensor(out, x.layout().shape().clone())
            }
        };
        (out, kept)
    }

    fn backward(&self, kept: Vec<FlexTensor>, grad: FlexTensor, _wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let mut grad = owned(grad);
        activation::gradient(Level::chosen(), self.0, grad.storage_mut(), numbers(&kept[0]));
        vec![Some(grad)]
    }
}

#[derive(Debug)]
struct SiluGated;

impl Operation for SiluGated {
    fn forward(&self, inputs: Vec<FlexTensor>, keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        let inputs: Vec<_> = inputs.into_iter().map(dense).collect();
        let (gate, up) = (&inputs[0], &inputs[1]);
        let mut out = raw::unfilled(numbers(gate).len());
        activation::gated(Level::chosen(), numbers(gate), numbers(up), &mut out);
        let out = tensor(out, gate.layout().shape().clone());
        (out, if keep { inputs } else { Vec::new() })
    }

    fn backward(&self, kept: Vec<FlexTensor>, grad: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let (gate, up) = (numbers(&kept[0]), numbers(&kept[1]));
        let mut grad = owned(grad);
        let mut up_grad = raw::unfilled(up.len());
        activation::gated_gradient(Level::chosen(), gate, up, grad.storage_mut(), &mut up_grad);
        let up_grad = tensor(up_grad, grad.layout().shape().clone());
        vec![wanted[0].then_some(grad), wanted[1].then_some(up_grad)]
    }
}

#[derive(Debug)]
struct Add;

impl Operation for Add {
    fn forward(&self, mut inputs: Vec<FlexTensor>, _keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        let (y, x) = (dense(inputs.remove(1)), dense(inputs.remove(0)));
        let (mut sum, other) = match (writable(x), writable(y)) {
            (Ok(x), Ok(y) | Err(y)) => (x, y),
            (Err(x), Ok(y)) => (y, x),
            (Err(x), Err(y)) => (owned(x), y),
        };
        activation::add(Level::chosen(), sum.storage_mut(), numbers(&other));
        (sum, Vec::new())
    }

    fn backward(&self, _kept: Vec<FlexTensor>, grad: FlexTensor, _wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        vec![Some(grad.clone()), Some(grad)]
    }
}

#[derive(Debug)]
struct Dropout(Mask);

impl Dropout {
    fn masked(&self, x: FlexTensor) -> FlexTensor {
        let mut x = owned(x);
        self.0.apply_all(Level::chosen(), x.storage_mut());
        x
    }
}

impl Operation for Dropout {
    fn forward(&self, mut inputs: Vec<FlexTensor>, _keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        (self.masked(inputs.remove(0)), Vec::new())
    }

    fn backward(&self, _kept: Vec<FlexTensor>, grad: FlexTensor, _wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        vec![Some(self.masked(grad))]
    }
}
