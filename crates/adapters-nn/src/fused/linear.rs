//! A frozen linear layer.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::{Inputs, Operation, constant, dense, numbers, run, runs_here, tensor};
use crate::kernel::activation::{Plus, zip_rows};
use crate::kernel::raw::{self, Mat, MatMut};
use crate::kernel::{Level, threads};

/// `x w + b` over the last axis, where no gradient goes to `w` and `b`.
pub fn linear<const D: usize>(x: &Tensor<D>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<D>> {
    let [d_in, d_out] = weight.dims();
    let fits = runs_here(x) && x.dims()[D - 1] == d_in && d_out > 0;
    if !fits || bias.is_some_and(|bias| bias.dims() != [d_out]) {
        return None;
    }
    let bias = match bias {
        Some(bias) => Some(dense(constant(bias)?)),
        None => None,
    };
    let weight = constant(weight)?;
    Some(run(Inputs::One(x.clone().into_dispatch()), Linear { weight, bias }))
}

#[derive(Debug)]
struct Linear {
    weight: FlexTensor,
    bias: Option<FlexTensor>,
}

impl Linear {
    /// `x` times the weight, or the transposed weight, over the last axis.
    fn product(&self, x: FlexTensor, transposed: bool) -> FlexTensor {
        let layout = self.weight.layout();
        let (shape, strides) = (layout.shape(), layout.strides());
        let weight = Mat::new(
            self.weight.storage(),
            layout.start_offset(),
            [shape[0], shape[1]],
            [strides[0], strides[1]],
        );
        let (weight, [width, out_width]) = match transposed {
            true => (weight.transposed(), [shape[1], shape[0]]),
            false => (weight, [shape[0], shape[1]]),
        };
        let x = dense(x);
        let rows = numbers(&x).len() / width;
        let mut out = raw::unfilled(rows * out_width);
        raw::product(
            MatMut::dense(&mut out, rows, out_width),
            Mat::dense(numbers(&x), rows, width),
            weight,
            1.0,
            false,
            threads::worthwhile(rows, out_width, width),
        );
        let mut shape = x.layout().shape().clone();
        let last = shape.num_dims() - 1;
        shape[last] = out_width;
        tensor(out, shape)
    }
}

impl Operation for Linear {
    fn forward(&self, mut inputs: Vec<FlexTensor>, _keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        let mut out = self.product(inputs.remove(0), false);
        if let Some(bias) = &self.bias {
            zip_rows(Level::chosen(), Plus, out.storage_mut(), numbers(bias));
        }
        (out, Vec::new())
    }

    fn backward(&self, _kept: Vec<FlexTensor>, grad: FlexTensor, _wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        vec![Some(self.product(grad, true))]
    }
}
