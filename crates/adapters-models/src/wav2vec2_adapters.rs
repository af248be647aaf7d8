//! What wav2vec 2.0 calls adapters: parts of the published model, frozen like the rest of it.
//!
//! Behavior follows `Wav2Vec2AttnAdapterLayer` and `Wav2Vec2Adapter` of Hugging Face transformers. Layer drop does not skip the
//! convolutions of the latter in training, which would change the number of vectors.

use burn::tensor::activation::sigmoid;

use crate::modeling::*;
use crate::sound::patches;
use crate::standard_layer::StandardLayer;

/// Zeros at both ends of a sound in front of a convolution.
const ZEROS: usize = 1;

/// A layer, and the language adapter behind it: *Scaling Speech Technology to 1,000+ Languages*, Pratap et al., 2023,
/// <https://arxiv.org/abs/2305.13516>.
#[derive(Module, Sites, Debug)]
pub(crate) struct Wav2Vec2Layer {
    pub(crate) layer: StandardLayer,
    pub(crate) language: Option<LanguageAdapter>,
}

/// `x + W2 relu(W1 norm(x) + b1) + b2`.
#[derive(Module, Sites, Debug)]
pub(crate) struct LanguageAdapter {
    norm: Sited<LayerNorm>,
    down: Sited<Linear>,
    up: Sited<Linear>,
}

impl LanguageAdapter {
    /// `width` wide inside.
    pub(crate) fn build([d, width]: [usize; 2], epsilon: f64, at: &mut Scope<'_>) -> Self {
        Self {
            norm: at.layer_norm(NormRole::AdapterNorm, "adapter_layer.norm", d, epsilon),
            down: at.linear(LinearRole::InputProjection, "adapter_layer.linear_1", [d, width]),
            up: at.linear(LinearRole::OutputProjection, "adapter_layer.linear_2", [width, d]),
        }
    }
}

impl Block for Wav2Vec2Layer {
    type Frame = [Option<Tensor<4>>; 2];

    fn forward(&self, x: Tensor<3>, frame: &Self::Frame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let x = self.layer.forward(x, frame, slot, cx);
        let Some(LanguageAdapter { norm, down, up }) = &self.language else {
            return x;
        };
        let inner = cx.norm(norm, x.clone());
        let inner = cx.linear(down, inner);
        let inner = cx.linear(up, Activation::Relu.forward(inner));
        x + inner
    }
}

/// Convolutions behind the last layer, each of which makes the sequence shorter.
#[derive(Module, Sites, Debug)]
pub(crate) struct Shortening {
    /// To the width of the convolutions, where it is another one.
    projection: Option<Sited<Linear>>,
    norm: Option<Sited<LayerNorm>>,
    convolutions: Vec<Sited<Linear>>,
    kernel: usize,
    stride: usize,
}

/// The numbers of [`Shortening`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShorteningSizes {
    /// Width of the layers, and of what leaves the convolutions.
    pub(crate) widths: [usize; 2],
    /// Convolutions.
    pub(crate) count: usize,
    /// Vectors that a convolution reads.
    pub(crate) kernel: usize,
    /// Vectors from one reading to the next.
    pub(crate) stride: usize,
    /// The first number of a layer that is free for the convolutions.
    pub(crate) first: usize,
}

impl Shortening {
    pub(crate) fn build(sizes: ShorteningSizes, epsilon: f64, weights: &mut Weights) -> Self {
        let [from, d] = sizes.widths;
        let convolutions = (0..sizes.count).map(|index| {
            let location = Location::layer(Stack::Encoder, sizes.first + index);
            let mut at = weights.at(location, format!("adapter.layers.{index}"));
            at.convolution("conv", true, vec![d, sizes.kernel], 2 * d)
        });
        let convolutions = convolutions.collect();
        let mut at = weights.at(Location::outside(Stack::Encoder), "adapter");
        Self {
            projection: (from != d).then(|| at.linear(LinearRole::OutputProjection, "proj", [from, d])),
            norm: (from != d).then(|| at.layer_norm(NormRole::AdapterNorm, "proj_layer_norm", d, epsilon)),
            convolutions,
            kernel: sizes.kernel,
            stride: sizes.stride,
        }
    }

    /// `[batch, vectors, from]` to `[batch, fewer, d]`. Adapters and heads are told about the padding among those.
    pub(crate) fn forward(&self, x: Tensor<3>, padding: Option<&Tensor<2, Bool>>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let mut x = match &self.projection {
            Some(projection) => cx.linear(projection, x),
            None => x,
        };
        if let Some(norm) = &self.norm {
            x = cx.norm(norm, x);
        }
        let mut heard = padding.map(|padding| padding.clone().bool_not().int().sum_dim(1));
        for convolution in &self.convolutions {
            let read = patches(x.swap_dims(1, 2), self.kernel, self.stride, ZEROS);
            x = cx.linear(convolution, read);
            let d = x.dims()[2] / 2;
            x = x.clone().slice_dim(2, 0..d) * sigmoid(x.slice_dim(2, d..2 * d));
            heard = heard.map(|heard| (heard - 1) / self.stride as i64 + 1);
        }
        let [rows, vectors, _] = x.dims();
        cx.next_stack(heard.map(|heard| {
            let at = Tensor::<1, Int>::arange(0..vectors as i64, &heard.device()).unsqueeze::<2>();
            at.expand([rows, vectors]).greater_equal(heard.expand([rows, vectors]))
        }));
        x
    }

    /// Vectors of the shortest sequence of which one is left.
    pub(crate) fn shortest(&self) -> usize {
        self.convolutions.iter().fold(1, |vectors: usize, _| {
            let read = (vectors - 1).saturating_mul(self.stride).saturating_add(self.kernel);
            read.saturating_sub(2 * ZEROS).max(1)
        })
    }
}
