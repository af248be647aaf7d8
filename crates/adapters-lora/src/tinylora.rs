//! TinyLoRA: a few numbers that mix random matrices between the singular vectors of a weight.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method,
    NamedParams, NotMergeable, ParamId, Shared, SharedParameters, SiteAdapter, SiteInfo, SiteLayer, Source,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{TorchRng, draw, float_weight};
use burn::linalg::svd;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::init::SWEEPS;
use crate::site_builder::linear;

/// `W + B (sum_i v_i P_i) A`, where B and A are the `r` largest singular triplets of `W`, a root of the value in each, the `u` matrices
/// `P_i` are random, and only `v` trains: one for each layer, or for several.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 2 | singular triplets; at most all are used | >= 1 |
/// | `u` | 64 | numbers that train | >= 1 |
/// | `weight_tying` | 0 | 0: every layer has its own `v`; 1: all share one | 0 .. 1 |
/// | `projection_seed` | 42 | seed of `P`, in PyTorch's generator; the index of the layer among the adapted ones is added | 0 .. 2^32 |
/// | `save_projection` | true | store `P`; without it it is drawn again when the file is read | |
/// | `init_weights` | true | `v` begins at zero; `uniform` within `init_v_bound` | true, `uniform` |
/// | `init_v_bound` | 0.02 | bound of a uniform `v` | >= 0 |
/// | `tinylora_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
///
/// Paper: *Learning to Reason in 13 Parameters*, 2026, <https://arxiv.org/abs/2602.04118>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tinylora {
    /// Singular triplets.
    pub r: usize,
    /// Numbers that train.
    pub u: usize,
    /// 0: every layer has its own numbers; 1: all share them.
    pub weight_tying: f64,
    /// Seed of the random matrices.
    pub projection_seed: u64,
    /// Whether files hold the random matrices.
    pub save_projection: bool,
    /// True, or `uniform`.
    pub init_weights: Value,
    /// Bound of uniform numbers.
    pub init_v_bound: f64,
    /// Dropout probability on the input, in training.
    pub tinylora_dropout: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Tinylora {
    fn default() -> Self {
        Self {
            r: 2,
            u: 64,
            weight_tying: 0.0,
            projection_seed: 42,
            save_projection: true,
            init_weights: Value::Bool(true),
            init_v_bound: 0.02,
            tinylora_dropout: 0.0,
            targets: ModuleFields::default(),
        }
    }
}

impl Tinylora {
    /// The index of each adapted layer, and how many vectors there are.
    fn sites(&self, build: &Build<'_>) -> Result<(Vec<SiteInfo>, usize), Error> {
        let sites = self.target().select(build.host)?.sites;
        let groups = (sites.len() as f64 * (1.0 - self.weight_tying)).round_ties_even() as usize;
        Ok((sites, groups.max(1)))
    }
}

impl Method for Tinylora {
    const NAME: &'static str = "tinylora";
    const DESCRIPTION: &'static str =
        "A few trained numbers that mix random matrices between the singular vectors of the weight.";

