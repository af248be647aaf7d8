//! RoAd: pairs of outputs rotated and scaled.

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method, NotMergeable,
    SiteAdapter, SiteInfo, SiteLayer, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// `y_i = a_i cos t_i z_i -+ a_i sin t_i z_j` of the frozen output `z`, `j` the partner of `i` in the other half of its
/// group.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `variant` | `road_1` | how many angles and scales: one a pair, one an output, two an output | `road_1`, `road_2`, `road_4` |
/// | `group_size` | 64 | outputs of a group, whose halves are partners; divides `d_out` | even |
///
/// Paper: *3-in-1: 2D Rotary Adaptation for Efficient Finetuning, Efficient Batching and Composability*, Liao and Monz,
/// 2024, <https://arxiv.org/abs/2409.00119>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Road {
    /// How many angles and scales.
    pub variant: RoadVariant,
    /// Outputs of a group.
    pub group_size: usize,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

/// How many angles and scales there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoadVariant {
    /// One a pair of outputs.
    #[default]
    #[serde(rename = "road_1")]
    Pair,
    /// One an output.
    #[serde(rename = "road_2")]
    Output,
    /// Two an output.
    #[serde(rename = "road_4")]
    Two,
}

impl Default for Road {
    fn default() -> Self {
        Self {
            variant: RoadVariant::Pair,
            group_size: 64,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Road {
    const NAME: &'static str = "road";
    const DESCRIPTION: &'static str = "Pairs of outputs rotated and scaled.";

    fn check(&self) -> Result<(), ConfigError> {
        let even = self.group_size > 0 && self.group_size.is_multiple_of(2);
        ConfigError::unless(even, "group_size", "even and at least 2", self.group_size)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (_, d_out) = Self::linear_dims(site)?;
        if !d_out.is_multiple_of(self.group_size) {
            let reason = format!("group_size is {}, which does not divide {d_out}", self.group_size);
            return Err(Self::refuse(site, reason));
        }
        let size = match self.variant {
            RoadVariant::Pair => d_out / 2,
            RoadVariant::Output => d_out,
            RoadVariant::Two => 2 * d_out,
        };
        Ok(SiteLayer::Linear(Erased::new(PairRotation {
            theta: Param::from_data(draw::constant([size], 0.0), build.device),
            alpha: Param::from_data(draw::constant([size], 1.0), build.device),
            group: self.group_size,
            variant: self.variant,
        })))
    }
}

peft_modules!(Road: "ROAD");

/// The rotation of one layer's output.
#[derive(Module, Debug)]
pub(crate) struct PairRotation {
    /// Angles; `[d_out / 2]`, `[d_out]` or `[2 d_out]`.
    pub(crate) theta: Param<Tensor<1>>,
    /// Scales, of the same shape.
    pub(crate) alpha: Param<Tensor<1>>,
    /// Outputs of a group.
    pub(crate) group: usize,
    /// How many angles and scales.
    #[module(skip)]
    pub(crate) variant: RoadVariant,
}

impl PairRotation {
    /// What an output and its partner are multiplied with, `[d_out]` each.
    fn factors(&self) -> (Tensor<1>, Tensor<1>) {
        let (theta, alpha) = (self.theta.val(), self.alpha.val());
        let [size] = theta.dims();
        let spread = |x: Tensor<1>| match self.variant {
            RoadVariant::Pair => {
                let half = self.group / 2;
                x.reshape([size / half, 1, half]).repeat_dim(1, 2).reshape([2 * size])
            }
            _ => x,
        };
        let half = |x: Tensor<1>, index: usize| match self.variant {
            RoadVariant::Two => {
                let groups = size / (2 * self.group);
                let x = x.reshape([groups, 2, self.group]).slice_dim(1, index..index + 1);
                x.reshape([size / 2])
            }
            _ => spread(x),
        };
        let own = half(alpha.clone(), 0) * half(theta.clone(), 0).cos();
        let partner = half(alpha, 1) * half(theta, 1).sin();
        (own, partner)
    }

    /// Rows of outputs, rotated: `[rows, d_out]`.
    fn rotate(&self, x: Tensor<2>) -> Tensor<2> {
        let (own, partner) = self.factors();
        let [rows, d_out] = x.dims();
        let half = self.group / 2;
        let groups = x.clone().reshape([rows, d_out / self.group, 2, half]);
        let (first, second) = (groups.clone().slice_dim(2, 0..1), groups.slice_dim(2, 1..2));
        let partners = Tensor::cat(vec![-second, first], 2).reshape([rows, d_out]);
        x * own.unsqueeze() + partners * partner.unsqueeze()
    }
}

impl SiteAdapter<LinearState> for PairRotation {
    /// Rotates the frozen layer, so that what other adapters add stays as it is.
    fn apply(&self, mut state: LinearState, _call: &Call<'_>) -> LinearState {
        state.layer.weight = Param::initialized(ParamId::new(), self.rotate(float_weight(&state.layer)));
        state.layer.bias = state.layer.bias.map(|bias| {
            let [d_out] = bias.dims();
            let bias = self.rotate(bias.val().reshape([1, d_out])).reshape([d_out]);
            Param::initialized(ParamId::new(), bias)
        });
        state
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(LinearWeight {
            weight: self.rotate(base.weight),
            bias: base.bias.map(|bias| {
                let [d_out] = bias.dims();
                self.rotate(bias.reshape([1, d_out])).reshape([d_out])
            }),
        })
    }
}

named_params!(PairRotation: "road_theta" => theta, "road_alpha" => alpha);
