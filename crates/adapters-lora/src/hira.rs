//! HiRA: the frozen weight times a low-rank product, element by element.

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method, NotMergeable,
    SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::{ByModule, ModuleFields, PeftModules, peft_modules};
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// `W + W o (B A)`, `o` the elementwise product: an update of high rank.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | rank of the product | >= 1 |
/// | `rank_pattern` | `{}` | no effect, as in peft, which builds the first adapter of a module with `r` | as `r` |
/// | `hira_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
///
/// Paper: *HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models*, Huang et al., 2025,
/// <https://openreview.net/forum?id=TwJrTz9cRS>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hira {
    /// Rank of the product.
    pub r: usize,
    /// Read and written, without effect.
    pub rank_pattern: ByModule<usize>,
    /// Dropout probability on the input, in training.
    pub hira_dropout: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Hira {
    fn default() -> Self {
        Self {
            r: 8,
            rank_pattern: ByModule::default(),
            hira_dropout: 0.0,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Hira {
    const NAME: &'static str = "hira";
    const DESCRIPTION: &'static str = "The frozen weight multiplied elementwise by a low-rank product.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        (self.rank_pattern.values()).try_for_each(|rank| ConfigError::size("rank_pattern", rank))?;
        ConfigError::probability("hira_dropout", self.hira_dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let a = draw::linear(&mut build.rng(None, site.site), [self.r, d_in], d_in);
        Ok(SiteLayer::Linear(Erased::new(HadamardOfWeight {
            a: Param::from_data(a, build.device),
            b: Param::from_data(draw::constant([d_out, self.r], 0.0), build.device),
            dropout: self.hira_dropout,
        })))
    }
}

peft_modules!(Hira: "HIRA");

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct HadamardOfWeight {
    /// `[self.r, d_in]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_out, self.r]`.
    pub(crate) b: Param<Tensor<2>>,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl HadamardOfWeight {
    /// The update, `[d_in, d_out]`, of a weight of that shape.
    fn delta(&self, weight: Tensor<2>) -> Tensor<2> {
        weight * self.a.val().transpose().matmul(self.b.val().transpose())
    }
}

impl SiteAdapter<LinearState> for HadamardOfWeight {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let delta = self.delta(float_weight(&state.layer));
        state.plus(|x| call.dropout(x, self.dropout).matmul(delta.unsqueeze()))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(LinearWeight {
            weight: base.weight.clone() + self.delta(base.weight),
            ..base
        })
    }
}

named_params!(HadamardOfWeight: "hira_A" => a, "hira_B" => b);
