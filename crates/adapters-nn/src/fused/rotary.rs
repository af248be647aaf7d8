//! Rotary position embeddings.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::graph::{Inputs, Operation, run};
use super::numbers::{axes, constant, dense, numbers, runs_here, strided, tensor};
use crate::kernel::rotary::Rotation;
use crate::kernel::{Level, raw};

/// `(a cos - b sin, b cos + a sin)` for the halves of each head, where no gradient goes to `cos` and `sin`.
pub(crate) fn rotary(x: &Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Option<Tensor<4>> {
    let [batch, _, seq, width] = x.dims();
    let tables = cos.dims()[0];
    let table = [tables, 1, seq, width / 2];
    let fits = cos.dims() == table && sin.dims() == table && (tables == 1 || tables == batch) && width % 2 == 0;
    if !fits || !runs_here(x) {
        return None;
    }
    let operation = Rotary {
        cos: dense(constant(cos)?),
        sin: dense(constant(sin)?),
    };
    Some(run(Inputs::One(x.clone().into_dispatch()), operation))
}

#[derive(Debug)]
struct Rotary {
    cos: FlexTensor,
    sin: FlexTensor,
}

impl Rotary {
    fn apply(&self, x: FlexTensor, back: bool) -> FlexTensor {
        let x = if x.layout().strides()[3] == 1 {
            x
        } else {
            dense(x.to_contiguous())
        };
        let [batch, heads, seq, width] = axes(&x);
        let mut out = raw::unfilled(batch * seq * heads * width);
        let (cos, sin) = (numbers(&self.cos), numbers(&self.sin));
        Rotation { cos, sin, back }.apply(Level::chosen(), &strided(&x), &mut out);
        tensor(out, [batch, seq, heads, width]).transpose(1, 2)
    }
}

impl Operation for Rotary {
    fn forward(&self, mut inputs: Vec<FlexTensor>, _keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        (self.apply(inputs.remove(0), false), Vec::new())
    }

    fn backward(&self, _kept: Vec<FlexTensor>, grad: FlexTensor, _wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        vec![Some(self.apply(grad, true))]
    }
}
