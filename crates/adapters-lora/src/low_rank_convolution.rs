//! The low-rank update of a convolution in groups.

use std::borrow::Cow;

use adapters_core::{Call, Causality, ConvolutionState, NamedParams, SiteAdapter, convolved};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

/// `delta = s (B * (A * dropout(x)) + c)`: A is a convolution over all channels with the kernel of the frozen one, and B one
/// of size one with its groups, so that a group of outputs sees its part of the rank.
#[derive(Module, Debug)]
pub(crate) struct LowRankConvolution {
    /// `[rank, channels, kernel]`.
    pub(crate) a: Param<Tensor<3>>,
    /// `[d_out, rank / groups, 1]`.
    pub(crate) b: Param<Tensor<3>>,
    /// `c`, the bias of B, `[d_out]`.
    pub(crate) up_bias: Option<Param<Tensor<1>>>,
    /// Groups of the frozen convolution.
    pub(crate) groups: usize,
    /// `s`.
    pub(crate) scale: f64,
    /// Dropout probability on the input of A.
    pub(crate) dropout: f64,
}

impl SiteAdapter<ConvolutionState> for LowRankConvolution {
    /// # Panics
    ///
    /// Panics on another number of channels.
    fn apply(&self, state: ConvolutionState, call: &Call<'_>) -> ConvolutionState {
        let x = call.dropout(state.input.clone(), self.dropout);
        let narrow = convolved(x, self.a.val(), None, state.zeros, 1);
        let bias = self.up_bias.as_ref().map(|bias| bias.val());
        let update = convolved(narrow, self.b.val(), bias, 0, self.groups);
        state.plus(update * self.scale)
    }

    fn effect(&self) {}

    /// A kernel reads positions on both sides.
    fn causality(&self) -> Causality {
        Causality::LooksAhead
    }
}

impl NamedParams for LowRankConvolution {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("lora_A".into(), self.a.id), ("lora_B".into(), self.b.id)];
        params.extend(self.up_bias.iter().map(|bias| ("lora_B.bias".into(), bias.id)));
        params
    }
}
