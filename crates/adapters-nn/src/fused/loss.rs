//! The loss of a frozen language-model head.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Int, Tensor};

use super::graph::{Inputs, Operation, run};
use super::linear::{Packs, Weight, view, widened};
use super::numbers::{constant, dense, integers, matrix, numbers, owned, runs_here, tensor};
use crate::kernel::loss::{self, CrossEntropy, Scale};
use crate::kernel::raw::Mat;
use crate::kernel::{Level, half, raw, threads};

/// The cross entropy of each row of `hidden w + bias`, zero where its target is no column; no gradient goes to `w` and `bias`.
pub(crate) fn cross_entropy(
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    targets: &Tensor<1, Int>,
) -> Option<Tensor<1>> {
    let ([rows, width], [inner, vocab]) = (hidden.dims(), weight.dims());
    let fits = runs_here(hidden) && width == inner && vocab > 0 && targets.dims() == [rows];
    if !fits || bias.is_some_and(|bias| bias.dims() != [vocab]) {
        return None;
    }
    let bias = match bias {
        Some(bias) => Some(dense(constant(bias)?)),
        None => None,
    };
    let operation = Loss {
        weight: Weight::of(weight)?,
        bias,
        targets: integers(targets)?,
    };
    Some(run(Inputs::One(hidden.clone().into_dispatch()), operation))
}

#[derive(Debug)]
struct Loss {
    weight: Weight,
    bias: Option<FlexTensor>,
    targets: Vec<i64>,
}

impl Operation for Loss {
    fn forward(&self, mut inputs: Vec<FlexTensor>, keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        let hidden = dense(inputs.remove(0));
        let rows = self.targets.len();
        let (packs, wide);
        let weight = match &self.weight {
            Weight::Full(weight) => loss::Weight::Full(matrix(weight)),
            Weight::Half(weight) => {
                packs = half::is_worth_packing(Level::chosen(), rows).then(|| Packs::of(weight));
                let packed = |transposed| packs.as_deref().and_then(|packs| packs.get(weight, transposed));
                match (packed(false), packed(true)) {
                    (Some(packed), Some(turned)) => loss::Weight::Half(packed, turned),
                    _ => {
                        wide = widened(weight);
                        let (offset, shape, strides) = view(weight);
                        loss::Weight::Full(Mat::new(&wide, offset, shape, strides))
                    }
                }
            }
        };
        let entropy = CrossEntropy {
            hidden: numbers(&hidden),
            weight,
            bias: self.bias.as_ref().map(numbers),
            targets: &self.targets,
            width: numbers(&hidden).len() / rows,
        };
        let mut losses = raw::unfilled(rows);
        let mut grad = keep.then(|| raw::unfilled(entropy.hidden.len()));
        entropy.run(Level::chosen(), &mut losses, grad.as_deref_mut());
        let grad = grad.map(|grad| tensor(grad, hidden.layout().shape().clone()));
        (tensor(losses, [rows]), grad.into_iter().collect())
    }

    fn backward(&self, mut kept: Vec<FlexTensor>, grad: FlexTensor, _wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let mut grads = owned(kept.remove(0));
        let factors = dense(grad);
        let (factors, width) = (numbers(&factors), grads.layout().shape()[1]);
        threads::chunks(grads.storage_mut(), width, |first, rows| {
            for (row, factor) in rows.chunks_exact_mut(width).zip(&factors[first..]) {
                Level::chosen().run(Scale(row, *factor));
            }
        });
        vec![Some(grads)]
    }
}
