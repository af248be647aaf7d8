//! LoHa: the elementwise product of two low-rank products.

use adapters_core::target::{ModuleFields, Target};
use adapters_core::{
    Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method, NotMergeable,
    PeftModules, SiteAdapter, SiteInfo, SiteLayer, Source, named_params, peft_modules,
};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// `W + (alpha / r) (B1 A1) o (B2 A2)`, `o` the elementwise product.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | width of both products | >= 1 |
/// | `alpha` | 8 | numerator of the scale | finite |
/// | `rank_dropout` | 0 | not computed | 0 |
/// | `module_dropout` | 0 | not computed | 0 |
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
    /// Only 0 is computed.
    pub rank_dropout: f64,
    /// Only 0 is computed.
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
            rank_dropout: 0.0,
            module_dropout: 0.0,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Loha {
    const NAME: &'static str = "loha";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::unless(self.r > 0, "r", "at least 1", self.r)?;
        ConfigError::unless(self.alpha.is_finite(), "alpha", "a finite number", self.alpha)?;
        ConfigError::unless(self.rank_dropout == 0.0, "rank_dropout", "0", self.rank_dropout)?;
        ConfigError::unless(self.module_dropout == 0.0, "module_dropout", "0", self.module_dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let mut rng = build.rng(None, site.site);
        let mut normal = |shape, std| Param::from_data(draw::normal(&mut rng, shape, std), build.device);
        Ok(SiteLayer::Linear(Erased::new(Hadamard {
            w1_a: normal([d_out, self.r], 0.1),
            w1_b: normal([self.r, d_in], 1.0),
            // Zero, so that a new adapter is the identity.
            w2_a: Param::from_data(draw::constant([d_out, self.r], 0.0), build.device),
            w2_b: normal([self.r, d_in], 1.0),
            scale: self.alpha / self.r as f64,
        })))
    }
}

peft_modules!(Loha: "LOHA");

/// The update of one layer.
#[derive(Module, Debug)]
pub struct Hadamard {
    /// `[d_out, r]`.
    pub w1_a: Param<Tensor<2>>,
    /// `[r, d_in]`.
    pub w1_b: Param<Tensor<2>>,
    /// `[d_out, r]`.
    pub w2_a: Param<Tensor<2>>,
    /// `[r, d_in]`.
    pub w2_b: Param<Tensor<2>>,
    /// `alpha / r`.
    pub scale: f64,
}

impl Hadamard {
    /// The update, `[d_out, d_in]`.
    pub fn delta(&self) -> Tensor<2> {
        let first = self.w1_a.val().matmul(self.w1_b.val());
        let second = self.w2_a.val().matmul(self.w2_b.val());
        first * second * self.scale
    }
}

impl SiteAdapter<LinearState> for Hadamard {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        state.plus(|x| project(x, self.delta()))
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

named_params!(Hadamard: "hada_w1_a" => w1_a, "hada_w1_b" => w1_b, "hada_w2_a" => w2_a, "hada_w2_b" => w2_b);
