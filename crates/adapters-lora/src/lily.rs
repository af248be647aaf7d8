//! Lily: low-rank matrices that layers share, mixed by a router.

use std::borrow::Cow;
use std::collections::HashMap;

use adapters_core::target::{ModulePattern, Target};
use adapters_core::{
    Build, Call, Capabilities, Causality, ConfigError, Effect, Error, Format, LinearState, Method, NamedParams,
    ParamId, Role, Shared, SharedParameters, Site, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::{ModuleFields, PeftModules, peft_modules};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::site_builder::linear;

/// `W x + s (sum_e p_e B_e) A x`, where A is shared by `stride_A` layers in a row and the `num_B` matrices `B_e` by all layers
/// of a name and shape. A router of each layer gives `p`, the mean of `softmax(R A x)` over all tokens of the batch.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 32 | rank | >= 1 |
/// | `stride_A` | 1 | layers in a row that share an A | >= 1 |
/// | `num_B` | 2 | matrices that are mixed | >= 1 |
/// | `scaling` | 1 | `s` | finite |
/// | `init_weights` | true | B begins at zero; random values without it | |
///
/// Paper: *Low-Rank Interconnected Adaptation across Layers*, Zhong et al., 2024, <https://arxiv.org/abs/2407.09946>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lily {
    /// Rank.
    pub r: usize,
    /// Layers in a row that share an A.
    #[serde(rename = "stride_A")]
    pub stride_a: usize,
    /// Matrices that are mixed.
    #[serde(rename = "num_B")]
    pub num_b: usize,
    /// Factor of the update.
    pub scaling: f64,
    /// Whether B begins at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Lily {
    fn default() -> Self {
        Self {
            r: 32,
            stride_a: 1,
            num_b: 2,
            scaling: 1.0,
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Lily {
    const NAME: &'static str = "lily";
    const DESCRIPTION: &'static str = "Low-rank matrices that layers share, mixed by a router.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::size("stride_A", self.stride_a)?;
        ConfigError::size("num_B", self.num_b)?;
        ConfigError::size("num_B x r", self.num_b * self.r)?;
        ConfigError::finite("scaling", self.scaling)
    }

    fn target(&self) -> Target {
        self.modules().target_or(Target::roles([Role::Query, Role::Value]))
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        Self::linear_dims(site)?;
        let router = draw::linear(&mut build.rng(None, site.site), [self.num_b, self.r], self.r);
        Ok(linear(Router {
            weight: Param::from_data(router, build.device),
            scale: self.scaling,
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Lily: "LILY" {
    fn param_key(param: &str) -> String {
        format!("{param}.weight")
    }

    /// A shared matrix is in files at every module that reads it.
    fn shared_param_key(param: &str) -> String {
        format!("{}{param}.weight", Format::Peft.key_prefix())
    }
});

/// Names of the shared matrices, below the path of a module that reads them.
const A: &str = "lily_A";
const B: &str = "lily_B";

impl Lily {
    /// Which layers share matrices: those of a name in the configuration and of a shape, in the order of the model.
    fn groups(&self, sites: Vec<SiteInfo>) -> Vec<Vec<SiteInfo>> {
        let mut groups: Vec<(_, Vec<SiteInfo>)> = Vec::new();
        for site in sites {
            let ending = match &self.targets.target_modules {
                Some(ModulePattern::Names(names)) => {
                    let fits = names.iter().filter(|name| site.path.ends_with(name.as_str()));
                    fits.max_by_key(|name| name.len()).cloned()
                }
                // One expression for all.
                Some(ModulePattern::Regex(_)) => Some(String::new()),
                _ => None,
            };
            let ending = ending.or_else(|| site.path.rsplit('.').next().map(str::to_owned));
            let key = (ending, site.linear_dims());
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, group)) => group.push(site),
                None => groups.push((key, vec![site])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }
}

impl SharedParameters for Lily {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let mut selected = self.target().select(build.host)?.sites;
        if selected.is_empty() {
            // A reparameterized weight is a model of one site, whatever the target is.
            selected = build.host.sites();
        }
        let mut rng = build.shared_rng(None);
        let mut matrices = SharedByLayers::default();
        for group in self.groups(selected) {
            let Some((d_in, d_out)) = group.first().and_then(SiteInfo::linear_dims) else {
                continue;
            };
            let rows = self.num_b * self.r;
            let b = match self.init_weights {
                true => draw::constant([rows, d_out], 0.0),
                false => draw::linear(&mut rng, [rows, d_out], d_out),
            };
            matrices.b.push(Param::from_data(b, build.device));
            for block in group.chunks(self.stride_a) {
                let a = draw::linear(&mut rng, [self.r, d_in], d_in);
                matrices.a.push(Param::from_data(a, build.device));
                for site in block {
                    let at = SiteMatrices {
                        a: matrices.a.len() - 1,
                        b: matrices.b.len() - 1,
                        path: site.path.clone(),
                    };
                    matrices.by_site.insert(site.site, at);
                }
            }
        }
        Ok(Shared::of(matrices))
    }

    fn owns(&self, param: &str) -> bool {
        [A, B].iter().any(|name| param.ends_with(name))
    }
}

/// The matrices that layers share.
#[derive(Module, Debug, Default)]
pub(crate) struct SharedByLayers {
    /// Each `[r, d_in]`.
    pub(crate) a: Vec<Param<Tensor<2>>>,
    /// Each `[num_b r, d_out]`, one matrix below the other.
    pub(crate) b: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    by_site: HashMap<Site, SiteMatrices>,
}

/// Which of the matrices a layer reads.
#[derive(Clone, Debug)]
struct SiteMatrices {
    a: usize,
    b: usize,
    path: String,
}

impl NamedParams for SharedByLayers {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut by_site: Vec<&SiteMatrices> = self.by_site.values().collect();
        by_site.sort_by(|one, other| one.path.cmp(&other.path));
        let both = by_site.into_iter().flat_map(|at| {
            let a = (format!("{}.{A}", at.path).into(), self.a[at.a].id);
            [a, (format!("{}.{B}", at.path).into(), self.b[at.b].id)]
        });
        both.collect()
    }
}

/// How one layer mixes the shared matrices.
#[derive(Module, Debug)]
pub(crate) struct Router {
    /// `[num_b, r]`.
    pub(crate) weight: Param<Tensor<2>>,
    /// Factor of the update.
    pub(crate) scale: f64,
}

impl SiteAdapter<LinearState, SharedByLayers> for Router {
    /// # Panics
    ///
    /// Panics at a site that the shared matrices were not built for.
    #[expect(
        clippy::panic,
        reason = "`build_shared` makes matrices for every site that is targeted"
    )]
    fn apply(&self, state: LinearState, call: &Call<'_, SharedByLayers>) -> LinearState {
        let shared = call.shared;
        let Some(at) = shared.by_site.get(&call.site) else {
            panic!("the matrices of Lily were not built for {}", call.site);
        };
        let (a, b) = (shared.a[at.a].val(), shared.b[at.b].val());
        let [experts, r] = self.weight.dims();
        let [_, d_out] = b.dims();
        state.plus(|x| {
            let [batch, seq, _] = x.dims();
            let narrow = project(x, a);
            let chosen = activation::softmax(project(narrow.clone(), self.weight.val()), 2);
            let mean = chosen.reshape([batch * seq, experts]).mean_dim(0);
            let mixed = mean.matmul(b.reshape([experts, r * d_out])).reshape([r, d_out]);
            narrow.matmul(mixed.unsqueeze()) * self.scale
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    /// The router sees all tokens.
    fn causality(&self) -> Causality {
        Causality::LooksAhead
    }
}

named_params!(Router: "lily_router" => weight);
