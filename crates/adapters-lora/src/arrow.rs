//! Arrow: each token is routed to the LoRAs whose main directions it is nearest to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AdapterSet, AnyMethod, Attached, Build, Call, Capabilities, Causality, Codec, ConfigError, Erased,
    Error, FusionState, Method, NamedParams, ParamId, ParamValues, Peft, RoutesAdapters, Site, SiteAdapter, SiteInfo,
    SiteLayer,
};
use adapters_nn::TorchRng;
use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::low_rank::LowRank;
use crate::routing::{among_largest, weighted_sum};

/// A mixture of LoRAs without training: of each layer and token `x`, the `top_k` adapters with the largest `|p_e . x|` add up with
/// the weights `softmax(|p_e . x| / T)`, where `p_e` is the first right singular vector of the adapter's update.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `adapters` | none | names of the LoRAs, all at the same layers | at least one |
/// | `top_k` | 3 | how many of them act on a token, or all if there are fewer | >= 1 |
/// | `router_temperature` | 1 | `T` | > 0 |
/// | `rng_seed` | 0 | seed of the vectors that the power iteration begins with | |
///
/// It acts in a `Fuse` block of its adapters that has its name. [`subtract_general`] purifies the adapters first, as GenKnowSub
/// does. Papers: *Towards Modular LLMs by Building and Reusing a Library of LoRAs*, Ostapenko et al., 2024,
/// <https://arxiv.org/abs/2405.11157>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Arrow {
    /// Names of the LoRAs.
    pub adapters: Vec<String>,
    /// How many of them act on a token.
    pub top_k: usize,
    /// What the scores are divided by.
    pub router_temperature: f64,
    /// Seed of the vectors that the power iteration begins with.
    pub rng_seed: u32,
    /// The directions of the adapters at each site, `[adapters, d_in]`.
    #[serde(skip)]
    prototypes: Arc<BTreeMap<Site, TensorData>>,
}

/// Steps of the power iteration.
const STEPS: usize = 15;

impl Default for Arrow {
    fn default() -> Self {
        Self {
            adapters: Vec::new(),
            top_k: 3,
            router_temperature: 1.0,
            rng_seed: 0,
            prototypes: Arc::default(),
        }
    }
}

