//! Poly: each task mixes its update from a bank of low-rank skills.

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Capabilities, Causality, ConfigError, Effect, Error, KnowsTasks, LinearState, Method, SiteAdapter,
    SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::draw;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::site_builder::linear;

/// `W x + B_t A_t x / r`, where A and B of task `t` are means of those of `n_skills` skills. Input and output features are cut
/// into `n_splits` splits, each with a mean of its own (multi-head routing). The weights of a mean are
/// `sigmoid(z) / sum sigmoid(z)` of trained logits `z`; in training a relaxed Bernoulli variable replaces each
/// sigmoid.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | rank | >= 1 |
/// | `n_tasks` | 1 | tasks | >= 1 |
/// | `n_skills` | 4 | skills | >= 1 |
/// | `n_splits` | 1 | splits of the features; divides those of every layer | >= 1 |
/// | `poly_type` | `poly` | how skills are mixed | `poly` |
/// | `init_weights` | true | B begins at zero; random values without it | |
///
/// Every row needs a task: [`Ctx::with_tasks`](adapters_core::Ctx::with_tasks).
///
/// Papers: *Combining Modular Skills in Multitask Learning*, Ponti et al., 2022, <https://arxiv.org/abs/2202.13914>;
/// *Multi-Head Adapter Routing for Cross-Task Generalization*, Caccia et al., 2022, <https://arxiv.org/abs/2211.03831>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Poly {
    /// Rank.
    pub r: usize,
    /// Tasks.
    pub n_tasks: usize,
    /// Skills.
    pub n_skills: usize,
    /// Splits of the features.
    pub n_splits: usize,
    /// How skills are mixed.
    pub poly_type: PolyType,
    /// Whether B begins at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

/// How skills are mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolyType {
    /// By trained logits of each task.
    #[default]
    Poly,
}

impl Default for Poly {
    fn default() -> Self {
        Self {
            r: 8,
            n_tasks: 1,
            n_skills: 4,
            n_splits: 1,
            poly_type: PolyType::Poly,
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Poly {
    const NAME: &'static str = "poly";
    const DESCRIPTION: &'static str =
        "LoRA for several tasks: each task mixes its update from a bank of low-rank skills.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::size("n_tasks", self.n_tasks)?;
        ConfigError::size("n_skills", self.n_skills)?;
        ConfigError::size("n_splits", self.n_splits)?;
        ConfigError::size("n_skills x r", self.n_skills * self.r)?;
        let axes = [self.n_tasks, self.n_skills, self.n_splits];
        ConfigError::elements("n_tasks x n_skills x n_splits", axes)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let (splits, skills, r) = (self.n_splits, self.n_skills, self.r);
        if !d_in.is_multiple_of(splits) || !d_out.is_multiple_of(splits) {
            let reason = format!("n_splits is {splits}, which does not divide {d_in} and {d_out}");
            return Err(Self::refuse(site, reason));
        }
        let mut rng = build.rng(None, site.site);
        let (split_in, split_out) = (d_in / splits, d_out / splits);
        let a = draw::linear(&mut rng, [splits, skills, split_in, r], split_in);
        let b = match self.init_weights {
            true => draw::constant([splits, skills, r, split_out], 0.0),
            false => draw::linear(&mut rng, [splits, skills, r, split_out], r),
        };
        let logits = draw::uniform(&mut rng, [self.n_tasks, splits * skills], 1e-3);
        Ok(linear(Skills {
            a: Param::from_data(a, build.device),
            b: Param::from_data(b, build.device),
            logits: Param::from_data(logits, build.device),
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            tasks: Some(self),
            ..Capabilities::default()
        }
    }
}

impl KnowsTasks for Poly {
    fn tasks(&self) -> usize {
        self.n_tasks
    }
}

peft_modules!(Poly: "POLY" {
    fn param_key(param: &str) -> String {
        match param {
            "module_logits" => format!("poly_router.{param}"),
            param => param.to_owned(),
        }
    }
});

/// The skills of one layer, and how each task mixes them.
#[derive(Module, Debug)]
pub(crate) struct Skills {
    /// `[splits, skills, d_in / splits, r]`.
    pub(crate) a: Param<Tensor<4>>,
    /// `[splits, skills, r, d_out / splits]`.
    pub(crate) b: Param<Tensor<4>>,
    /// `[tasks, splits skills]`.
    pub(crate) logits: Param<Tensor<2>>,
}

impl Skills {
    /// The weights of the skills for each row and split, `[splits, rows, skills]`.
    fn weights(&self, rows: usize, call: &Call<'_>) -> Tensor<3> {
        let [splits, skills, ..] = self.a.dims();
        let logits = self.logits.val();
        let logits = logits.clone().select(0, call.tasks_of(rows, &logits.device()));
        // A relaxed Bernoulli variable of temperature one is the sigmoid of its logit and noise of the logistic
        // distribution, `ln(u / (1 - u))` of a uniform `u`.
        let logits = match &call.dropout {
            Some(random) => {
                let uniform = random.uniform(logits.dims(), &logits.device()).clamp(1e-6, 1.0 - 1e-6);
                logits + uniform.clone().log() - (-uniform + 1.0).log()
            }
            None => logits,
        };
        let chosen = activation::sigmoid(logits).reshape([rows, splits, skills]);
        // As in the reference, so that weights of zero do not divide by zero.
        let weights = chosen.clone() / (chosen.sum_dim(2) + 1e-12);
        weights.swap_dims(0, 1)
    }
}

impl SiteAdapter<LinearState> for Skills {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let [rows, _, d_in] = state.input.dims();
        let [splits, skills, split_in, r] = self.a.dims();
        let [_, _, _, split_out] = self.b.dims();
        let weights = self.weights(rows, call);
        let a = weights
            .clone()
            .matmul(self.a.val().reshape([splits, skills, split_in * r]));
        let a = a.reshape([splits, rows, split_in, r]).swap_dims(0, 1);
        let a: Tensor<3> = a.reshape([rows, d_in, r]);
        let b = weights.matmul(self.b.val().reshape([splits, skills, r * split_out]));
        let b = b.reshape([splits, rows, r, split_out]).permute([1, 2, 0, 3]);
        let b: Tensor<3> = b.reshape([rows, r, splits * split_out]);
        state.plus(|x| x.matmul(a).matmul(b) / r as f64)
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

named_params!(Skills: "poly_lora_A" => a, "poly_lora_B" => b, "module_logits" => logits);
