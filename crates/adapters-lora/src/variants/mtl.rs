//! MTL-LoRA: one A, a task's own matrix, several B that a task weighs.

use std::borrow::Cow;

use adapters_core::{
    Call, Causality, ConfigError, Effect, LinearState, LinearWeight, NamedParams, NotMergeable, Shared, SiteAdapter,
    Source,
};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::config::LoraConfig;
use crate::fused::{FusedParts, placed_rows};
use crate::module::{Factored, Gate, apply_factors};

/// LoRA for several tasks: `delta = s sum_n softmax(w / sharpness)_n B_n T A x`, `T` and `w` a task's own. A and B are
/// shared among the adapters of the tasks with [`AdapterSet::share`](adapters_core::AdapterSet::share), and
/// `MultiTask` routes each row to its task's adapter.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `lora` | as LoRA | rank, places, dropout, seed | |
/// | `up_projections` | 1 | number of B matrices | >= 1 |
/// | `matrix` | singular values | shape of `T` | |
/// | `sharpness` | 0.05 | temperature of the weights | > 0 |
///
/// Paper: *MTL-LoRA: Low-Rank Adaptation for Multi-Task Learning*, Yang et al., 2024, <https://arxiv.org/abs/2410.09437>.
#[derive(Clone, Debug, PartialEq)]
pub struct MtlLoraConfig {
    /// The low-rank part.
    pub lora: LoraConfig,
    /// Number of B matrices.
    pub up_projections: usize,
    /// Shape of the task's own matrix.
    pub matrix: TaskMatrix,
    /// Temperature of the weights.
    pub sharpness: f64,
}

/// Shape of a task's own matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskMatrix {
    /// Diagonal.
    #[default]
    SingularValues,
    /// Full.
    Linear,
}

impl Default for MtlLoraConfig {
    fn default() -> Self {
        Self {
            lora: LoraConfig::default(),
            up_projections: 1,
            matrix: TaskMatrix::SingularValues,
            sharpness: 0.05,
        }
    }
}

impl MtlLoraConfig {
    pub(crate) fn check_fields(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            self.up_projections > 0,
            "n_up_projection",
            "at least 1",
            self.up_projections,
        )?;
        ConfigError::unless(self.sharpness > 0.0, "weights_sharpness", "above 0", self.sharpness)?;
        self.lora.check_fields()
    }
}

/// The update of one layer for one task.
#[derive(Module, Debug)]
pub struct MtlLora {
    /// `[r, d_in]`.
    pub a: Param<Tensor<2>>,
    /// `[n, d_out, r]`.
    pub b: Param<Tensor<3>>,
    /// `T`.
    pub task: TaskParam,
    /// `w`, `[n]`.
    pub weights: Param<Tensor<1>>,
    /// Temperature of the weights.
    pub sharpness: f64,
    /// Replaces the constant scale where there is one.
    pub gate: Option<Gate>,
    /// The constant scale `s`.
    pub scale: f64,
    /// Dropout probability on the input.
    pub dropout: f64,
    /// The parts of a fused projection that are adapted.
    #[module(skip)]
    pub parts: Option<FusedParts>,
}

/// A task's own matrix.
#[derive(Module, Debug)]
pub enum TaskParam {
    /// Its diagonal, `[r]`.
    Diagonal(Param<Tensor<1>>),
    /// All of it, `[r, r]`.
    Full(Param<Tensor<2>>),
}

impl Factored for MtlLora {
    fn factors(&self, _shared: &Shared) -> (Tensor<2>, Tensor<2>) {
        let weights = activation::softmax(self.weights.val() / self.sharpness, 0);
        let [n, d_out, r] = self.b.dims();
        let left = (self.b.val() * weights.reshape([n, 1, 1]))
            .sum_dim(0)
            .reshape([d_out, r]);
        let right = match &self.task {
            TaskParam::Diagonal(values) => self.a.val() * values.val().unsqueeze_dim(1),
            // A row of the narrow side is multiplied from the right.
            TaskParam::Full(values) => values.val().transpose().matmul(self.a.val()),
        };
        (placed_rows(self.parts.as_ref(), left), right)
    }

    fn scale(&self) -> Option<f64> {
        self.gate.is_none().then_some(self.scale)
    }
}

impl SiteAdapter<LinearState> for MtlLora {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        apply_factors(self, state, call, self.dropout, self.gate.as_ref())
    }

    fn effect(&self) -> Effect {
        let [_, d_in] = self.a.dims();
        Effect::Adds(Source::Previous { width: Some(d_in) })
    }

    fn causality(&self) -> Causality {
        Causality::of_gate(&self.gate)
    }

    fn merged(&self, base: LinearWeight, shared: &Shared) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.update(shared)?))
    }

    fn borrowing(&self, owner: &Self) -> Option<Self> {
        Some(Self {
            a: owner.a.clone(),
            b: owner.b.clone(),
            ..self.clone()
        })
    }
}

impl NamedParams for MtlLora {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("lora_A".into(), self.a.id), ("lora_B".into(), self.b.id)];
        params.push(match &self.task {
            TaskParam::Diagonal(values) => ("task_specific.values".into(), values.id),
            TaskParam::Full(values) => ("task_specific.values".into(), values.id),
        });
        params.push(("weights".into(), self.weights.id));
        params.extend(self.gate.iter().flat_map(Gate::named_params));
        params
    }
}
