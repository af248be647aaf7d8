//! PSOFT: a rotation between the singular vectors of a weight.

use std::borrow::Cow;

use adapters_core::config::to_fields;
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Causality, Codec, ConfigError, Effect, Erased, Error, Host, LinearState,
    LinearWeight, Method, NamedParams, NotMergeable, ParamId, Peft, Role, SiteAdapter, SiteInfo, SiteLayer, Source,
    StoredConfig,
};
use adapters_methods::ModuleFields;
use adapters_methods::{name_modules, read_modules};
use adapters_nn::ops::project;
use adapters_nn::{draw, float_weight};
use burn::linalg::svd;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::rotation::{cayley, check_terms, skew, skew_indices};

/// `W + s B (diag(b) R diag(a) - I) A`, where `s B A` is the best approximation of `W` of rank `r`, `R` a rotation of `r` by `r`, and
/// `s = psoft_alpha / r`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 32 | rank | >= 1, at most the features of every layer |
/// | `psoft_alpha` | 32 | numerator of the scale | finite, not zero |
/// | `psoft_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
/// | `ab_svd_init` | `psoft_init` | the singular values are all in B; `pissa_init`: a root in each of A and B | |
/// | `psoft_orth` | true | `R` is a rotation; any matrix without it | |
/// | `psoft_mag_a`, `psoft_mag_b` | true | the vectors `a` and `b` | |
/// | `use_cayley_neumann` | false | a series in place of the inverse of Cayley's transform | |
/// | `num_cayley_neumann_terms` | 5 | its terms | 1 to 1000 |
/// | `cayley_neumann_eps` | none | largest Frobenius norm of its argument, which is scaled down to it | 0 .. 1 |
/// | `init_weights` | true | begin as the weight; random values without it | |
/// | `psoft_svd`, `psoft_svd_lowrank_niter`, `random_seed` | | how peft computes the approximation; here it is exact | |
///
/// Which signs singular vectors have is the choice of the library that computes them, and peft's files do not hold A and B: they are
/// read as `<module>._psoft_A_cache.<adapter>` and `_psoft_B_cache`, and written so.
///
/// Paper: *Efficient Orthogonal Fine-Tuning with Principal Subspace Adaptation*, Wu et al., 2025,
/// <https://arxiv.org/abs/2505.11235>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Psoft {
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub psoft_alpha: f64,
    /// Dropout probability on the input, in training.
    pub psoft_dropout: f64,
    /// Where the singular values are.
    pub ab_svd_init: Values,
    /// Whether `R` is a rotation.
    pub psoft_orth: bool,
    /// Whether there is a vector before `R`.
    pub psoft_mag_a: bool,
    /// Whether there is a vector after `R`.
    pub psoft_mag_b: bool,
    /// A series in place of the inverse.
    pub use_cayley_neumann: bool,
    /// Its terms.
    pub num_cayley_neumann_terms: usize,
    /// Largest norm of its argument.
    pub cayley_neumann_eps: Option<f64>,
    /// Whether the update begins at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

/// Where the singular values of the approximation are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// All in B.
    #[default]
    PsoftInit,
    /// A root in each of A and B.
    PissaInit,
}

