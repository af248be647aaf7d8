//! LoKr: a Kronecker product of two matrices, either of them a product itself.

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Capabilities, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method,
    ModulePatterns, NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::{ByModule, ModuleFields, PeftModules, peft_modules};
use adapters_nn::draw;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::kernel_product::{core_shape, kernel_factors, of_factors};
use crate::update_dropout::UpdateDropout;

/// `W + (alpha / r) kron(W1, W2)`, where a large factor is itself a product of rank `r`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | rank of a factor that is a product | >= 1 |
/// | `alpha` | 8 | numerator of the scale | finite |
/// | `rank_pattern`, `alpha_pattern` | `{}` | rank and alpha by module path | as `r` and `alpha` |
/// | `decompose_both` | false | whether the small factor may be a product too | |
/// | `decompose_factor` | -1 | size of the small factor; near the square root if -1 | -1 or >= 1 |
/// | `use_effective_conv2d` | false | whether kernels of convolutions are products of three factors | |
/// | `rank_dropout` | 0 | dropout of output features of the update, in training | `0 <= p < 1` |
/// | `rank_dropout_scale` | false | whether the other features are divided by their share | |
/// | `module_dropout` | 0 | dropout of the update as a whole, in training | `0 <= p < 1` |
///
/// Source: *Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation*, Yeh et al., 2023,
/// <https://arxiv.org/abs/2309.14859>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lokr {
    /// Rank of a factor that is a product.
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Ranks by module path.
    pub rank_pattern: ByModule<usize>,
    /// Alphas by module path.
    pub alpha_pattern: ByModule<f64>,
    /// Whether the small factor may be a product too.
    pub decompose_both: bool,
    /// Size of the small factor; near the square root if -1.
    pub decompose_factor: i64,
    /// Whether the large factor of a convolution is a product of three factors, `sum_ij a[i, out] t[i, j, kernel] b[j, in]`,
    /// in place of one of two.
    pub use_effective_conv2d: bool,
    /// Dropout of output features of the update, in training.
    pub rank_dropout: f64,
    /// Whether the features that are left are divided by their share.
    pub rank_dropout_scale: bool,
    /// Dropout of the update as a whole, in training.
    pub module_dropout: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Lokr {
    fn default() -> Self {
        Self {
            r: 8,
            alpha: 8.0,
            rank_pattern: ByModule::default(),
            alpha_pattern: ByModule::default(),
            decompose_both: false,
            decompose_factor: -1,
            use_effective_conv2d: false,
            rank_dropout: 0.0,
            rank_dropout_scale: false,
            module_dropout: 0.0,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Lokr {
    const NAME: &'static str = "lokr";
    const DESCRIPTION: &'static str = "A Kronecker product of two matrices, either of them a low-rank product.";

    fn check(&self) -> Result<(), ConfigError> {
        let factor = self.decompose_factor;
        ConfigError::size("r", self.r)?;
        ConfigError::finite("alpha", self.alpha)?;
        (self.rank_pattern.values()).try_for_each(|rank| ConfigError::size("rank_pattern", rank))?;
        (self.alpha_pattern.values()).try_for_each(|alpha| ConfigError::finite("alpha_pattern", alpha))?;
        ConfigError::unless(
            factor == -1 || factor > 0,
            "decompose_factor",
            "-1 or at least 1",
            factor,
        )?;
        self.dropout().check()
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        // Of a convolution the channels are factored, and the samples of the kernel stay with the large factor.
        let channels = site.kernel.first().copied().unwrap_or(d_in);
        let (in_small, in_large) = factorisation(channels, self.decompose_factor);
        let (out_small, out_large) = factorisation(d_out, self.decompose_factor);
        let r = self.rank_pattern.at(&site.path)?.unwrap_or(self.r);
        let alpha = self.alpha_pattern.at(&site.path)?.unwrap_or(self.alpha);
        let product_small = self.decompose_both && 2 * r < out_small.max(in_small);
        let product_large = 2 * r < out_large.max(in_large);
        let kernel = kernel_factors(site, self.use_effective_conv2d && product_large);
        let in_flat = in_large * (d_in / channels);
        let ([large_a, large_b], core) = match kernel {
            Some([_, samples]) => ([[r, out_large], [r, in_large]], Some([r * r, samples])),
            None => ([[out_large, r], [r, in_flat]], None),
        };
        let mut rng = build.rng(None, site.site);
        // Kaiming uniform with a = sqrt(5).
        let mut drawn = |shape: [usize; 2]| draw::linear_param(&mut rng, shape, shape[1], build.device);
        let zeros = |shape: [usize; 2]| Param::from_data(draw::constant(shape, 0.0), build.device);
        Ok(SiteLayer::Linear(Erased::new(Kronecker {
            w1: (!product_small).then(|| zeros([out_small, in_small])),
            w1_a: product_small.then(|| zeros([out_small, r])),
            w1_b: product_small.then(|| drawn([r, in_small])),
            w2: (!product_large).then(|| drawn([out_large, in_flat])),
            t2: core.map(&mut drawn),
            w2_a: product_large.then(|| drawn(large_a)),
            w2_b: product_large.then(|| drawn(large_b)),
            scale: alpha / r as f64,
            dropout: self.dropout(),
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            patterns: Some(self),
            ..Capabilities::default()
        }
    }
}

impl Lokr {
    fn dropout(&self) -> UpdateDropout {
        UpdateDropout {
            rank: self.rank_dropout,
            rescales: self.rank_dropout_scale,
            module: self.module_dropout,
        }
    }
}

impl ModulePatterns for Lokr {
    fn patterns(&self) -> Vec<(&'static str, &str)> {
        self.rank_pattern
            .patterns("rank_pattern")
            .chain(self.alpha_pattern.patterns("alpha_pattern"))
            .collect()
    }
}

peft_modules!(Lokr: "LOKR" {
    fn param_shape(site: &SiteInfo, param: &str, shape: Vec<usize>) -> Vec<usize> {
        match param {
            "lokr_t2" => core_shape(site, &shape),
            // The whole large factor of a convolution has the axes of the kernel.
            "lokr_w2" if !site.kernel.is_empty() => {
                let samples: usize = site.kernel[1..].iter().product();
                [&[shape[0], shape[1] / samples.max(1)], &site.kernel[1..]].concat()
            }
            _ => shape,
        }
    }
});

/// Two factors of `dimension`, the smaller first: `factor` and the rest if it divides, else the pair nearest to each
/// other whose smaller is at most `factor`.
fn factorisation(dimension: usize, factor: i64) -> (usize, usize) {
    let limit = match usize::try_from(factor) {
        Ok(factor) if factor > 0 && dimension.is_multiple_of(factor) => return (factor, dimension / factor),
        Ok(factor) => factor,
        Err(_) => dimension,
    };
    let (mut m, mut n) = (1, dimension);
    for candidate in (2..=dimension).take_while(|candidate| candidate * candidate <= dimension && *candidate <= limit) {
        if dimension.is_multiple_of(candidate) {
            (m, n) = (candidate, dimension / candidate);
        }
    }
    (m, n)
}

/// The update of one layer. Of each factor either the matrix or its two parts are there.
#[derive(Module, Debug)]
pub(crate) struct Kronecker {
    /// `[out_small, in_small]`.
    pub(crate) w1: Option<Param<Tensor<2>>>,
    /// `[out_small, r]`.
    pub(crate) w1_a: Option<Param<Tensor<2>>>,
    /// `[r, in_small]`.
    pub(crate) w1_b: Option<Param<Tensor<2>>>,
    /// `[out_large, in_large]`; of a convolution `in_large` has the samples of the kernel, too.
    pub(crate) w2: Option<Param<Tensor<2>>>,
    /// `[r * r, kernel]`, of a convolution whose update has three factors.
    pub(crate) t2: Option<Param<Tensor<2>>>,
    /// `[out_large, r]`; with three factors `[r, out_large]`.
    pub(crate) w2_a: Option<Param<Tensor<2>>>,
    /// `[r, in_large]`.
    pub(crate) w2_b: Option<Param<Tensor<2>>>,
    /// `alpha / r`.
    pub(crate) scale: f64,
    #[module(skip)]
    pub(crate) dropout: UpdateDropout,
}

/// A factor: itself, or the product of its parts.
fn factor(
    core: &Option<Param<Tensor<2>>>,
    whole: &Option<Param<Tensor<2>>>,
    left: &Option<Param<Tensor<2>>>,
    right: &Option<Param<Tensor<2>>>,
) -> Option<Tensor<2>> {
    match (whole, left, right) {
        (Some(whole), ..) => Some(whole.val()),
        (None, Some(left), Some(right)) => Some(of_factors(core, left.val(), right.val())),
        _ => None,
    }
}

impl Kronecker {
    /// Both factors, `[out_small, in_small]` times the scale and `[out_large, in_large]`.
    fn factors(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        let first = factor(&None, &self.w1, &self.w1_a, &self.w1_b)? * self.scale;
        Some((first, factor(&self.t2, &self.w2, &self.w2_a, &self.w2_b)?))
    }

    /// `x kron(W1, W2)^T` without the dense product: `[batch, seq, d_in] -> [batch, seq, d_out]`.
    fn project(&self, x: Tensor<3>) -> Tensor<3> {
        let Some((first, second)) = self.factors() else {
            return x.zeros_like();
        };
        let ([batch, seq, _], [l1, k1], [l2, k2]) = (x.dims(), first.dims(), second.dims());
        let x = x.reshape([batch * seq * k1, k2]).matmul(second.transpose());
        let x = x
            .reshape([batch * seq, k1, l2])
            .swap_dims(1, 2)
            .reshape([batch * seq * l2, k1]);
        let x = x.matmul(first.transpose()).reshape([batch * seq, l2, l1]);
        x.swap_dims(1, 2).reshape([batch, seq, l1 * l2])
    }
}

impl SiteAdapter<LinearState> for Kronecker {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        state.plus(|x| self.dropout.forward(self.project(x), call))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let Some((first, second)) = self.factors() else {
            return Ok(base);
        };
        let ([l1, k1], [l2, k2]) = (first.dims(), second.dims());
        let product = first.reshape([l1, 1, k1, 1]) * second.reshape([1, l2, 1, k2]);
        Ok(base.plus(product.reshape([l1 * l2, k1 * k2])))
    }
}

named_params!(Kronecker: ; optional "lokr_w1" => w1, "lokr_w1_a" => w1_a, "lokr_w1_b" => w1_b, "lokr_w2" => w2,
    "lokr_t2" => t2, "lokr_w2_a" => w2_a, "lokr_w2_b" => w2_b);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_peft() {
        for (dimension, factor, expected) in [
            (256, -1, (16, 16)),
            (128, -1, (8, 16)),
            (127, -1, (1, 127)),
            (128, 4, (4, 32)),
            (250, 4, (2, 125)),
            (360, 4, (4, 90)),
            (384, -1, (16, 24)),
        ] {
            assert_eq!(factorisation(dimension, factor), expected, "{dimension}, {factor}");
        }
    }
}
