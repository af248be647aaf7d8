//! FRoD: the weight between frozen factors, of which a diagonal and a few elements off it train.

use std::borrow::Cow;
use std::collections::BTreeMap;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Capabilities, Causality, Codec, ConfigError, Effect, Error, Host, LinearState,
    LinearWeight, Method, NamedParams, NotMergeable, ParamId, Peft, Shared, SharedParameters, SiteAdapter, SiteInfo,
    SiteLayer, Source, StoredConfig, Tensors, named_params,
};
use adapters_methods::{Fields, ModuleFields, PeftModules, name_modules, read_modules};
use adapters_nn::ops::project;
use adapters_nn::{TorchRng, draw, float_weight};
use burn::linalg::{qr, svd};
use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::init::SWEEPS;
use crate::site_builder::linear;

/// `U (diag(l) + S) V^T` in place of `W`. V is one for all layers of a category, a name of modules such as `self_query`, and a
/// joint decomposition of their weights; `U diag(l)` is `W V^-T`, so that a new adapter is the identity. What trains is `l`
/// and the elements of S, whose indices are drawn for each category.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `sparse_rate` | 0.01 | fraction of S that is not zero, at least one element | `0 < x <= 1` |
/// | `regularization_alpha` | 1e-3 | ridge of the joint decomposition | > 0 |
/// | `projection_prng_key` | 0 | seed of the indices | |
/// | `frod_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
/// | `init_weights` | true | S begins at zero; random values without it | |
/// | `save_projection` | true | store V and the indices | true: V is one up to signs, which depend on the machine |
///
/// Source: peft 0.21.2, which names no paper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frod {
    /// Fraction of S that is not zero.
    pub sparse_rate: f64,
    /// Ridge of the joint decomposition.
    pub regularization_alpha: f64,
    /// Seed of the indices.
    pub projection_prng_key: u64,
    /// Dropout probability on the input, in training.
    pub frod_dropout: f64,
    /// Whether S begins at zero.
    pub init_weights: bool,
    /// Only true is read and written.
    pub save_projection: bool,
    /// What a file has for each category, `V` and the indices; in no configuration.
    #[serde(skip)]
    pub stored: BTreeMap<String, (TensorData, TensorData)>,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Frod {
    fn default() -> Self {
        Self {
            sparse_rate: 0.01,
            regularization_alpha: 1e-3,
            projection_prng_key: 0,
            frod_dropout: 0.0,
            init_weights: true,
            save_projection: true,
            stored: BTreeMap::new(),
            targets: ModuleFields::default(),
        }
    }
}

/// Names of what layers share, before a category.
const V: &str = "frod_V.";
const INDICES: &str = "frod_s_indices.";
const SIZE: &str = "frod_s_size.";

impl Method for Frod {
    const NAME: &'static str = "frod";
    const DESCRIPTION: &'static str =
        "A trained diagonal and a few more elements between frozen factors of the weight.";

