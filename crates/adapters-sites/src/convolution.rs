//! A convolution in groups of channels: the input of a group is seen by the outputs of that group alone.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, module::conv1d, ops::ConvOptions};

use crate::site::{ConvolutionRole, SiteKind};
use crate::sited::{Adaptable, LayerMut, LayerRef};

/// A convolution along the last axis in groups of channels, with zeros at both ends and a stride of one.
#[derive(Module, Debug)]
pub struct GroupedConvolution {
    /// `[d_out, channels / groups, kernel]`, as published.
    pub weight: Param<Tensor<3>>,
    /// `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Groups of channels.
    pub groups: usize,
    /// Zeros at each end.
    pub zeros: usize,
}

impl GroupedConvolution {
    /// `[batch, channels, seq] -> [batch, d_out, seq + 2 zeros - kernel + 1]`
    ///
    /// # Panics
    ///
    /// Panics on another number of channels, and on fewer positions than the kernel has, with the zeros.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        convolved(x, self.weight.val(), bias, self.zeros, self.groups)
    }
}

/// A convolution along the last axis with a stride of one: `[batch, channels, seq]` and `[d_out, channels / groups, kernel]` to
/// `[batch, d_out, seq + 2 zeros - kernel + 1]`.
///
/// # Panics
///
/// Panics on tensors of other shapes.
pub fn convolved(x: Tensor<3>, weight: Tensor<3>, bias: Option<Tensor<1>>, zeros: usize, groups: usize) -> Tensor<3> {
    conv1d(x, weight, bias, ConvOptions::new([1], [zeros], [1], groups))
}

impl Adaptable for GroupedConvolution {
    type Role = ConvolutionRole;

    fn kind(&self) -> SiteKind {
        let [d_out, channels, kernel] = self.weight.lazy_shape().dims();
        SiteKind::Convolution {
            channels: channels * self.groups,
            d_out,
            kernel,
            groups: self.groups,
        }
    }

    fn layer(&self) -> LayerRef<'_> {
        LayerRef::Point
    }

    fn layer_mut(&mut self) -> LayerMut<'_> {
        LayerMut::Point
    }
}
