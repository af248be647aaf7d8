//! Convolutions over sound, as products of their kernels with every patch; and the sum of layers by which sounds are classified.

use adapters_core::Sites;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use crate::chain::Chain;
use crate::weights::Weights;

/// A weighted sum of what enters each layer and of the last hidden state, in place of the latter: what the published classes for
/// classes of sounds read with `use_weighted_layer_sum`.
#[derive(Module, Sites, Debug)]
pub(crate) struct LayerSum {
    /// `[layers + 1]`, of which the softmax are the weights.
    weights: Param<Tensor<1>>,
}

impl LayerSum {
    /// That of a model where the option is on. In a checkpoint that was not saved from such a class all hidden states weigh alike.
    pub(crate) fn build(on: bool, layers: usize, weights: &mut Weights) -> Option<Self> {
        on.then(|| Self {
            weights: weights.vector_or_zeros("layer_weights", layers + 1),
        })
    }

    /// The chain of a model, whose first steps are the layers, with the sum at its end.
    pub(crate) fn extend<'m>(&self, chain: Chain<'m>) -> Chain<'m> {
        chain.summed(softmax(self.weights.val(), 0))
    }
}

/// The patches of a convolution along the last axis, with zeros at both ends:
/// `[batch, channels, samples] -> [batch, patches, channels * kernel]`
///
/// # Panics
///
/// Panics on fewer samples than the kernel has, with the zeros.
pub(crate) fn patches(x: Tensor<3>, kernel: usize, stride: usize, zeros: usize) -> Tensor<3> {
    let [batch, channels, samples] = x.dims();
    let x = match zeros {
        0 => x,
        zeros => {
            let end = Tensor::zeros([batch, channels, zeros], &x.device());
            Tensor::cat(vec![end.clone(), x, end], 2)
        }
    };
    let count = patch_count(samples + 2 * zeros, kernel, stride);
    let columns = (0..kernel).map(|offset| {
        let from = x.clone().slice_dim(2, offset..offset + (count - 1) * stride + 1);
        match stride {
            1 => from,
            _ => {
                // Every `stride`-th of them.
                let missing = count * stride - from.dims()[2];
                let rest = Tensor::zeros([batch, channels, missing], &from.device());
                let whole = Tensor::cat(vec![from, rest], 2).reshape([batch, channels, count, stride]);
                whole.slice_dim(3, 0..1).reshape([batch, channels, count])
            }
        }
    });
    let all: Tensor<4> = Tensor::stack(columns.collect(), 3);
    all.swap_dims(1, 2).reshape([batch, count, channels * kernel])
}

/// How many patches a convolution has; zero for a sound that is shorter than its kernel.
pub(crate) fn patch_count(samples: usize, kernel: usize, stride: usize) -> usize {
    match samples.checked_sub(kernel) {
        Some(rest) => rest / stride + 1,
        None => 0,
    }
}
