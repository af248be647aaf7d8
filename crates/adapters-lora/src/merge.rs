//! Folding into the frozen weight. Weights are `[d_in, d_out]` here, transposed against the published layout.

use adapters_core::LinearWeight;
use burn::tensor::Tensor;

/// `W + s B A`; the bias is untouched. `a [rank, d_in]`, `b [d_out, rank]`.
pub(crate) fn add(base: LinearWeight, a: Tensor<2>, b: Tensor<2>, scale: f64) -> LinearWeight {
    let dtype = base.weight.dtype();
    let delta = a.transpose().matmul(b.transpose()) * scale;
    let delta = if delta.dtype() == dtype {
        delta
    } else {
        delta.cast(dtype)
    };
    LinearWeight {
        weight: base.weight + delta,
        bias: base.bias,
    }
}

/// `W` and bias times a factor for each output feature. `factor [d_out]`.
pub(crate) fn scale(base: LinearWeight, factor: Tensor<1>) -> LinearWeight {
    LinearWeight {
        weight: base.weight * factor.clone().unsqueeze(),
        bias: base.bias.map(|b| b * factor),
    }
}
