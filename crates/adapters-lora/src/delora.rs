//! DeLoRA: low rank with strength and direction apart.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight,
    Method, ModulePatterns, NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::{ByModule, ModuleFields, PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// `W + (lambda / r) B D A diag(n)`, where `D` divides each rank by the norms of its row of A and column of B, and `n` are
/// the norms of the frozen weight's columns.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | rank | >= 1 |
/// | `delora_lambda` | 15 | initial bound of the update's norm, learned | finite |
/// | `rank_pattern`, `lambda_pattern` | `{}` | rank and bound by module path | as `r` and `delora_lambda` |
/// | `module_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
///
/// Paper: *Decoupling Angles and Strength in Low-rank Adaptation*, Bini et al., 2025, <https://arxiv.org/abs/2503.18225>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delora {
    /// Rank.
    pub r: usize,
    /// Initial bound of the update's norm.
    pub delora_lambda: f64,
    /// Ranks by module path.
    pub rank_pattern: ByModule<usize>,
    /// Initial bounds by module path.
    pub lambda_pattern: ByModule<f64>,
    /// Dropout probability on the input, in training.
    pub module_dropout: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Delora {
    fn default() -> Self {
        Self {
            r: 8,
            delora_lambda: 15.0,
            rank_pattern: ByModule::default(),
            lambda_pattern: ByModule::default(),
            module_dropout: 0.0,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Delora {
    const NAME: &'static str = "delora";
    const DESCRIPTION: &'static str = "A normalized low-rank update with a learned strength.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::finite("delora_lambda", self.delora_lambda)?;
        (self.rank_pattern.values()).try_for_each(|rank| ConfigError::size("rank_pattern", rank))?;
        (self.lambda_pattern.values()).try_for_each(|bound| ConfigError::finite("lambda_pattern", bound))?;
        ConfigError::probability("module_dropout", self.module_dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let Some(frozen) = build.host.linear(site.site) else {
            return Err(Self::refuse(site, "the model gives no access to this weight"));
        };
        let norms = float_weight(frozen).square().sum_dim(1).sqrt().reshape([d_in]);
        let r = self.rank_pattern.at(&site.path)?.unwrap_or(self.r);
        let lambda = self.lambda_pattern.at(&site.path)?.unwrap_or(self.delora_lambda);
        let a = draw::linear(&mut build.rng(None, site.site), [r, d_in], d_in);
        Ok(SiteLayer::Linear(Erased::new(Normalized {
            a: Param::from_data(a, build.device),
            b: Param::from_data(draw::constant([d_out, r], 0.0), build.device),
            lambda: Param::from_data(draw::constant([1], lambda as f32), build.device),
            norms: Param::from_data(norms.into_data(), build.device).set_require_grad(false),
            dropout: self.module_dropout,
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            patterns: Some(self),
            ..Capabilities::default()
        }
    }
}

impl ModulePatterns for Delora {
    fn patterns(&self) -> Vec<(&'static str, &str)> {
        self.rank_pattern
            .patterns("rank_pattern")
            .chain(self.lambda_pattern.patterns("lambda_pattern"))
            .collect()
    }
}

peft_modules!(Delora: "DELORA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Normalized {
    /// `[r, d_in]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_out, r]`.
    pub(crate) b: Param<Tensor<2>>,
    /// `[1]`.
    pub(crate) lambda: Param<Tensor<1>>,
    /// Norms of the frozen weight's columns, `[d_in]`; stored, never trained.
    pub(crate) norms: Param<Tensor<1>>,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

/// Smallest norm that is divided by.
const LEAST: f64 = 1e-4;

impl Normalized {
    /// `lambda / (r |a_i| |b_i|)` of each rank, `[r]`.
    fn scales(&self) -> Tensor<1> {
        let [r, _] = self.a.dims();
        let norm_a = self.a.val().square().sum_dim(1).reshape([r]);
        let norm_b = self.b.val().square().sum_dim(0).reshape([r]);
        let norms = norm(norm_a) * norm(norm_b);
        self.lambda.val() / r as f64 / norms
    }
}

/// The root, at least [`LEAST`]; its derivative at zero is zero there.
fn norm(square: Tensor<1>) -> Tensor<1> {
    square.clamp_min(LEAST * LEAST).sqrt()
}

impl SiteAdapter<LinearState> for Normalized {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        state.plus(|x| {
            let x = call.dropout(x, self.dropout) * self.norms.val().unsqueeze();
            let narrow = project(x, self.a.val()) * self.scales().unsqueeze();
            project(narrow, self.b.val())
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let right = self.a.val() * self.scales().unsqueeze_dim(1) * self.norms.val().unsqueeze_dim(0);
        Ok(base.plus(self.b.val().matmul(right)))
    }
}

named_params!(Normalized: "delora_A" => a, "delora_B" => b, "delora_lambda" => lambda, "delora_w_norm" => norms; fixed norms);
