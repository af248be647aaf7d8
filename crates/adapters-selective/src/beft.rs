//! BEFT: a trained vector in addition to the bias of a layer.

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method, NotMergeable, Role,
    SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::draw;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// `W x + b + c` with a trained vector `c`; at the value projections without `target_modules`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `init_weights` | true | begin at zero; normal values without it | |
///
/// Paper: *BEFT: Bias-Efficient Fine-Tuning of Language Models*, 2025, <https://arxiv.org/abs/2509.15974>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Beft {
    /// Whether the vector begins at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Beft {
    fn default() -> Self {
        Self {
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Beft {
    const NAME: &'static str = "beft";
    const DESCRIPTION: &'static str = "A trained vector in addition to the bias of a layer.";

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn target(&self) -> Target {
        self.modules().target_or(Target::roles([Role::Value]))
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (_, d_out) = Self::linear_dims(site)?;
        let bias = match self.init_weights {
            true => draw::constant([1, d_out], 0.0),
            false => draw::normal(&mut build.rng(None, site.site), [1, d_out], 1.0),
        };
        Ok(SiteLayer::Linear(Erased::new(AddedBias {
            bias: Param::from_data(bias, build.device),
        })))
    }
}

peft_modules!(Beft: "BEFT");

/// The vector of one layer.
#[derive(Module, Debug)]
pub(crate) struct AddedBias {
    /// `[1, d_out]`.
    pub(crate) bias: Param<Tensor<2>>,
}

impl SiteAdapter<LinearState> for AddedBias {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let [_, d_out] = self.bias.dims();
        let bias: Tensor<3> = self.bias.val().unsqueeze();
        state.plus(|x| {
            let [batch, seq, _] = x.dims();
            bias.expand([batch, seq, d_out])
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let added = self.bias.val().squeeze_dim::<1>(0);
        let bias = Some(match base.bias {
            Some(bias) => bias + added,
            None => added,
        });
        Ok(LinearWeight { bias, ..base })
    }
}

named_params!(AddedBias: "beft_bias" => bias);
