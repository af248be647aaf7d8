//! The expensive operations of a transformer behind one module, so that a fused form can replace a stock one
//! without touching a model.
//!
//! On Burn's `flex` backend the functions run kernels of this crate for `f32` tensors (feature `flex`; the README has a
//! table); on every other backend, and where a parameter that kernels hold constant is being trained, they are stock Burn
//! with the same result. Axis names are those of the glossary in `adapters-core`'s documentation.

use std::str::FromStr;

use burn::nn::{LayerNorm, Linear, RmsNorm};
use burn::tensor::{Bool, DType, Int, Tensor, activation};

use crate::dropout::{Dropout, Mask, masked};
#[cfg(feature = "flex")]
use crate::fused::{self, Normalization};
#[cfg(feature = "flex")]
use crate::kernel::activation::Function;
pub use crate::mask::{causal_bias, causal_bias_over_padding, packed_bias, positions, window_bias};
use crate::{UnknownName, quantized_product};

/// Activation function, named as the published configurations name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)` with the error function (`gelu`, `gelu_python`).
    Gelu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (`gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `x * sigmoid(1.702 x)` (`quick_gelu`).
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2` (`relu2`).
    Relu2,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x * sigmoid(x)` (`silu`, `swish`).
    Silu,
    /// `x * tanh(softplus(x))`.
    Mish,
    /// Hyperbolic tangent.
    Tanh,
    /// Logistic function.
    Sigmoid,
    /// The identity (`linear`).
    Linear,
    /// `min(max(gelu(x), -10), 10)` (`gelu_10`).
    Gelu10,
    /// `0.5 (1 + erf((x - 0.707107) / (0.282095 sqrt(2))))`.
    Laplace,
    /// `max(x, 0) + 0.01 min(x, 0)` (`leaky_relu`, `leakyrelu`).
    LeakyRelu,
}

impl Activation {
    pub(crate) const NAMES: &[(&'static str, Self)] = &[
        ("gelu", Self::Gelu),
        ("gelu_python", Self::Gelu),
        ("gelu_new", Self::GeluTanh),
        ("gelu_fast", Self::GeluTanh),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("quick_gelu", Self::QuickGelu),
        ("relu", Self::Relu),
        ("relu2", Self::Relu2),
        ("relu6", Self::Relu6),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("mish", Self::Mish),
        ("tanh", Self::Tanh),
        ("sigmoid", Self::Sigmoid),
        ("linear", Self::Linear),
        ("gelu_10", Self::Gelu10),
        ("gelu_accurate", Self::GeluTanh),
        ("gelu_python_tanh", Self::GeluTanh),
        ("laplace", Self::Laplace),
        ("leaky_relu", Self::LeakyRelu),
        ("leakyrelu", Self::LeakyRelu),
    ];

    /// Applies the function element by element; any shape.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "flex")]
        if let Some(function) = self.kernel()
            && fused::runs_here(&x)
        {
            let y = fused::activation(function, x);
            return if self == Self::Gelu10 { y.clamp(-10.0, 10.0) } else { y };
        }
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => activation::sigmoid(x.clone() * 1.702) * x,
            Self::Relu => activation::relu(x),
            Self::Relu2 => activation::relu(x).square(),
            Self::Relu6 => activation::relu6(x),
            Self::Silu => activation::silu(x),
            Self::Mish => activation::mish(x),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => activation::sigmoid(x),
            Self::Linear => x,
            Self::Gelu10 => gelu(x).clamp(-10.0, 10.0),
            Self::Laplace => {
                (((x - std::f64::consts::FRAC_1_SQRT_2) / (0.282095 * std::f64::consts::SQRT_2)).erf() + 1.0) * 0.5
            }
            Self::LeakyRelu => activation::leaky_relu(x, 0.01),
        }
    }

    /// `f(gate) up`, element by element, as in gated feed-forward layers; both of one shape.
    ///
    /// # Panics
    ///
    /// Panics on tensors of two shapes.
    pub fn gated<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "flex")]
        if let (Self::Silu, Some(y)) = (self, fused::silu_gated(&gate, &up)) {
            return y;
        }
        self.forward(gate) * up
    }

    /// The kernel that computes it, but for the limits of [`Gelu10`](Self::Gelu10).
    #[cfg(feature = "flex")]
    fn kernel(self) -> Option<Function> {
        match self {
            Self::Gelu | Self::Gelu10 => Some(Function::Gelu),
            Self::GeluTanh => Some(Function::GeluTanh),
            Self::QuickGelu => Some(Function::Swish(1.702)),
            Self::Silu => Some(Function::Swish(1.0)),
            Self::Relu => Some(Function::Relu),
            _ => None,
        }
    }
}

impl FromStr for Activation {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, activation)| *activation)
            .ok_or_else(|| UnknownName::new("activation", name, Self::NAMES.iter().map(|(known, _)| *known)))
    }
}

/// `x Phi(x)` of stock operations. Burn's own `gelu` has the tanh approximation's derivative on most backends, which is off
/// by up to 5e-4; the derivative of this one is that of the error function. Half precision is computed in `f32`.
fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    let x = match dtype {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    };
    let phi = ((x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    (x * phi).cast(dtype)
}

/// `(x - mean) / sqrt(var + eps) * gamma + beta` over the last axis; `[.., d_model]`.
///
/// # Panics
///
/// Panics if the last axis of `x` is not `d_model`.
pub fn layer_norm<const D: usize>(norm: &LayerNorm, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = fused::norm(Normalization::of_layer(norm), &x) {
        return y;
    }
    norm.forward(x)
}

/// [`layer_norm`] of `x + residual`; both `[.., d_model]`.
///
/// # Panics
///
/// Panics if the shapes differ or their last axis is not `d_model`.
pub fn add_layer_norm<const D: usize>(norm: &LayerNorm, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = fused::norm_of_sum(Normalization::of_layer(norm), &x, &residual) {
        return y;
    }
    norm.forward(x + residual)
}

/// `x / sqrt(mean(x^2) + eps) * gamma` over the last axis; `[.., d_model]`.
///
/// # Panics
///
/// Panics if the last axis of `x` is not `d_model`.
pub fn rms_norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = fused::norm(Normalization::of_rms(norm), &x) {
        return y;
    }
    norm.forward(x)
}

/// A frozen linear layer, `x w + b`, whose weight may be quantized or in `bf16`.
///
/// # Shapes
///
/// `[batch, seq, d_in] -> [batch, seq, d_out]`
///
/// # Panics
///
/// Panics if the last axis of `x` is not `d_in`.
pub fn linear(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let (weight, bias) = (layer.weight.val(), layer.bias.as_ref().map(|bias| bias.val()));
    #[cfg(feature = "flex")]
    if let Some(y) = fused::linear(&x, &weight, bias.as_ref()) {
        return y;
    }
    if weight.dtype() == x.dtype() {
        return layer.forward(x);
    }
    let [batch, seq, d_in] = x.dims();
    let [_, d_out] = weight.dims();
    let output = product(x.reshape([batch * seq, d_in]), weight).reshape([batch, seq, d_out]);
    match bias {
        Some(bias) => output + bias.unsqueeze(),
        None => output,
    }
}

/// `x w` for a weight in Burn's layout, trained or frozen, which may be quantized or in `bf16` if it is frozen:
/// `[n, d_in] x [d_in, d_out] -> [n, d_out]`.
///
/// # Panics
///
/// Panics if the inner axes differ.
pub fn product(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if matches!(weight.dtype(), DType::QFloat(_)) {
        return quantized_product(x, weight);
    }
    #[cfg(feature = "flex")]
    if let Some(y) = fused::linear(&x, &weight, None).or_else(|| fused::trained(&x, &weight, None)) {
        return y;
    }
    let weight = weight.cast(x.dtype());
    x.matmul(weight)
}

/// `x w^T` for a weight in the published layout: `[batch, seq, k] x [n, k] -> [batch, seq, n]`.
///
/// # Panics
///
/// Panics if the last axes differ.
pub fn project(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let [batch, seq, k] = x.dims();
    let [n, _] = weight.dims();
    product(x.reshape([batch * seq, k]), weight.transpose()).reshape([batch, seq, n])
}

/// `x w^T + b` for a layer in the published layout whose weight or bias may be trained: `[batch, seq, k]`, `[n, k]` and `[n]` to
/// `[batch, seq, n]`.
///
/// # Panics
///
/// Panics if the last axes, or `n` of the weight and of the bias, differ.
pub fn affine(x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    {
        let [batch, seq, k] = x.dims();
        let [n, _] = weight.dims();
        let (rows, weight) = (x.clone().reshape([batch * seq, k]), weight.clone().transpose());
        if let Some(y) = fused::trained(&rows, &weight, Some(&bias)) {
            return y.reshape([batch, seq, n]);
        }
    }
    project(x, weight) + bias.unsqueeze()
}

/// `x + y`, two tensors of one shape.
///
/// # Panics
///
/// Panics if the shapes differ.
pub fn add<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(sum) = fused::add(&x, &y) {
        return sum;
    }
    x + y
}

/// Softmax over the last axis of `scores + bias`; `scores [batch, heads, seq_q, seq_k]`, `bias` broadcast to it.
pub fn softmax_with_bias(scores: Tensor<4>, bias: Option<Tensor<4>>) -> Tensor<4> {
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    activation::softmax(scores, 3)
}

/// Scaled dot-product attention, `dropout(softmax(q k^T / sqrt(d_head) + bias)) v`.
///
/// `dropout` is the generator of the pass and the probability with which a weight is dropped, in training.
///
/// # Shapes
///
/// - `query`: `[batch, heads, seq_q, d_head]`; `key`, `value`: `[batch, kv_heads, seq_k, d_head]`, where `kv_heads` divides
///   `heads` and each serves as many queries that follow each other
/// - `bias`: broadcast to `[batch, heads, seq_q, seq_k]`
/// - returns `[batch, heads, seq_q, d_head]`
///
/// # Panics
///
/// Panics on tensors of other shapes.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    dropout: Option<(&Dropout, f64)>,
) -> Tensor<4> {
    let scale = (query.dims()[3] as f64).sqrt().recip();
    scaled_attention(query, key, value, scale, bias, dropout)
}

/// As [`attention`], with another factor than `1 / sqrt(d_head)` on the scores.
///
/// # Panics
///
/// As [`attention`].
pub fn scaled_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    scale: f64,
    bias: Option<Tensor<4>>,
    dropout: Option<(&Dropout, f64)>,
) -> Tensor<4> {
    let mask = dropout.and_then(|(dropout, prob)| dropout.draw(prob));
    #[cfg(feature = "flex")]
    if let Some(out) = fused::attention(&query, &key, &value, scale, bias.as_ref(), mask) {
        return out;
    }
    let query = if scale == 1.0 { query } else { query * scale };
    stock_attention(query, key, value, |scores| scores, bias, mask)
}

/// As [`scaled_attention`], with scores of at most `cap`: `cap tanh(scores / cap)` before the bias.
///
/// # Panics
///
/// As [`attention`].
pub fn capped_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    [scale, cap]: [f64; 2],
    bias: Option<Tensor<4>>,
    dropout: Option<(&Dropout, f64)>,
) -> Tensor<4> {
    let mask = dropout.and_then(|(dropout, prob)| dropout.draw(prob));
    let capped = |scores: Tensor<4>| scores.tanh() * cap;
    stock_attention(query * (scale / cap), key, value, capped, bias, mask)
}

/// `masked(softmax(map(q k^T) + bias)) v` in stock operations.
fn stock_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    map: impl Fn(Tensor<4>) -> Tensor<4>,
    bias: Option<Tensor<4>>,
    mask: Option<Mask>,
) -> Tensor<4> {
    let dropped = |weights| match mask {
        Some(mask) => masked(mask, weights),
        None => weights,
    };
    let [batch, heads, seq_q, d_head] = query.dims();
    let [_, kv_heads, seq_k, _] = key.dims();
    if kv_heads == heads {
        let weights = softmax_with_bias(map(query.matmul(key.swap_dims(2, 3))), bias);
        return dropped(weights).matmul(value);
    }
    // The queries of a group lie below each other, so that no key is copied.
    let rows = heads / kv_heads * seq_q;
    let scores = query
        .reshape([batch, kv_heads, rows, d_head])
        .matmul(key.swap_dims(2, 3));
    let weights = softmax_with_bias(map(scores.reshape([batch, heads, seq_q, seq_k])), bias);
    dropped(weights)
        .reshape([batch, kv_heads, rows, seq_k])
        .matmul(value)
        .reshape([batch, heads, seq_q, d_head])
}

/// Rotary position embeddings, `(a cos - b sin, b cos + a sin)` for the halves `a` and `b` of each head.
///
/// # Shapes
///
/// `x [batch, heads, seq, d_head]`; `cos` and `sin` `[1 or batch, 1, seq, d_head / 2]`; returns the shape of `x`.
///
/// # Panics
///
/// Panics on tensors of other shapes.
pub fn rotary(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(y) = fused::rotary(&x, &cos, &sin) {
        return y;
    }
    let half = x.dims()[3] / 2;
    let (a, b) = (x.clone().slice_dim(3, 0..half), x.slice_dim(3, half..2 * half));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = b * cos + a * sin;
    Tensor::cat(vec![first, second], 3)
}

/// Cross entropy `log sum_j exp(x_j) - x_y` of each row, `[rows, classes]` and `[rows]` to `[rows]`.
///
/// # Panics
///
/// Panics on a class outside the scores.
pub fn cross_entropy(scores: Tensor<2>, classes: Tensor<1, Int>) -> Tensor<1> {
    let [rows, _] = scores.dims();
    let picked = activation::log_softmax(scores, 1).gather(1, classes.reshape([rows, 1]));
    picked.reshape([rows]).neg()
}

/// The cross entropy of each row of `hidden w + bias` with its target, `log sum_j exp(s_j) - s_y`; zero for a row whose
/// target is negative. With a kernel the scores, which a vocabulary makes large, are never held whole.
///
/// # Shapes
///
/// `hidden [n, d]`, `weight [d, vocab]` in Burn's layout, which may be quantized or in `bf16`, `bias [vocab]`, `targets [n]`;
/// returns `[n]`.
///
/// # Panics
///
/// Panics on tensors of other shapes, and on a target of `vocab` or more.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    let weight = match weight.dtype() {
        DType::QFloat(_) => weight.dequantize(),
        DType::BF16 | DType::F32 => weight,
        _ => weight.cast(hidden.dtype()),
    };
    #[cfg(feature = "flex")]
    if let Some(losses) = fused::cross_entropy(&hidden, &weight, bias.as_ref(), &targets) {
        return losses;
    }
    let weight = weight.cast(hidden.dtype());
    let scores = hidden.matmul(weight);
    let scores = match bias {
        Some(bias) => scores + bias.unsqueeze(),
        None => scores,
    };
    let scored = targets.clone().greater_equal_elem(0).float();
    let targets = targets.clamp_min(0);
    cross_entropy(scores, targets) * scored
}

/// Additive attention bias `[batch, 1, 1, seq]` from padding: the least finite number where a key is padding.
pub fn padding_bias(padding: Tensor<2, Bool>) -> Tensor<4> {
    let [batch, seq] = padding.dims();
    (padding.float() * f32::MIN).reshape([batch, 1, 1, seq])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData, Tolerance};

    use super::*;

    #[test]
    fn every_listed_name_parses_and_a_wrong_one_is_named() {
        for (name, activation) in Activation::NAMES {
            assert_eq!(name.parse::<Activation>().unwrap(), *activation);
        }
        let error = "gellu".parse::<Activation>().unwrap_err().to_string();
        assert!(
            error.contains("gellu") && error.contains("did you mean `gelu`"),
            "{error}"
        );
    }

    /// Against `Phi(x) + x phi(x)`, with `erf` by its series in `f64`.
    #[test]
    fn the_derivative_of_stock_gelu_is_exact() {
        let points: Vec<f32> = (-40..=40).map(|i| i as f32 / 10.0).collect();
        let count = points.len();
        let x = Tensor::<1>::from_data(TensorData::new(points.clone(), [count]), &Device::flex().autodiff());
        let x = x.require_grad();
        let gradients = gelu(x.clone()).sum().backward();
        let found = x.grad(&gradients).unwrap().into_data();
        for (x, found) in points.iter().map(|x| f64::from(*x)).zip(found.iter::<f64>()) {
            let density = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= x * x / f64::from(2 * n + 1);
                sum += term;
            }
            let want = 0.5 + density * sum + x * density;
            assert!((found - want).abs() < 2e-6, "at {x}: {found}, not {want}");
        }
    }

    #[test]
    fn grouped_queries_see_the_heads_of_their_group() {
        let device = Device::flex();
        let random = |heads| Tensor::<4>::random([2, heads, 3, 4], Distribution::Normal(0.0, 1.0), &device);
        let (q, k, v) = (random(6), random(2), random(2));
        let repeated = |x: Tensor<4>| {
            let head = |head: usize| x.clone().slice_dim(1, head..head + 1).repeat_dim(1, 3);
            Tensor::cat(vec![head(0), head(1)], 1)
        };
        let whole = attention(q.clone(), repeated(k.clone()), repeated(v.clone()), None, None);
        attention(q, k, v, None, None)
            .into_data()
            .assert_approx_eq::<f32>(&whole.into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn attention_ignores_padding() {
        let device = Device::flex();
        let random = |shape| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (q, k, v) = (random([1, 2, 3, 4]), random([1, 2, 3, 4]), random([1, 2, 3, 4]));
        let padding = Tensor::<2, Bool>::from_data(TensorData::from([[false, false, true]]), &device);
        let masked = attention(q.clone(), k.clone(), v.clone(), Some(padding_bias(padding)), None);
        let short = attention(q, k.slice_dim(2, 0..2), v.slice_dim(2, 0..2), None, None);
        masked
            .into_data()
            .assert_approx_eq::<f32>(&short.into_data(), Tolerance::absolute(1e-6));
    }
}