    fn check(&self) -> Result<(), ConfigError> {
        let (rate, dropout) = (self.sparse_rate, self.frod_dropout);
        ConfigError::unless(rate > 0.0 && rate <= 1.0, "sparse_rate", "0 < x <= 1", rate)?;
        let ridge = self.regularization_alpha;
        ConfigError::unless(ridge > 0.0, "regularization_alpha", "above 0", ridge)?;
        ConfigError::probability("frod_dropout", dropout)?;
        let expected = "true: without it the signs of the projection depend on the machine that wrote the file";
        ConfigError::unless(self.save_projection, "save_projection", expected, false)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        if d_in < 2 {
            return Err(Self::refuse(site, "it needs at least two input features"));
        }
        let category = category(&site.path);
        let projection = self.projection(&category, build)?;
        let frozen = build.host.linear(site.site);
        let frozen = frozen.ok_or_else(|| Self::refuse(site, "the model gives no access to this weight"))?;
        // `W`, `[d_out, d_in]`, and `B = W V^-T`.
        let weight: Vec<f64> = float_weight(frozen).transpose().into_data().iter().collect();
        let v: Vec<f64> = projection.v.iter().collect();
        if v.len() != d_in * d_in {
            let reason = format!("its projection has {} elements, expected {d_in} x {d_in}", v.len());
            return Err(Self::refuse(site, reason));
        }
        let Some(solved) = right_division(&weight, &v, d_in) else {
            return Err(Self::refuse(site, "the projection of its category has no inverse"));
        };
        let norms: Vec<f64> = (0..d_in)
            .map(|col| {
                (0..d_out)
                    .map(|row| solved[row * d_in + col].powi(2))
                    .sum::<f64>()
                    .sqrt()
            })
            .collect();
        let u = solved
            .iter()
            .enumerate()
            .map(|(index, value)| match norms[index % d_in] {
                norm if norm > 1e-12 => (value / norm) as f32,
                _ => 0.0,
            });
        let u = Tensor::from_data(TensorData::new(u.collect::<Vec<f32>>(), [d_out, d_in]), build.device);
        let count = projection.indices.shape().num_elements() / 2;
        let mut rng = build.rng(None, site.site);
        let mut l: Vec<f32> = norms.iter().map(|norm| *norm as f32).collect();
        let values = match self.init_weights {
            true => draw::constant([count], 0.0),
            false => {
                let noise = draw::normal(&mut rng, [d_in], 0.1);
                l.iter_mut().zip(noise.iter::<f32>()).for_each(|(l, noise)| *l += noise);
                draw::normal(&mut rng, [count], 0.1)
            }
        };
        Ok(linear(BetweenFactors {
            l: Param::from_data(TensorData::new(l, [d_in]), build.device),
            values: Param::from_data(values, build.device),
            u,
            category,
            dropout: self.frod_dropout,
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

/// What the layers of a category share.
struct Projected {
    /// `V`, `[d_in, d_in]`.
    v: TensorData,
    /// Rows and columns of the elements of S, `[2, n]`.
    indices: TensorData,
}

impl Frod {
    /// What a file has for a category, else what follows from the weights and the seed.
    fn projection(&self, category: &str, build: &Build<'_>) -> Result<Projected, Error> {
        if let Some((v, indices)) = self.stored.get(category) {
            let (v, indices) = (v.clone(), indices.clone());
            return Ok(Projected { v, indices });
        }
        let mut all = self.projections(build)?;
        all.remove(category).ok_or_else(|| Error::CannotBuild {
            method: Self::NAME,
            path: category.to_owned(),
            reason: "no module of the model is of this category".to_owned(),
        })
    }

    /// What follows from the weights and the seed.
    fn projections(&self, build: &Build<'_>) -> Result<BTreeMap<String, Projected>, Error> {
        let mut selected = self.target().select(build.host)?.sites;
        if selected.is_empty() {
            // A reparameterized weight is a model of one site, whatever the target is.
            selected = build.host.sites();
        }
        let mut weights: BTreeMap<String, BTreeMap<usize, Tensor<2>>> = BTreeMap::new();
        for (count, info) in selected.iter().enumerate() {
            let Some(frozen) = build.host.linear(info.site) else {
                continue;
            };
            let of_category = weights.entry(category(&info.path)).or_default();
            // As in the reference, the last of several modules with one number stands for all.
            of_category.insert(layer_number(&info.path, count), float_weight(frozen).transpose());
        }
        let mut torch = TorchRng::new(u32::try_from(self.projection_prng_key).unwrap_or_default());
        let projected = weights.into_iter().map(|(category, matrices)| {
            let matrices: Vec<Tensor<2>> = matrices.into_values().collect();
            let [_, d_in] = matrices[0].dims();
            let indices = self.indices(&mut torch, d_in);
            let v = joint_projection(&matrices, self.regularization_alpha).into_data();
            (category, Projected { v, indices })
        });
        Ok(projected.collect())
    }

    /// The indices of S off the diagonal, `[2, n]`.
    fn indices(&self, torch: &mut TorchRng, d_in: usize) -> TensorData {
        let off_diagonal = d_in * (d_in - 1);
        let wanted = ((d_in * d_in) as f64 * self.sparse_rate) as usize;
        let count = wanted.max(1).min(off_diagonal);
        let drawn = torch.permutation(off_diagonal, count);
        // The `k`th element off the diagonal, row by row.
        let at = drawn.iter().map(|k| {
            let (row, col) = (k / (d_in - 1), k % (d_in - 1));
            (row as i64, if col < row { col } else { col + 1 } as i64)
        });
        let (rows, cols): (Vec<i64>, Vec<i64>) = at.unzip();
        TensorData::new([rows, cols].concat(), [2, count])
    }
}

/// `V` of the weights `[d_out, d_in]` of a category.
fn joint_projection(matrices: &[Tensor<2>], ridge: f64) -> Tensor<2> {
    let stacked = Tensor::cat(matrices.to_vec(), 0);
    let [rows, d_in] = stacked.dims();
    if rows < d_in {
        // All right singular vectors, those of directions without weight included: the Q of what there is and the unit
        // matrix next to it.
        let (_, _, vt) = svd::<2, 1>(stacked.clone(), SWEEPS);
        let columns = Tensor::cat(vec![vt.transpose(), Tensor::eye(d_in, &stacked.device())], 1);
        let (q, _) = qr(columns, true);
        return q.slice_dim(1, 0..d_in);
    }
    let (q, r) = qr(stacked, true);
    let mut start = 0;
    let mut sum = Tensor::<2>::zeros([d_in, d_in], &q.device());
    for matrix in matrices {
        let end = start + matrix.dims()[0];
        let rows = q.clone().slice_dim(0, start..end);
        start = end;
        let term = rows.clone().transpose().matmul(rows) + Tensor::eye(d_in, &r.device()) * ridge;
        // The inverse of a symmetric matrix that is positive.
        let (u, s, vt) = svd::<2, 1>(term, SWEEPS);
        sum = sum + (vt.transpose() / s.unsqueeze_dim(0)).matmul(u.transpose());
    }
    let (vectors, _, _) = svd::<2, 1>(sum / matrices.len() as f64, SWEEPS);
    r.transpose().matmul(vectors)
}

/// `W V^-T`, `W [rows, n]` and `V [n, n]`, by elimination with pivots; `None` where `V` has no inverse.
fn right_division(weight: &[f64], v: &[f64], n: usize) -> Option<Vec<f64>> {
    let rows = weight.len() / n;
    // `V X = W^T` is solved in place.
    let mut v: Vec<Vec<f64>> = v.chunks(n).map(<[f64]>::to_vec).collect();
    let mut x: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..rows).map(|row| weight[row * n + i]).collect())
        .collect();
    for col in 0..n {
        let pivot = (col..n).max_by(|a, b| v[*a][col].abs().total_cmp(&v[*b][col].abs()))?;
        if v[pivot][col].abs() < f64::MIN_POSITIVE {
            return None;
        }
        v.swap(col, pivot);
        x.swap(col, pivot);
        let (pivot_v, pivot_x) = (v[col].clone(), x[col].clone());
        for row in (0..n).filter(|row| *row != col) {
            let factor = v[row][col] / pivot_v[col];
            if factor != 0.0 {
                v[row].iter_mut().zip(&pivot_v).for_each(|(a, b)| *a -= factor * b);
                x[row].iter_mut().zip(&pivot_x).for_each(|(a, b)| *a -= factor * b);
            }
        }
    }
    let mut solved = vec![0.0; rows * n];
    for (i, values) in x.iter().enumerate() {
        for (row, value) in values.iter().enumerate() {
            solved[row * n + i] = value / v[i][i];
        }
    }
    Some(solved)
}

/// The category of a module, by the last components of its path.
fn category(path: &str) -> String {
    let components: Vec<&str> = path.split('.').collect();
    match components.as_slice() {
        [.., "attention", "output", "dense"] => "attention_output".to_owned(),
        [.., before, last] if !before.bytes().all(|byte| byte.is_ascii_digit()) => format!("{before}_{last}"),
        [.., last] => (*last).to_owned(),
        [] => String::new(),
    }
}

/// The number of a module's layer: that after `layers`, else the first; `otherwise` where there is none.
fn layer_number(path: &str, otherwise: usize) -> usize {
    let components: Vec<&str> = path.split('.').collect();
    let after = components.iter().position(|component| *component == "layers");
    let number = after.and_then(|index| components.get(index + 1)?.parse().ok());
    let first = || components.iter().find_map(|component| component.parse().ok());
    number.or_else(first).unwrap_or(otherwise)
}

impl PeftModules for Frod {
    const PEFT_TYPE: &'static str = "FROD";
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;

    fn modules(&self) -> &ModuleFields {
        &self.targets
    }

    fn modules_mut(&mut self) -> &mut ModuleFields {
        &mut self.targets
    }
}

impl Codec<AdapterHub> for Frod {}

impl Codec<Peft> for Frod {
    fn base_fields() -> &'static [BaseField] {
        Self::BASE_FIELDS
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        read_modules(Self::PEFT_TYPE, stored, PeftModules::modules)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Fields, ConfigError> {
        let mut config = self.clone();
        name_modules(Self::PEFT_TYPE, &mut config.targets, sites, host);
        Ok(adapters_core::config::to_fields(&config, &[]))
    }

    /// U follows from V and the weight.
    fn is_duplicate(&self, key: &str) -> bool {
        key.contains(".frod_U")
    }

    /// U is computed from the V of the file.
    fn adjusted_to(&self, tensors: &Tensors) -> Option<Self> {
        let stored = tensors.iter().filter_map(|(key, v)| {
            let (before, category) = key.split_once(V)?;
            let indices = tensors.get(&format!("{before}{INDICES}{category}"))?;
            Some((category.to_owned(), (v.clone(), indices.clone())))
        });
        let stored: BTreeMap<_, _> = stored.collect();
        (!stored.is_empty()).then(|| Self { stored, ..self.clone() })
    }
}

impl SharedParameters for Frod {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let all = match self.stored.is_empty() {
            true => self.projections(build)?,
            false => {
                let stored = self.stored.iter().map(|(category, (v, indices))| {
                    let (v, indices) = (v.clone(), indices.clone());
                    (category.clone(), Projected { v, indices })
                });
                stored.collect()
            }
        };
        let integers = |data: TensorData| Param::initialized(ParamId::new(), Tensor::from_data(data, build.device));
        let categories = all.into_iter().map(|(name, Projected { v, indices })| Category {
            name,
            size: Param::initialized(
                ParamId::new(),
                Tensor::from_data(TensorData::new(vec![v.shape()[0] as i64; 2], [2]), build.device),
            ),
            v: Param::from_data(v, build.device),
            indices: integers(indices),
        });
        Ok(Shared::of(Categories {
            all: categories.collect(),
        }))
    }

    fn owns(&self, param: &str) -> bool {
        [V, INDICES, SIZE].iter().any(|name| param.starts_with(name))
    }
}

/// What the layers of each category share; none of it trains.
#[derive(Module, Debug)]
pub(crate) struct Categories {
    /// By category.
    pub(crate) all: Vec<Category>,
}

/// What the layers of a category share.
#[derive(Module, Debug)]
pub(crate) struct Category {
    /// Name of the category.
    #[module(skip)]
    pub(crate) name: String,
    /// V, `[d_in, d_in]`.
    pub(crate) v: Param<Tensor<2>>,
    /// Rows and columns of the elements of S, `[2, n]`.
    pub(crate) indices: Param<Tensor<2, Int>>,
    /// `[d_in, d_in]` as numbers, `[2]`; only stored.
    pub(crate) size: Param<Tensor<1, Int>>,
}

impl NamedParams for Categories {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let named = self.all.iter().flat_map(|category| {
            let name = |what: &str| format!("{what}{}", category.name).into();
            [
                (name(V), category.v.id),
                (name(INDICES), category.indices.id),
                (name(SIZE), category.size.id),
            ]
        });
        named.collect()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        let all = self.all.iter();
        all.flat_map(|category| [category.v.id, category.indices.id, category.size.id])
            .collect()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        let all = self.all.iter();
        all.map(|category| (category.indices.id, vec![category.v.dims()[0]]))
            .collect()
    }
}

/// The weight of one layer.
#[derive(Module, Debug)]
pub(crate) struct BetweenFactors {
    /// The diagonal, `[d_in]`.
    pub(crate) l: Param<Tensor<1>>,
    /// The elements of S, `[n]`.
    pub(crate) values: Param<Tensor<1>>,
    /// `[d_out, d_in]`.
    pub(crate) u: Tensor<2>,
    /// The category whose V it reads.
    #[module(skip)]
    pub(crate) category: String,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl BetweenFactors {
    /// `diag(l) + S` and `V^T`, both `[d_in, d_in]`.
    ///
    /// # Panics
    ///
    /// Panics for a category that was not built.
    #[expect(
        clippy::panic,
        reason = "`build_shared` makes the projection of the category of every site that is targeted"
    )]
    fn factors(&self, shared: &Categories) -> (Tensor<2>, Tensor<2>) {
        let found = shared.all.iter().find(|category| category.name == self.category);
        let Some(category) = found else {
            panic!("the projection of `{}` was not built", self.category);
        };
        let [d_in] = self.l.dims();
        let device = self.l.val().device();
        let indices = category.indices.val();
        let along = Tensor::<1, Int>::arange(0..d_in as i64, &device).cast(indices.dtype()) * (d_in as i64 + 1);
        let [_, count] = indices.dims();
        let rows = indices.clone().slice_dim(0, 0..1).reshape([count]);
        let cols = indices.slice_dim(0, 1..2).reshape([count]);
        let off_diagonal = rows * d_in as i64 + cols;
        let indices = Tensor::cat(vec![along, off_diagonal], 0);
        let values = Tensor::cat(vec![self.l.val(), self.values.val()], 0);
        let inner = Tensor::<1>::zeros([d_in * d_in], &device).scatter(0, indices, values, IndexingUpdateOp::Add);
        (inner.reshape([d_in, d_in]), category.v.val().transpose())
    }
}

impl SiteAdapter<LinearState, Categories> for BetweenFactors {
    fn apply(&self, state: LinearState, call: &Call<'_, Categories>) -> LinearState {
        let (inner, v) = self.factors(call.shared);
        let weight = float_weight(&state.layer);
        state.plus(|x| {
            let x = call.dropout(x, self.dropout);
            let frozen = x.clone().matmul(weight.unsqueeze());
            project(project(project(x, v), inner), self.u.clone()) - frozen
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &Categories) -> Result<LinearWeight, NotMergeable> {
        let (inner, v) = self.factors(shared);
        let weight = self.u.clone().matmul(inner).matmul(v).transpose();
        Ok(LinearWeight { weight, ..base })
    }
}

named_params!(BetweenFactors: "frod_lambda_l" => l, "frod_lambda_s_values" => values);
