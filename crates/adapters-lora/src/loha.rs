//! LoHa: the elementwise product of two low-rank products.

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Capabilities, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method,
    ModulePatterns, NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::{ByModule, ModuleFields, PeftModules, peft_modules};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::kernel_product::{core_shape, kernel_factors, of_factors};
use crate::update_dropout::UpdateDropout;

/// `W + (alpha / r) (B1 A1) o (B2 A2)`, `o` the elementwise product.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | width of both products | >= 1 |
/// | `alpha` | 8 | numerator of the scale | finite |
/// | `rank_pattern`, `alpha_pattern` | `{}` | rank and alpha by module path | as `r` and `alpha` |
/// | `use_effective_conv2d` | false | whether kernels of convolutions are products of three factors | |
/// | `rank_dropout` | 0 | dropout of output features of the update, in training; the others are divided by their share | `0 <= p < 1` |
/// | `module_dropout` | 0 | dropout of the update as a whole, in training | `0 <= p < 1` |
///
/// Paper: *FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning*, Hyeon-Woo et al., 2021,
/// <https://arxiv.org/abs/2108.06098>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loha {
    /// Width of both products.
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Ranks by module path.
    pub rank_pattern: ByModule<usize>,
    /// Alphas by module path.
    pub alpha_pattern: ByModule<f64>,
    /// Whether the update of a convolution whose kernel is larger than one sample is a product of three factors,
    /// `sum_ij a[i, out] t[i, j, kernel] b[j, in]`, in place of one of two.
    pub use_effective_conv2d: bool,
    /// Dropout of output features of the update, in training.
    pub rank_dropout: f64,
    /// Dropout of the update as a whole, in training.
    pub module_dropout: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Loha {
    fn default() -> Self {
        Self {
            r: 8,
            alpha: 8.0,
            rank_pattern: ByModule::default(),
            alpha_pattern: ByModule::default(),
            use_effective_conv2d: false,
            rank_dropout: 0.0,
            module_dropout: 0.0,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Loha {
    const NAME: &'static str = "loha";
    const DESCRIPTION: &'static str = "The elementwise product of two low-rank products.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::finite("alpha", self.alpha)?;
        (self.rank_pattern.values()).try_for_each(|rank| ConfigError::size("rank_pattern", rank))?;
        (self.alpha_pattern.values()).try_for_each(|alpha| ConfigError::finite("alpha_pattern", alpha))?;
        self.dropout().check()
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let mut rng = build.rng(None, site.site);
        let r = self.rank_pattern.at(&site.path)?.unwrap_or(self.r);
        let alpha = self.alpha_pattern.at(&site.path)?.unwrap_or(self.alpha);
        let kernel = kernel_factors(site, self.use_effective_conv2d);
        let ([a, b], core) = match kernel {
            Some([channels, samples]) => ([[r, d_out], [r, channels]], Some([r * r, samples])),
            None => ([[d_out, r], [r, d_in]], None),
        };
        let mut normal = |shape, std| Param::from_data(draw::normal(&mut rng, shape, std), build.device);
        Ok(SiteLayer::Linear(Erased::new(Hadamard {
            t1: core.map(|shape| normal(shape, 1.0)),
            w1_a: normal(a, 0.1),
            w1_b: normal(b, 1.0),
            t2: core.map(|shape| normal(shape, 1.0)),
            // Zero, so that a new adapter is the identity.
            w2_a: Param::from_data(draw::constant(a, 0.0), build.device),
            w2_b: normal(b, 1.0),
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

impl Loha {
    fn dropout(&self) -> UpdateDropout {
        UpdateDropout {
            rank: self.rank_dropout,
            rescales: true,
            module: self.module_dropout,
        }
    }
}

impl ModulePatterns for Loha {
    fn patterns(&self) -> Vec<(&'static str, &str)> {
        self.rank_pattern
            .patterns("rank_pattern")
            .chain(self.alpha_pattern.patterns("alpha_pattern"))
            .collect()
    }
}

peft_modules!(Loha: "LOHA" {
    fn param_shape(site: &SiteInfo, param: &str, shape: Vec<usize>) -> Vec<usize> {
        match param {
            "hada_t1" | "hada_t2" => core_shape(site, &shape),
            _ => shape,
        }
    }
});

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Hadamard {
    /// `[r * r, kernel]`, of a convolution whose update has three factors.
    pub(crate) t1: Option<Param<Tensor<2>>>,
    /// `[r * r, kernel]`, of a convolution whose update has three factors.
    pub(crate) t2: Option<Param<Tensor<2>>>,
    /// `[d_out, r]`; with three factors `[r, d_out]`.
    pub(crate) w1_a: Param<Tensor<2>>,
    /// `[r, d_in]`; with three factors `[r, channels]`.
    pub(crate) w1_b: Param<Tensor<2>>,
    /// `[d_out, r]`; with three factors `[r, d_out]`.
    pub(crate) w2_a: Param<Tensor<2>>,
    /// `[r, d_in]`; with three factors `[r, channels]`.
    pub(crate) w2_b: Param<Tensor<2>>,
    /// `alpha / r`.
    pub(crate) scale: f64,
    #[module(skip)]
    pub(crate) dropout: UpdateDropout,
}

impl Hadamard {
    /// The update, `[d_out, d_in]`.
    pub(crate) fn delta(&self) -> Tensor<2> {
        let first = of_factors(&self.t1, self.w1_a.val(), self.w1_b.val());
        let second = of_factors(&self.t2, self.w2_a.val(), self.w2_b.val());
        first * second * self.scale
    }
}

impl SiteAdapter<LinearState> for Hadamard {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        state.plus(|x| self.dropout.forward(project(x, self.delta()), call))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.delta()))
    }
}

named_params!(Hadamard: "hada_w1_a" => w1_a, "hada_w1_b" => w1_b, "hada_w2_a" => w2_a, "hada_w2_b" => w2_b;
    optional "hada_t1" => t1, "hada_t2" => t2);
