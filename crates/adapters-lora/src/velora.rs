//! VeLoRA: LoRA whose A learns from a compressed input.

use std::borrow::Cow;

use adapters_core::config::to_fields;
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Causality, Codec, ConfigError, Effect, Error, Host, LinearState, LinearWeight,
    Method, NamedParams, NotMergeable, ParamId, Peft, SiteAdapter, SiteInfo, SiteLayer, Source, StoredConfig,
};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lora_config::LoraConfig;
use crate::low_rank::{Factored, LowRank};
use crate::peft;
use crate::site_builder::{SiteBuilder, linear};

/// LoRA whose gradient of A is computed from `v v^T x` in place of `x`: the input features are cut into `num_groups` groups, of
/// each of which one number is left, its product with a unit vector `v`. What the layer computes is LoRA.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `num_groups` | 64 | groups of input features | >= 1 |
/// | `scale` | 1 | factor of the input restored for the gradient | > 0 |
/// | `init_type` | `batch_average` | `v`: the mean of a batch, the stored one where there is one, or random | `batch_average`, `batch_average_once`, `random` |
/// | `lora` | rank 8 | everything else | |
///
/// Here the input itself is kept as well, for the gradients of other adapters, so that no memory is saved.
///
/// Paper: *VeLoRA: Memory Efficient Training using Rank-1 Sub-Token Projections*, Miles et al., 2024,
/// <https://arxiv.org/abs/2405.17991>.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Velora {
    /// How the input is compressed.
    #[serde(flatten)]
    pub compression: Compression,
    /// Everything else.
    #[serde(flatten)]
    pub lora: LoraConfig,
}

/// How the input is compressed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compression {
    /// Groups of input features.
    pub num_groups: usize,
    /// Factor of the input restored for the gradient.
    pub scale: f64,
    /// Where the unit vector comes from.
    pub init_type: UnitVector,
}

/// Where the unit vector comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitVector {
    /// The mean of all groups of a batch.
    #[default]
    BatchAverage,
    /// The stored vector, and the mean where that is zero.
    BatchAverageOnce,
    /// Random and stored.
    Random,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            num_groups: 64,
            scale: 1.0,
            init_type: UnitVector::BatchAverage,
        }
    }
}

/// The field of peft's LoRA object.
const FIELD: &str = "velora_config";

impl Method for Velora {
    const NAME: &'static str = "velora";
    const DESCRIPTION: &'static str = "LoRA whose A matrix learns from a compressed input.";

    fn check(&self) -> Result<(), ConfigError> {
        let Compression { num_groups, scale, .. } = self.compression;
        ConfigError::size("num_groups", num_groups)?;
        ConfigError::positive("scale", scale)?;
        self.lora.check_for_peft_variant()
    }

    fn target(&self) -> Target {
        self.lora.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let mut builder = SiteBuilder::new(Self::NAME, &self.lora.target, self.lora.seed, site, build);
        let (d_in, _) = builder.dims()?;
        let inner = self.lora.low_rank(&mut builder)?;
        let width = d_in.div_ceil(self.compression.num_groups);
        let vector = match self.compression.init_type {
            UnitVector::Random => draw::normal(&mut builder.rng, [width], 1.0),
            _ => draw::constant([width], 0.0),
        };
        Ok(linear(Compressed {
            inner,
            vector: builder.param(vector, None),
            compression: self.compression.clone(),
        }))
    }
}

impl Codec<AdapterHub> for Velora {}

impl Codec<Peft> for Velora {
    fn base_fields() -> &'static [BaseField] {
        BaseField::ALL
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let read = peft::read_section(stored, FIELD)?;
        Some(read.map(|(lora, compression)| Self { compression, lora }))
    }

    fn names() -> &'static peft::Names {
        peft::LORA
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = peft::write_lora(&self.lora, false, sites, host)?;
        let compression = to_fields(&self.compression, &[]);
        fields.insert(FIELD.to_owned(), Value::Object(compression));
        Ok(fields)
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        peft::lora_key(site, param)
    }
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Compressed {
    /// LoRA.
    pub(crate) inner: LowRank,
    /// The stored vector, `[ceil(d_in / groups)]`; not trained.
    pub(crate) vector: Param<Tensor<1>>,
    /// How the input is compressed.
    #[module(skip)]
    pub(crate) compression: Compression,
}

impl Compressed {
    /// What is left of an input `[batch, seq, d_in]`, restored.
    fn restored(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, d_in] = x.dims();
        let [width] = self.vector.dims();
        let groups = self.compression.num_groups;
        let missing = groups * width - d_in;
        let padded = match missing {
            0 => x,
            _ => {
                let zeros = Tensor::zeros([batch, seq, missing], &x.device());
                Tensor::cat(vec![x, zeros], 2)
            }
        };
        let groups_of_rows: Tensor<2> = padded.reshape([batch * seq * groups, width]);
        let stored: Tensor<2> = self.vector.val().detach().reshape([1, width]);
        let mean = || groups_of_rows.clone().mean_dim(0);
        let vector = match self.compression.init_type {
            UnitVector::Random => stored,
            UnitVector::BatchAverage => mean(),
            UnitVector::BatchAverageOnce => {
                let is_zero = stored.clone().abs().sum_dim(1).equal_elem(0.0).expand([1, width]);
                stored.mask_where(is_zero, mean())
            }
        };
        let length = vector.clone().square().sum_dim(1).sqrt();
        // As in the reference, a vector of ones where the mean is zero.
        let none = length.clone().equal_elem(0.0);
        let length = length.mask_fill(none.clone(), (width as f64).sqrt());
        let vector = vector.mask_fill(none.expand([1, width]), 1.0) / length;
        let left = (groups_of_rows * vector.clone()).sum_dim(1);
        let restored = (left * vector).reshape([batch, seq, groups * width]);
        restored.slice_dim(2, 0..d_in) * self.compression.scale
    }
}

impl SiteAdapter<LinearState> for Compressed {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let (b, a) = self.inner.factors(&());
        let training = call.dropout.is_some();
        state.plus(|x| {
            let x = call.dropout(x, self.inner.dropout);
            let narrow = match training {
                false => project(x, a),
                true => {
                    let restored = self.restored(x.clone().detach());
                    let fixed = a.clone().detach();
                    // The value of the first product; its gradient of the input, and that of the second of A.
                    project(x, fixed.clone()) + project(restored.clone(), a) - project(restored, fixed)
                }
            };
            project(narrow * self.inner.scale, b)
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &()) -> Result<LinearWeight, NotMergeable> {
        self.inner.merged(base, shared)
    }
}

impl NamedParams for Compressed {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = self.inner.named_params();
        params.push(("lora_velora_embed".into(), self.vector.id));
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        vec![self.vector.id]
    }
}