impl Default for Psoft {
    fn default() -> Self {
        Self {
            r: 32,
            psoft_alpha: 32.0,
            psoft_dropout: 0.0,
            ab_svd_init: Values::PsoftInit,
            psoft_orth: true,
            psoft_mag_a: true,
            psoft_mag_b: true,
            use_cayley_neumann: false,
            num_cayley_neumann_terms: 5,
            cayley_neumann_eps: None,
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Psoft {
    const NAME: &'static str = "psoft";
    const DESCRIPTION: &'static str = "A rotation between the principal singular vectors of the weight.";

    fn check(&self) -> Result<(), ConfigError> {
        let (alpha, dropout, terms) = (self.psoft_alpha, self.psoft_dropout, self.num_cayley_neumann_terms);
        ConfigError::unless(self.r > 0, "r", "at least 1", self.r)?;
        let finite = alpha.is_finite() && alpha != 0.0;
        ConfigError::unless(finite, "psoft_alpha", "a finite number that is not zero", alpha)?;
        ConfigError::probability("psoft_dropout", dropout)?;
        check_terms(terms)?;
        let eps = self.cayley_neumann_eps.unwrap_or(0.5);
        ConfigError::unless(eps > 0.0 && eps < 1.0, "cayley_neumann_eps", "between 0 and 1", eps)
    }

    fn target(&self) -> Target {
        self.targets.target_or(Target::roles([Role::Query, Role::Value]))
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let r = self.r;
        if r > d_in.min(d_out) {
            return Err(Self::refuse(
                site,
                format!("r is {r}, and it has {d_in} inputs and {d_out} outputs"),
            ));
        }
        let frozen = build.host.linear(site.site);
        let frozen = frozen.ok_or_else(|| Self::refuse(site, "the model gives no access to this weight"))?;
        let scale = self.psoft_alpha / r as f64;
        let (u, s, v) = svd::<2, 1>(float_weight(frozen).transpose(), SWEEPS);
        let (u, v) = (u.slice_dim(1, 0..r), v.slice_dim(0, 0..r));
        let s = s.slice_dim(0, 0..r) / scale;
        let (in_a, in_b) = match self.ab_svd_init {
            Values::PsoftInit => (s.ones_like(), s),
            Values::PissaInit => (s.clone().sqrt(), s.sqrt()),
        };
        let mut rng = build.rng(None, site.site);
        let upper = r * (r - 1) / 2;
        let rotation = match (self.psoft_orth, self.init_weights) {
            (true, true) => Inner::Skew(Param::from_data(draw::constant([upper], 0.0), build.device)),
            (true, false) => Inner::Skew(Param::from_data(draw::normal(&mut rng, [upper], 0.1), build.device)),
            (false, given) => {
                let eye = Tensor::<2>::eye(r, build.device);
                let std = if given { 0.0 } else { 0.1 };
                let noise = Tensor::<2>::from_data(draw::normal(&mut rng, [r, r], std), build.device);
                Inner::Free(Param::from_data((eye + noise).into_data(), build.device))
            }
        };
        let ones = || Param::from_data(draw::constant([r], 1.0), build.device);
        Ok(SiteLayer::Linear(Erased::new(SubspaceRotation {
            a: Param::from_data((v * in_a.unsqueeze_dim(1)).into_data(), build.device),
            b: Param::from_data((u * in_b.unsqueeze_dim(0)).into_data(), build.device),
            rotation,
            before: self.psoft_mag_a.then(ones),
            after: self.psoft_mag_b.then(ones),
            indices: skew_indices(r, build.device),
            terms: self.use_cayley_neumann.then_some(self.num_cayley_neumann_terms),
            limit: self.cayley_neumann_eps,
            scale,
            dropout: self.psoft_dropout,
        })))
    }
}

/// Most sweeps of the Jacobi iteration; it stops when it has converged.
const SWEEPS: usize = 30;

/// Peft's name.
const PEFT_TYPE: &str = "PSOFT";

impl Codec<AdapterHub> for Psoft {}

impl Codec<Peft> for Psoft {
    fn base_fields() -> &'static [BaseField] {
        &[BaseField::ModulesToSave]
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        read_modules(PEFT_TYPE, stored, |config: &Self| &config.targets)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut config = self.clone();
        name_modules(PEFT_TYPE, &mut config.targets, sites, host);
        Ok(to_fields(&config, &[]))
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match param {
            "A" | "B" => format!("{}._psoft_{param}_cache.{adapter}", site.path),
            _ => format!("{}.psoft_R.{param}", site.path),
        }
    }

    /// Indices of the upper elements, which follow from the rank.
    fn is_duplicate(&self, key: &str) -> bool {
        key.contains(".psoft_R.") && (key.ends_with(".rows") || key.ends_with(".cols"))
    }
}

/// The matrix in the middle.
#[derive(Module, Debug)]
pub enum Inner {
    /// Upper elements of a skew-symmetric matrix, row by row, `[r (r - 1) / 2]`.
    Skew(Param<Tensor<1>>),
    /// Any matrix, `[r, r]`.
    Free(Param<Tensor<2>>),
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct SubspaceRotation {
    /// `[r, d_in]`, stored and never trained.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_out, r]`, stored and never trained.
    pub(crate) b: Param<Tensor<2>>,
    /// `R`.
    pub(crate) rotation: Inner,
    /// `a`, `[r]`.
    pub(crate) before: Option<Param<Tensor<1>>>,
    /// `b`, `[r]`.
    pub(crate) after: Option<Param<Tensor<1>>>,
    /// Where each number of the rotation stands in its skew-symmetric matrix.
    pub(crate) indices: Tensor<1, Int>,
    /// Terms of a series in place of the inverse.
    pub(crate) terms: Option<usize>,
    /// Largest norm of its argument.
    pub(crate) limit: Option<f64>,
    /// `s`.
    pub(crate) scale: f64,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl SubspaceRotation {
    /// `diag(b) R diag(a) - I`, `[r, r]`.
    fn inner(&self) -> Tensor<2> {
        let [r, _] = self.a.dims();
        let eye = Tensor::<2>::eye(r, &self.a.val().device());
        let mut inner = match &self.rotation {
            Inner::Free(matrix) => matrix.val(),
            Inner::Skew(upper) => {
                let skew = skew(upper.val().unsqueeze_dim(0), self.indices.clone(), r);
                match self.terms {
                    Some(terms) => series(self.limited(skew.squeeze_dim::<2>(0)), terms, eye.clone()),
                    None => cayley(-skew).squeeze_dim::<2>(0),
                }
            }
        };
        if let Some(after) = &self.after {
            inner = inner * after.val().unsqueeze_dim(1);
        }
        if let Some(before) = &self.before {
            inner = inner * before.val().unsqueeze_dim(0);
        }
        inner - eye
    }

    /// A matrix scaled down to the limit of its norm.
    fn limited(&self, matrix: Tensor<2>) -> Tensor<2> {
        let Some(limit) = self.limit else {
            return matrix;
        };
        let square = matrix.clone().square().sum();
        let is_small = square.clone().lower_equal_elem(limit * limit);
        let norm = square.clamp_min(limit * limit).sqrt();
        let factor = (norm.recip() * limit).mask_fill(is_small, 1.0);
        matrix * factor.unsqueeze()
    }
}

/// `I + 2 Q + 2 Q^2 + ..`, the last power once: the first terms of `(I + Q) (I - Q)^-1`. Three terms are computed as four, as in
/// the reference.
fn series(q: Tensor<2>, terms: usize, eye: Tensor<2>) -> Tensor<2> {
    let mut sum = eye;
    if terms > 1 {
        sum = sum + q.clone() * 2.0;
    }
    if terms > 2 {
        let mut power = q.clone().matmul(q.clone());
        sum = sum + power.clone() * 2.0;
        for _ in 3..terms - 1 {
            power = power.matmul(q.clone());
            sum = sum + power.clone() * 2.0;
        }
        sum = sum + power.matmul(q);
    }
    sum
}

impl SiteAdapter<LinearState> for SubspaceRotation {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let inner = self.inner();
        state.plus(|x| {
            let x = project(call.dropout(x, self.dropout), self.a.val());
            project(project(x, inner), self.b.val()) * self.scale
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let product = self.b.val().matmul(self.inner()).matmul(self.a.val());
        Ok(base.plus(product * self.scale))
    }
}

impl NamedParams for SubspaceRotation {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let weight = match &self.rotation {
            Inner::Skew(upper) => upper.id,
            Inner::Free(matrix) => matrix.id,
        };
        let mut params: Vec<(Cow<'static, str>, ParamId)> = vec![
            ("A".into(), self.a.id),
            ("B".into(), self.b.id),
            ("weight".into(), weight),
        ];
        params.extend(self.before.iter().map(|a| ("vector_a".into(), a.id)));
        params.extend(self.after.iter().map(|b| ("vector_b".into(), b.id)));
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        vec![self.a.id, self.b.id]
    }
}