impl Method for Arrow {
    const NAME: &'static str = "arrow";
    const DESCRIPTION: &'static str = "Routes each token to the LoRAs whose main directions it is nearest to.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("top_k", self.top_k)?;
        ConfigError::positive("router_temperature", self.router_temperature)
    }

    /// Where its adapters act.
    fn target(&self) -> Target {
        Target::Any(Vec::new())
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let prototypes = self.prototypes.get(&site.site);
        let prototypes = prototypes.ok_or_else(|| Self::refuse(site, "none of its adapters acts there"))?;
        Ok(SiteLayer::Fusion(Erased::new(ArrowRouter {
            prototypes: Param::from_tensor(Tensor::from_data(prototypes.clone(), build.device)).set_require_grad(false),
            top_k: self.top_k,
            temperature: self.router_temperature,
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            routes: Some(self),
            ..Capabilities::default()
        }
    }
}

impl RoutesAdapters for Arrow {
    fn adapters(&self) -> Vec<String> {
        self.adapters.clone()
    }

    fn over(&self, adapters: &[&Attached], sites: &[SiteInfo]) -> Result<AnyMethod, Error> {
        let refuse = |reason: String| Error::CannotFuse {
            adapters: self.adapters.join(", "),
            reason,
        };
        let mut prototypes = BTreeMap::new();
        for info in sites {
            let mut directions = Vec::new();
            for adapter in adapters {
                let layer = adapter.layers().find(|l| l.info.site == info.site);
                let layer = layer.and_then(|l| match &l.layer {
                    SiteLayer::Linear(layer) => layer.downcast_ref::<LowRank>(),
                    _ => None,
                });
                let layer = layer.ok_or_else(|| {
                    refuse(format!(
                        "`{}` has no LoRA at `{}`, where another has",
                        adapter.name(),
                        info.path
                    ))
                })?;
                directions.push(self.direction(layer));
            }
            prototypes.insert(info.site, Tensor::cat(directions, 0).into_data());
        }
        AnyMethod::new(Self {
            prototypes: Arc::new(prototypes),
            ..self.clone()
        })
    }
}

impl Arrow {
    /// A router to these adapters, with the reference's defaults.
    pub fn new<S: Into<String>>(adapters: impl IntoIterator<Item = S>) -> Self {
        Self {
            adapters: adapters.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The first right singular vector of `B A`, `[1, d_in]`, without forming the product.
    fn direction(&self, layer: &LowRank) -> Tensor<2> {
        let (a, b) = (layer.a.val().detach(), layer.b.val().detach());
        let (a, b) = (plain(a), plain(b));
        let [_, d_in] = a.dims();
        let squared = b.clone().transpose().matmul(b);
        let unit = |x: Tensor<2>| {
            let length = x.clone().square().sum().sqrt() + 1e-8;
            x / length.unsqueeze()
        };
        let drawn = TorchRng::new(self.rng_seed).normal(d_in, 1.0);
        let mut v = unit(Tensor::from_data(TensorData::new(drawn, [d_in, 1]), &a.device()));
        for _ in 0..STEPS {
            v = unit(
                a.clone()
                    .transpose()
                    .matmul(squared.clone().matmul(a.clone().matmul(v))),
            );
        }
        v.transpose()
    }
}

/// Without autodiff.
fn plain(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_data(x.clone().into_data(), &x.device().inner())
}

impl Codec<AdapterHub> for Arrow {}

/// peft makes it of saved LoRAs, and saves none.
impl Codec<Peft> for Arrow {}

/// The router of one layer.
#[derive(Module, Debug)]
pub(crate) struct ArrowRouter {
    /// The directions of the adapters, `[adapters, d_in]`; not trained.
    pub(crate) prototypes: Param<Tensor<2>>,
    /// How many adapters act on a token.
    pub(crate) top_k: usize,
    /// What the scores are divided by.
    pub(crate) temperature: f64,
}

impl SiteAdapter<FusionState> for ArrowRouter {
    fn apply(&self, state: FusionState, _: &Call<'_>) -> FusionState {
        let directions: Tensor<3> = self.prototypes.val().transpose().unsqueeze();
        let scores = state.before.clone().matmul(directions).abs();
        let left_out = among_largest(&scores, self.top_k).bool_not();
        let weights = softmax((scores / self.temperature).mask_fill(left_out, f32::NEG_INFINITY), 2);
        FusionState {
            fused: weighted_sum(weights, state.additions.clone()),
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl NamedParams for ArrowRouter {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![("prototypes".into(), self.prototypes.id)]
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        vec![self.prototypes.id]
    }
}

/// Takes the mean of A and of B over the adapters `general` out of those of each of `tasks`, so that what all share is left to the
/// base. *Enhancing Cross-task Transfer of Large Language Models via General Knowledge Subtraction* (GenKnowSub), 2025,
/// <https://aclanthology.org/2025.acl-short.54/>.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`]; [`Error::CannotFuse`] for adapters of other layers or ranks, and where none is general.
pub fn subtract_general(set: &mut AdapterSet, tasks: &[&str], general: &[&str]) -> Result<(), Error> {
    let refuse = |reason: &str| Error::CannotFuse {
        adapters: [tasks, general].concat().join(", "),
        reason: reason.to_owned(),
    };
    let values: Vec<ParamValues> = general
        .iter()
        .map(|name| Ok(set.attached(name)?.values()))
        .collect::<Result<_, Error>>()?;
    for name in tasks {
        let own = set.attached(name)?.clone();
        let mut changed = own.values();
        for (place, data) in &mut changed {
            let shape = data.shape();
            let mut numbers: Vec<f32> = data.iter().collect();
            for other in &values {
                let other = other.get(place).filter(|other| other.shape() == shape);
                let other = other.ok_or_else(|| refuse("they have other layers or ranks"))?;
                for (x, y) in numbers.iter_mut().zip(other.iter::<f32>()) {
                    *x -= y / values.len() as f32;
                }
            }
            *data = TensorData::new(numbers, shape);
        }
        if values.is_empty() {
            return Err(refuse("no general adapter is named"));
        }
        set.replace(name, own.with_values(changed))?;
    }
    Ok(())
}
