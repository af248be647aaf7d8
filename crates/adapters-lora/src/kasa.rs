//! KaSA: a low-rank update with trained singular values, in place of the smallest ones of the weight.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Causality, Codec, ConfigError, Effect, Error, Host, LinearState, LinearWeight,
    Method, NamedParams, NotMergeable, ParamId, Peft, SiteAdapter, SiteInfo, SiteLayer, Source, StoredConfig,
};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::linalg::svd;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::init::SWEEPS;
use crate::lora_config::LoraConfig;
use crate::low_rank::LowRank;
use crate::peft;
use crate::site_builder::{SiteBuilder, linear};

/// `W - U0 S0 V0 + s B diag(d) A`, where the triplets taken out of `W` are its `r` smallest.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `beta`, `gamma` | 1e-4, 1e-3 | weights of a penalty that peft's users add to the loss; kept, not added here | |
/// | `lora` | rank 8 | everything else; the rank below that of every weight | |
///
/// Paper: *KaSA: Knowledge-Aware Singular-Value Adaptation of Large Language Models*, Wang et al., 2024,
/// <https://arxiv.org/abs/2412.06071>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kasa {
    /// Weight of the penalty on the singular values.
    pub beta: f64,
    /// Weight of the penalty on vectors that are not orthonormal.
    pub gamma: f64,
    /// Everything else.
    #[serde(flatten)]
    pub lora: LoraConfig,
}

impl Default for Kasa {
    fn default() -> Self {
        Self {
            beta: 1e-4,
            gamma: 1e-3,
            lora: LoraConfig::default(),
        }
    }
}

/// The field of peft's LoRA object.
const FIELD: &str = "kasa_config";

impl Method for Kasa {
    const NAME: &'static str = "kasa";
    const DESCRIPTION: &'static str =
        "A low-rank update with trained singular values, in place of the smallest ones of the weight.";

    fn check(&self) -> Result<(), ConfigError> {
        self.lora.check_for_variant()
    }

    fn target(&self) -> Target {
        self.lora.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let mut builder = SiteBuilder::new(Self::NAME, &self.lora.target, self.lora.seed, site, build);
        let inner = self.lora.low_rank(&mut builder)?;
        let (rank, _) = self.lora.rank_and_scale(&site.path)?;
        let (d_in, d_out) = builder.dims()?;
        let all = d_in.min(d_out);
        if rank >= all || builder.fused.is_some() {
            return Err(builder.refuse(format!("r is {rank}, expected below {all}, of a whole layer")));
        }
        let (u, s, v) = svd::<2, 1>(builder.frozen_weight()?.transpose(), SWEEPS);
        let smallest = all - rank..all;
        let left = u.slice_dim(1, smallest.clone()) * s.slice_dim(0, smallest.clone()).unsqueeze_dim(0);
        let right = v.slice_dim(0, smallest);
        let values = draw::normal(&mut builder.rng, [rank], 1.0);
        let local = |tensor: Tensor<2>| Tensor::from_data(tensor.into_data(), build.device);
        Ok(linear(SingularValues {
            inner,
            values: builder.param(values, self.lora.dtype),
            left: local(left),
            right: local(right),
        }))
    }
}

impl Codec<AdapterHub> for Kasa {}

impl Codec<Peft> for Kasa {
    fn base_fields() -> &'static [BaseField] {
        BaseField::ALL
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let read = peft::read_section(stored, FIELD)?;
        Some(read.map(|(lora, own)| Self { lora, ..own }))
    }

    fn names() -> &'static peft::Names {
        peft::LORA
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = peft::write_lora(&self.lora, false, sites, host)?;
        fields.insert(FIELD.to_owned(), json!({"beta": self.beta, "gamma": self.gamma}));
        Ok(fields)
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        peft::lora_key(site, param)
    }
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct SingularValues {
    /// A, B and the scale.
    pub(crate) inner: LowRank,
    /// `d`, `[r]`.
    pub(crate) values: Param<Tensor<1>>,
    /// `U0 S0`, `[d_out, r]`, constant.
    pub(crate) left: Tensor<2>,
    /// `V0`, `[r, d_in]`, constant.
    pub(crate) right: Tensor<2>,
}

impl SingularValues {
    /// `s B diag(d)`, `[d_out, r]`.
    fn scaled(&self) -> Tensor<2> {
        self.inner.b.val() * (self.values.val() * self.inner.scale).unsqueeze_dim(0)
    }
}

impl SiteAdapter<LinearState> for SingularValues {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        state.plus(|x| {
            let taken_out = project(project(x.clone(), self.right.clone()), self.left.clone());
            let x = call.dropout(x, self.inner.dropout);
            project(project(x, self.inner.a.val()), self.scaled()) - taken_out
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let update = self.scaled().matmul(self.inner.a.val());
        Ok(base.plus(update - self.left.clone().matmul(self.right.clone())))
    }
}

impl NamedParams for SingularValues {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = self.inner.named_params();
        params.push(("lora_diag".into(), self.values.id));
        params
    }
}
