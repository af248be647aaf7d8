//! AdaLoRA: an update in the form of a singular value decomposition, whose rank is cut where it matters least.

mod schedule;

use adapters_core::target::Target;
use adapters_core::{
    Attached, Build, Call, Capabilities, Causality, ConfigError, Effect, Erased, Error, LearnsFaster, LinearState,
    LinearWeight, Method, NotMergeable, Penalized, Scheduled, SiteAdapter, SiteInfo, SiteLayer, Source,
    TrainingSchedule, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::adalora::schedule::{RankAllocator, Schedule};

/// `W + (lora_alpha / (r + 1e-5)) B diag(E) A`, `r` the initial rank.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `init_r` | 12 | rank of each layer at the start | >= 1 |
/// | `target_r` | 8 | mean rank of the layers at the end | >= 1 |
/// | `lora_alpha` | 8 | numerator of the scale | finite |
/// | `lora_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
/// | `orth_reg_weight` | 0.5 | weight of the penalty on A and B that are not orthogonal | >= 0 |
/// | `tinit`, `tfinal` | 0 | steps before the first cut of ranks and after the last | together below the run's steps |
/// | `deltaT` | 1 | steps from one cut to the next | >= 1 |
/// | `beta1`, `beta2` | 0.85 | smoothing of the importance and of its uncertainty | `0 < beta < 1` |
/// | `total_step` | none | length of the schedule; the run's steps without it | |
///
/// In training the triplets that matter least lose their singular value, at first none, at last all but `target_r` a layer
/// on average; the penalty `orth_reg_weight mean |P P^T - I|` keeps A and B near to orthogonal.
///
/// Paper: *AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning*, Zhang et al., 2023,
/// <https://arxiv.org/abs/2303.10512>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adalora {
    /// Rank of each layer at the start.
    pub init_r: usize,
    /// Mean rank of the layers at the end.
    pub target_r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Dropout probability on the input, in training.
    pub lora_dropout: f64,
    /// Weight of the orthogonality penalty.
    pub orth_reg_weight: f64,
    /// Steps before the first cut of ranks.
    pub tinit: u64,
    /// Steps after the last.
    pub tfinal: u64,
    /// Steps from one cut to the next.
    #[serde(rename = "deltaT")]
    pub delta_t: u64,
    /// Smoothing of the importance.
    pub beta1: f64,
    /// Smoothing of its uncertainty.
    pub beta2: f64,
    /// Length of the schedule; the run's steps without it.
    pub total_step: Option<u64>,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Adalora {
    fn default() -> Self {
        Self {
            init_r: 12,
            target_r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            orth_reg_weight: 0.5,
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            total_step: None,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Adalora {
    const NAME: &'static str = "adalora";
    const DESCRIPTION: &'static str = "A low-rank update whose rank is reduced in training where it matters least.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("init_r", self.init_r)?;
        ConfigError::size("target_r", self.target_r)?;
        ConfigError::finite("lora_alpha", self.lora_alpha)?;
        ConfigError::probability("lora_dropout", self.lora_dropout)?;
        ConfigError::unless(self.delta_t > 0, "deltaT", "at least 1", self.delta_t)?;
        let betas = [self.beta1, self.beta2];
        let fit = betas.iter().all(|beta| *beta > 0.0 && *beta < 1.0);
        ConfigError::unless(fit, "beta1, beta2", "0 < beta < 1", format!("{betas:?}"))?;
        ConfigError::unless(
            self.orth_reg_weight >= 0.0,
            "orth_reg_weight",
            "at least 0",
            self.orth_reg_weight,
        )
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let mut rng = build.rng(None, site.site);
        let mut normal = |shape| Param::from_data(draw::normal(&mut rng, shape, 0.02), build.device);
        let rank = self.init_r as f64;
        let scale = if self.lora_alpha > 0.0 { self.lora_alpha } else { rank };
        Ok(SiteLayer::Linear(Erased::new(Triplets {
            a: normal([self.init_r, d_in]),
            e: Param::from_data(draw::constant([self.init_r, 1], 0.0), build.device),
            b: normal([d_out, self.init_r]),
            scale: scale / (rank + 1e-5),
            dropout: self.lora_dropout,
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            schedule: Some(self),
            penalty: Some(self),
            faster: Some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Adalora: "ADALORA");

impl LearnsFaster for Adalora {
    fn learns_faster(&self, param: &str) -> bool {
        param == "lora_B"
    }
}

impl Scheduled for Adalora {
    fn schedule(&self, _adapter: &Attached, steps: u64) -> Box<dyn TrainingSchedule> {
        Box::new(RankAllocator::new(Schedule {
            target_rank: self.target_r,
            initial: self.tinit,
            closing: self.tfinal,
            every: self.delta_t,
            betas: [self.beta1, self.beta2],
            total: self.total_step.unwrap_or(steps),
        }))
    }
}

impl Penalized for Adalora {
    fn penalty(&self, adapter: &Attached) -> Option<Tensor<1>> {
        let mut norms = Vec::new();
        for l in adapter.layers() {
            if let SiteLayer::Linear(layer) = &l.layer {
                let triplets = layer.downcast_ref::<Triplets>()?;
                norms.push(from_orthogonal(triplets.a.val()));
                norms.push(from_orthogonal(triplets.b.val().transpose()));
            }
        }
        let count = norms.len() as f64;
        let sum = norms.into_iter().reduce(|sum, norm| sum + norm)?;
        Some(sum * (self.orth_reg_weight / count))
    }
}

/// `|P P^T - I|`, Frobenius, for rows `P`.
fn from_orthogonal(p: Tensor<2>) -> Tensor<1> {
    let [rows, _] = p.dims();
    let eye = Tensor::eye(rows, &p.device());
    (p.clone().matmul(p.transpose()) - eye).square().sum().sqrt()
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Triplets {
    /// Right singular vectors, `[r, d_in]`.
    pub(crate) a: Param<Tensor<2>>,
    /// Singular values, `[r, 1]`.
    pub(crate) e: Param<Tensor<2>>,
    /// Left singular vectors, `[d_out, r]`.
    pub(crate) b: Param<Tensor<2>>,
    /// `lora_alpha / (r + 1e-5)`.
    pub(crate) scale: f64,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl Triplets {
    /// `A` times the singular values and the scale, `[r, d_in]`.
    fn right(&self) -> Tensor<2> {
        self.a.val() * (self.e.val() * self.scale)
    }
}

impl SiteAdapter<LinearState> for Triplets {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        state.plus(|x| project(project(call.dropout(x, self.dropout), self.right()), self.b.val()))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.b.val().matmul(self.right())))
    }
}

named_params!(Triplets: "lora_A" => a, "lora_E" => e, "lora_B" => b);
