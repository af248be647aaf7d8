//! Attention.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::graph::{Inputs, Operation, run};
use super::numbers::{axes, constant, dense, numbers, runs_here, strided, tensor};
use crate::kernel::attention::{Attention, Gradients};
use crate::kernel::philox::Mask;
use crate::kernel::{Level, raw};

/// `dropout(softmax(scale q k^T + bias)) v`, where no gradient goes to `bias`.
pub(crate) fn attention(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    scale: f64,
    bias: Option<&Tensor<4>>,
    mask: Option<Mask>,
) -> Option<Tensor<4>> {
    let ([batch, heads, seq_q, d_head], [_, kv_heads, seq_k, _]) = (query.dims(), key.dims());
    let [_, _, _, width] = value.dims();
    let fits = [query, key, value].into_iter().all(runs_here)
        && key.dims() == [batch, kv_heads, seq_k, d_head]
        && value.dims() == [batch, kv_heads, seq_k, width]
        && heads % kv_heads == 0;
    if !fits {
        return None;
    }
    let bias = match bias {
        Some(bias) => {
            let dims = bias.dims();
            let whole = [batch, heads, seq_q, seq_k];
            let broadcasts = (0..3).all(|axis| dims[axis] == 1 || dims[axis] == whole[axis]);
            if !broadcasts || dims[3] != seq_k {
                return None;
            }
            Some(dense(constant(bias)?))
        }
        None => None,
    };
    let operation = Operands {
        scale: scale as f32,
        bias,
        mask,
    };
    let [q, k, v] = [query, key, value].map(|x| x.clone().into_dispatch());
    Some(run(Inputs::Three(q, k, v), operation))
}

#[derive(Debug)]
struct Operands {
    scale: f32,
    bias: Option<FlexTensor>,
    mask: Option<Mask>,
}

impl Operands {
    fn attention<'a>(&'a self, inputs: &'a [FlexTensor]) -> Attention<'a> {
        Attention {
            query: strided(&inputs[0]),
            key: strided(&inputs[1]),
            value: strided(&inputs[2]),
            bias: self.bias.as_ref().map(|bias| (numbers(bias), axes(bias))),
            scale: self.scale,
            mask: self.mask,
        }
    }
}

impl Operation for Operands {
    fn forward(&self, mut inputs: Vec<FlexTensor>, keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        let ([batch, heads, seq_q, _], [_, _, _, width]) = (axes(&inputs[0]), axes(&inputs[2]));
        let mut out = raw::unfilled(batch * seq_q * heads * width);
        let mut rows = raw::unfilled(batch * heads * seq_q * 2);
        self.attention(&inputs).forward(Level::chosen(), &mut out, &mut rows);
        // In the order in which the next layer reads it.
        let out = tensor(out, [batch, seq_q, heads, width]).transpose(1, 2);
        if !keep {
            return (out, Vec::new());
        }
        inputs.push(tensor(rows, [batch, heads, seq_q, 2]));
        (out, inputs)
    }

    fn backward(&self, kept: Vec<FlexTensor>, grad: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let shapes = [0, 1, 2].map(|input| {
            let [batch, heads, seq, width] = axes(&kept[input]);
            [batch, seq, heads, width]
        });
        // Those of keys and values are sums over the blocks of queries that see them.
        let len = |shape: [usize; 4]| shape.iter().product();
        let [query, key, value] = shapes;
        let mut grads = [raw::unfilled(len(query)), vec![0.0; len(key)], vec![0.0; len(value)]];
        let [query, key, value] = &mut grads;
        let into = Gradients { query, key, value };
        let attention = self.attention(&kept);
        attention.backward(Level::chosen(), &strided(&grad), numbers(&kept[3]), into);
        let grads = grads.into_iter().zip(shapes).zip(wanted);
        grads
            .map(|((grad, shape), wanted)| wanted.then(|| tensor(grad, shape).transpose(1, 2)))
            .collect()
    }
}
