//! MTL-LoRA: one A, a task's own matrix, several B that a task weighs.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, Build, Call, Capabilities, Causality, Codec, ConfigError, Effect, Error, Host, LinearState,
    LinearWeight, Method, NamedParams, NotMergeable, Peft, SiteAdapter, SiteInfo, SiteLayer, Source, StoredConfig,
    config::{from_fields, to_fields},
};
use adapters_nn::draw;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapterhub::{self, Object};
use crate::fused_projection::{FusedProjection, scatter_rows};
use crate::gate::Gate;
use crate::init::{init_a, init_b};
use crate::lora_config::LoraConfig;
use crate::low_rank::{Factored, apply_factors};
use crate::site_builder::{SiteBuilder, linear};

/// LoRA for several tasks: `delta = s sum_n softmax(w / sharpness)_n B_n T A x`, `T` and `w` a task's own. A and B are
/// shared among the adapters of the tasks with [`AdapterSet::tie_parameters`](adapters_core::AdapterSet::tie_parameters), and
/// `MultiTask` routes each row to its task's adapter.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `up_projections` (`n_up_projection`) | 1 | number of B matrices | >= 1 |
/// | `matrix` (`task_specific_matrix_type`) | singular values | shape of `T` | |
/// | `sharpness` (`weights_sharpness`) | 0.05 | temperature of the weights | > 0 |
/// | `lora` | as LoRA | rank, target, dropout, seed | |
///
/// Names in parentheses are those of config strings and files.
///
/// Paper: *MTL-LoRA: Low-Rank Adaptation for Multi-Task Learning*, Yang et al., 2024, <https://arxiv.org/abs/2410.09437>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MtlLoraConfig {
    /// Number of B matrices.
    #[serde(rename = "n_up_projection")]
    pub up_projections: usize,
    /// Shape of the task's own matrix.
    #[serde(rename = "task_specific_matrix_type")]
    pub matrix: TaskMatrix,
    /// Temperature of the weights.
    #[serde(rename = "weights_sharpness")]
    pub sharpness: f64,
    /// Rank, target, dropout and seed.
    #[serde(flatten)]
    pub lora: LoraConfig,
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

impl Method for MtlLoraConfig {
    const NAME: &'static str = "mtl_lora";
    const DESCRIPTION: &'static str =
        "LoRA for several tasks: a shared A, a matrix for each task, and several B matrices that each task weighs.";

    fn check(&self) -> Result<(), ConfigError> {
        let n = self.up_projections;
        ConfigError::size("n_up_projection", n)?;
        ConfigError::size("n_up_projection x r", n.saturating_mul(self.lora.rank))?;
        ConfigError::elements("r x r", [self.lora.rank, self.lora.rank])?;
        ConfigError::unless(self.sharpness > 0.0, "weights_sharpness", "above 0", self.sharpness)?;
        self.lora.check_for_variant()
    }

    fn target(&self) -> Target {
        self.lora.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let lora = &self.lora;
        let mut builder = SiteBuilder::new(Self::NAME, &lora.target, lora.seed, site, build);
        let (d_in, d_out) = builder.dims()?;
        let (rank, scale) = lora.rank_and_scale(&site.path)?;
        let n = self.up_projections;
        let a = init_a(lora.init, &mut builder.rng, rank, [rank, d_in]);
        let b = init_b(lora.init, &mut builder.rng, n * d_out, rank);
        let b = TensorData::new(b.iter::<f32>().collect::<Vec<_>>(), [n, d_out, rank]);
        Ok(linear(MtlLora {
            a: builder.param(a, lora.dtype),
            b: builder.param(b, lora.dtype),
            task: match self.matrix {
                TaskMatrix::SingularValues => {
                    TaskParam::Diagonal(builder.param(draw::constant([rank], 1.0), lora.dtype))
                }
                TaskMatrix::Linear => TaskParam::Full(builder.param(draw::constant([rank, rank], 1.0), lora.dtype)),
            },
            weights: builder.param(draw::constant([n], 1.0), None),
            sharpness: self.sharpness,
            gate: builder.gate_of(lora, d_in),
            scale,
            dropout: lora.dropout,
            fused: builder.fused.clone(),
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            faster: Some(&self.lora),
            patterns: Some(&self.lora),
            ..Capabilities::default()
        }
    }
}

/// The fields of AdapterHub's object that are this method's own.
const OWN: [&str; 3] = ["n_up_projection", "task_specific_matrix_type", "weights_sharpness"];

impl Codec<AdapterHub> for MtlLoraConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let object = Object::of(Self::NAME, stored)?;
        Some(object.and_then(|object| {
            if object.use_dora || object.vera_d.is_some() || object.vera_b.is_some() {
                return Err(ConfigError::Unsupported {
                    field: "architecture",
                    found: "mtl_lora with use_dora, vera_d or vera_b".to_owned(),
                });
            }
            from_fields(object.fields)
        }))
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = Object::mtl_lora().write(&self.lora, sites, host)?;
        fields.extend(
            to_fields(self, &[])
                .into_iter()
                .filter(|(field, _)| OWN.contains(&field.as_str())),
        );
        Ok(fields)
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        adapterhub::key(site, adapter, param)
    }
}

impl Codec<Peft> for MtlLoraConfig {}

/// The update of one layer for one task.
#[derive(Module, Debug)]
pub(crate) struct MtlLora {
    /// `[r, d_in]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[n, d_out, r]`.
    pub(crate) b: Param<Tensor<3>>,
    /// `T`.
    pub(crate) task: TaskParam,
    /// `w`, `[n]`.
    pub(crate) weights: Param<Tensor<1>>,
    /// Temperature of the weights.
    pub(crate) sharpness: f64,
    /// Replaces the constant scale where there is one.
    pub(crate) gate: Option<Gate>,
    /// The constant scale `s`.
    pub(crate) scale: f64,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
    /// Which projections of a fused one are adapted.
    #[module(skip)]
    pub(crate) fused: Option<FusedProjection>,
}

/// A task's own matrix.
#[derive(Module, Debug)]
pub(crate) enum TaskParam {
    /// Its diagonal, `[r]`.
    Diagonal(Param<Tensor<1>>),
    /// All of it, `[r, r]`.
    Full(Param<Tensor<2>>),
}

impl Factored for MtlLora {
    type Shared = ();

    fn factors(&self, _shared: &()) -> (Tensor<2>, Tensor<2>) {
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
        (scatter_rows(self.fused.as_ref(), left), right)
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

    fn merged(&self, base: LinearWeight, shared: &()) -> Result<LinearWeight, NotMergeable> {
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
