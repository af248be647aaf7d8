//! OSF: the small singular values of a weight and their vectors, trained outside the span of the large ones.

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method, NotMergeable, SiteAdapter,
    SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{draw, float_weight};
use burn::linalg::svd;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::init::SWEEPS;
use crate::site_builder::linear;

/// `W + U diag(S) V - U0 diag(S0) V0`, where `U0`, `S0` and `V0` are all singular triplets of `W` but the `effective_rank` largest, and
/// `U`, `S` and `V` begin there. The gradients of U and V are taken into the space outside the large ones.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `effective_rank` | half | triplets that stay: a number, or a fraction of all written with a point | leaves one at least |
/// | `rank_pattern` | none | ranks by regular expression over module paths; the first that matches | as `effective_rank` |
/// | `init_weights` | true | begin as the weight; normal values without it | |
/// | `target_svd_config` | none | not computed | none |
///
/// Paper: *Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning*, Nayak et al., 2025,
/// <https://arxiv.org/abs/2504.07097>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Osf {
    /// Triplets that stay: a number, or a fraction of all; half of them if none.
    pub effective_rank: Option<serde_json::Number>,
    /// Ranks by regular expression over module paths.
    pub rank_pattern: Option<Map<String, Value>>,
    /// Whether the update begins at zero.
    pub init_weights: Option<bool>,
    /// Only none is computed.
    pub target_svd_config: Option<Value>,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Osf {
    fn default() -> Self {
        Self {
            effective_rank: None,
            rank_pattern: None,
            init_weights: Some(true),
            target_svd_config: None,
            targets: ModuleFields::default(),
        }
    }
}

impl Osf {
    /// How many triplets stay at the module of a path, which has `all`.
    fn rank(&self, path: &str, all: usize) -> usize {
        let mut patterns = self.rank_pattern.iter().flatten();
        let found = patterns.find_map(|(pattern, rank)| {
            let matches = fancy_regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(path).unwrap_or(false));
            matches.then(|| rank.as_number()).flatten()
        });
        let rank = match found.or(self.effective_rank.as_ref()) {
            None => all / 2,
            Some(rank) => match (rank.as_u64(), rank.as_f64()) {
                (Some(rank), _) => rank as usize,
                (None, Some(part)) if part > 0.0 && part <= 1.0 => (all as f64 * part) as usize,
                (None, Some(rank)) => rank.max(0.0) as usize,
                (None, None) => 0,
            },
        };
        rank.min(all)
    }
}

impl Method for Osf {
    const NAME: &'static str = "osf";
    const DESCRIPTION: &'static str =
        "Trained small singular values and vectors of the weight, orthogonal to the large ones.";

    fn check(&self) -> Result<(), ConfigError> {
        let svd = self.target_svd_config.as_ref();
        let found = svd.map(Value::to_string).unwrap_or_default();
        ConfigError::unless(svd.is_none(), "target_svd_config", "none", found)?;
        for (pattern, rank) in self.rank_pattern.iter().flatten() {
            let fits = fancy_regex::Regex::new(pattern).is_ok() && rank.is_number();
            ConfigError::unless(
                fits,
                "rank_pattern",
                "numbers by regular expressions",
                format!("{pattern}: {rank}"),
            )?;
        }
        Ok(())
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let all = d_in.min(d_out);
        let rank = self.rank(&site.path, all);
        if rank == 0 || rank == all {
            let reason = format!(
                "effective_rank is {rank}, expected 1 to {} of its {all} triplets",
                all - 1
            );
            return Err(Self::refuse(site, reason));
        }
        let frozen = build.host.linear(site.site);
        let frozen = frozen.ok_or_else(|| Self::refuse(site, "the model gives no access to this weight"))?;
        let (u, s, v) = svd::<2, 1>(float_weight(frozen).transpose(), SWEEPS);
        let local = |tensor: Tensor<2>| Tensor::<2>::from_data(tensor.into_data(), build.device);
        let (u0, v0) = (
            local(u.clone().slice_dim(1, rank..all)),
            local(v.clone().slice_dim(0, rank..all)),
        );
        let s0 = Tensor::<1>::from_data(s.slice_dim(0, rank..all).into_data(), build.device);
        let (u_low, s_low, v_low) = match self.init_weights {
            Some(false) => {
                let mut rng = build.rng(None, site.site);
                let mut drawn = |shape: [usize; 2]| draw::normal(&mut rng, shape, 1.0);
                let (u, s, v) = (drawn(u0.dims()), drawn([1, all - rank]), drawn(v0.dims()));
                let s: Vec<f32> = s.iter().collect();
                (u, TensorData::new(s, [all - rank]), v)
            }
            _ => (u0.to_data(), s0.to_data(), v0.to_data()),
        };
        Ok(linear(LowTriplets {
            u: Param::from_data(u_low, build.device),
            s: Param::from_data(s_low, build.device),
            v: Param::from_data(v_low, build.device),
            left: u0 * s0.unsqueeze_dim(0),
            right: v0,
            u_high: local(u.slice_dim(1, 0..rank)),
            v_high: local(v.slice_dim(0, 0..rank)),
        }))
    }
}

peft_modules!(Osf: "OSF" {
    fn param_key(param: &str) -> String {
        format!("osf_svd_params.{param}")
    }

    /// The singular triplets of the base.
    fn is_computed(key: &str) -> bool {
        key.contains("._osf_")
    }
});

/// The update of one layer, `n` singular triplets.
#[derive(Module, Debug)]
pub(crate) struct LowTriplets {
    /// `[d_out, n]`.
    pub(crate) u: Param<Tensor<2>>,
    /// `[n]`.
    pub(crate) s: Param<Tensor<1>>,
    /// `[n, d_in]`.
    pub(crate) v: Param<Tensor<2>>,
    /// `U0 diag(S0)`, `[d_out, n]`, constant.
    pub(crate) left: Tensor<2>,
    /// `V0`, `[n, d_in]`, constant.
    pub(crate) right: Tensor<2>,
    /// Left singular vectors that stay, `[d_out, rank]`, constant.
    pub(crate) u_high: Tensor<2>,
    /// Right singular vectors that stay, `[rank, d_in]`, constant.
    pub(crate) v_high: Tensor<2>,
}

/// `x`, whose gradient is that of `outside(x)`, a linear map that is its own transpose.
fn with_gradient(x: Tensor<2>, outside: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
    let value = x.clone().detach();
    value.clone() + (outside(x) - outside(value))
}

impl LowTriplets {
    /// `[d_out, 2 n]` and `[2 n, d_in]`: the trained product, and the initial one with a minus sign.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let u = with_gradient(self.u.val(), |u| {
            let inside = self.u_high.clone().transpose().matmul(u.clone());
            u - self.u_high.clone().matmul(inside)
        });
        let v = with_gradient(self.v.val(), |v| {
            let inside = v.clone().matmul(self.v_high.clone().transpose());
            v - inside.matmul(self.v_high.clone())
        });
        let left = u * self.s.val().unsqueeze_dim(0);
        (
            Tensor::cat(vec![left, -self.left.clone()], 1),
            Tensor::cat(vec![v, self.right.clone()], 0),
        )
    }
}

impl SiteAdapter<LinearState> for LowTriplets {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let (left, right) = self.factors();
        state.plus(|x| project(project(x, right), left))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let (left, right) = self.factors();
        Ok(base.plus(left.matmul(right)))
    }
}

named_params!(LowTriplets: "U_low" => u, "S_low" => s, "V_low" => v);