    fn check(&self) -> Result<(), ConfigError> {
        let (tying, seed, dropout) = (self.weight_tying, self.projection_seed, self.tinylora_dropout);
        ConfigError::size("r", self.r)?;
        ConfigError::size("u", self.u)?;
        ConfigError::elements("u x r x r", [self.u, self.r, self.r])?;
        ConfigError::unless((0.0..=1.0).contains(&tying), "weight_tying", "0 to 1", tying)?;
        ConfigError::unless(u32::try_from(seed).is_ok(), "projection_seed", "below 2^32", seed)?;
        let known = self.init_weights == Value::Bool(true) || self.init_weights == "uniform";
        ConfigError::unless(known, "init_weights", "true or uniform", &self.init_weights)?;
        let bound = self.init_v_bound;
        ConfigError::unless(bound >= 0.0, "init_v_bound", "at least 0", bound)?;
        ConfigError::probability("tinylora_dropout", dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let (sites, groups) = self.sites(build)?;
        let index = sites.iter().position(|info| info.site == site.site).unwrap_or_default();
        let group = (index / (sites.len() / groups).max(1)).min(groups - 1);
        let frozen = build.host.linear(site.site);
        let frozen = frozen.ok_or_else(|| Self::refuse(site, "the model gives no access to this weight"))?;
        let r = self.r.min(d_in).min(d_out);
        let (u, s, v) = svd::<2, 1>(float_weight(frozen).transpose(), SWEEPS);
        let root = s.slice_dim(0, 0..r).sqrt();
        let a = v.slice_dim(0, 0..r) * root.clone().unsqueeze_dim(1);
        let b = u.slice_dim(1, 0..r) * root.unsqueeze_dim(0);
        let seed = u32::try_from(self.projection_seed)
            .unwrap_or_default()
            .wrapping_add(index as u32);
        let drawn = TorchRng::new(seed).normal(self.u * r * r, (r as f64).sqrt().recip());
        let drawn = TensorData::new(drawn, [self.u, r, r]);
        Ok(linear(MixedMatrices {
            a: Param::from_data(a.into_data(), build.device),
            b: Param::from_data(b.into_data(), build.device),
            p: match self.save_projection {
                true => RandomMatrices::Stored(Param::from_data(drawn, build.device)),
                false => RandomMatrices::Drawn(Tensor::from_data(drawn, build.device)),
            },
            group,
            dropout: self.tinylora_dropout,
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Tinylora: "TINYLORA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

/// The numbers that train, one vector for each layer or for several.
#[derive(Module, Debug)]
pub struct SharedVectors {
    /// `[u]` each.
    pub vectors: Vec<Param<Tensor<1>>>,
}

impl NamedParams for SharedVectors {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let vectors = self.vectors.iter().enumerate();
        let named = vectors.map(|(group, vector)| (format!("tinylora_v.{group}").into(), vector.id));
        named.collect()
    }
}

impl SharedParameters for Tinylora {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let (_, groups) = self.sites(build)?;
        let mut rng = build.shared_rng(None);
        let uniform = self.init_weights == "uniform";
        let vectors = (0..groups).map(|_| {
            let data = match uniform {
                true => draw::uniform(&mut rng, [self.u], self.init_v_bound as f32),
                false => draw::constant([self.u], 0.0),
            };
            Param::from_data(data, build.device)
        });
        let vectors = vectors.collect();
        Ok(Shared::of(SharedVectors { vectors }))
    }

    fn owns(&self, param: &str) -> bool {
        param.starts_with("tinylora_v.")
    }
}

/// `P`, `[u, r, r]`, never trained.
#[derive(Module, Debug)]
pub(crate) enum RandomMatrices {
    /// Files hold it.
    Stored(Param<Tensor<3>>),
    /// It follows from the seed.
    Drawn(Tensor<3>),
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct MixedMatrices {
    /// `[r, d_in]`, stored and never trained.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_out, r]`, stored and never trained.
    pub(crate) b: Param<Tensor<2>>,
    /// What the numbers mix.
    pub(crate) p: RandomMatrices,
    /// Which of the shared vectors is its own.
    pub(crate) group: usize,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl MixedMatrices {
    /// `B sum_i v_i P_i`, `[d_out, r]`.
    fn left(&self, shared: &SharedVectors) -> Tensor<2> {
        let p = match &self.p {
            RandomMatrices::Stored(p) => p.val(),
            RandomMatrices::Drawn(p) => p.clone(),
        };
        let [u, r, _] = p.dims();
        let v = shared.vectors[self.group].val().reshape([1, u]);
        let mixed = v.matmul(p.reshape([u, r * r])).reshape([r, r]);
        self.b.val().matmul(mixed)
    }
}

impl SiteAdapter<LinearState, SharedVectors> for MixedMatrices {
    fn apply(&self, state: LinearState, call: &Call<'_, SharedVectors>) -> LinearState {
        let left = self.left(call.shared);
        state.plus(|x| project(project(call.dropout(x, self.dropout), self.a.val()), left))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &SharedVectors) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.left(shared).matmul(self.a.val())))
    }
}

impl NamedParams for MixedMatrices {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("tinylora_A".into(), self.a.id), ("tinylora_B".into(), self.b.id)];
        if let RandomMatrices::Stored(p) = &self.p {
            params.push(("tinylora_P".into(), p.id));
        }
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.named_params().into_iter().map(|(_, id)| id).collect()
    }
}
