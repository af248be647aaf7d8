//! AdaMSS: an update that is of low rank in each of several subspaces of the output.

use std::borrow::Cow;
use std::collections::BTreeMap;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Causality, Codec, ConfigError, Effect, Error, Host, LinearState, LinearWeight,
    Method, NamedParams, NotMergeable, ParamId, Peft, SiteAdapter, SiteInfo, SiteLayer, Source, StoredConfig, Tensors,
};
use adapters_methods::{Fields, ModuleFields, PeftModules, read_modules};
use adapters_nn::ops::project;
use adapters_nn::{draw, float_weight};
use burn::linalg::svd;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::init::SWEEPS;
use crate::site_builder::linear;

/// `W x + b + P [B_i A_i]_i N [x; 1]`: the output features are put into `num_subspaces` groups, each with an update of rank
/// `subspace_rank` that reads the same `r` frozen directions N of the input, the right singular vectors of `[W, b]`. P puts
/// the features of the groups into their order. The groups are clusters of the rows of the left singular vectors.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 100 | directions; as many as the weight has, at most | >= 1 |
/// | `num_subspaces` | 5 | groups; as many as there are output features, at most | >= 1 |
/// | `subspace_rank` | 1 | rank of a group's update | >= 1 |
/// | `use_dynamic_rank`, `svd_threshold` | false, 0.1 | leave out directions of a group whose squared singular value is below the fraction of the largest | `0 <= x < 1` |
/// | `init_weights` | `orthogonal` | B begins at zero; random values if none | |
/// | `random_seed` | 0 | kept | |
/// | `use_asa` and its schedule | false | kept; in peft a callback of the user runs it | |
///
/// The groups are computed here in another way than in peft, whose files leave them out: such a file is read with a further
/// file of `scatter_index` tensors. Files of this library have them.
///
/// Paper: *AdaMSS: Adaptive Multi-Subspace Approach for Parameter-Efficient Fine-Tuning*, Zheng et al., 2025.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adamss {
    /// Directions of the input.
    pub r: usize,
    /// Groups of output features.
    pub num_subspaces: usize,
    /// Rank of a group's update.
    pub subspace_rank: usize,
    /// Whether a group may have a smaller rank.
    pub use_dynamic_rank: bool,
    /// Fraction of the largest squared singular value below which a direction is left out.
    pub svd_threshold: f64,
    /// What B begins as.
    pub init_weights: Option<AdamssInit>,
    /// What a file has for each module, by its key; in no configuration.
    #[serde(skip)]
    pub stored: BTreeMap<String, StoredGroups>,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

/// What B begins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdamssInit {
    /// Zero, with an orthonormal A.
    Orthogonal,
}

/// What a file has for a module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredGroups {
    /// Features and rank of each group, by the number of the group.
    pub sizes: BTreeMap<usize, [usize; 2]>,
    /// The output feature of each feature of the groups.
    pub order: Option<TensorData>,
}

impl Default for Adamss {
    fn default() -> Self {
        Self {
            r: 100,
            num_subspaces: 5,
            subspace_rank: 1,
            use_dynamic_rank: false,
            svd_threshold: 0.1,
            init_weights: Some(AdamssInit::Orthogonal),
            stored: BTreeMap::new(),
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Adamss {
    const NAME: &'static str = "adamss";
    const DESCRIPTION: &'static str = "A low-rank update in each of several subspaces of the output.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::size("num_subspaces", self.num_subspaces)?;
        ConfigError::size("subspace_rank", self.subspace_rank)?;
        let threshold = self.svd_threshold;
        ConfigError::probability("svd_threshold", threshold)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let frozen = build.host.linear(site.site);
        let frozen = frozen.ok_or_else(|| Self::refuse(site, "the model gives no access to this weight"))?;
        let width = d_in + usize::from(frozen.bias.is_some());
        let r = self.r.min(d_out).min(width);
        let zeros = |shape: [usize; 2]| Param::from_data(draw::constant(shape, 0.0), build.device);
        let groups = match self.stored_of(site) {
            Some(stored) => {
                let sizes: Vec<[usize; 2]> = stored.sizes.values().copied().collect();
                let features: usize = sizes.iter().map(|[features, _]| features).sum();
                if features != d_out {
                    let reason = format!("its groups have {features} output features, expected {d_out}");
                    return Err(Self::refuse(site, reason));
                }
                let natural = || TensorData::new((0..d_out as i64).collect::<Vec<_>>(), [d_out]);
                Groups {
                    a: sizes.iter().map(|[_, rank]| zeros([*rank, r])).collect(),
                    b: sizes.iter().map(|[features, rank]| zeros([*features, *rank])).collect(),
                    directions: zeros([r, width]),
                    order: integers(stored.order.clone().unwrap_or_else(natural), build),
                    d_out,
                }
            }
            None => self.groups(
                site,
                build,
                float_weight(frozen),
                frozen.bias.as_ref().map(|b| b.val()),
                r,
            ),
        };
        Ok(linear(groups))
    }
}

fn integers(data: TensorData, build: &Build<'_>) -> Param<Tensor<1, Int>> {
    Param::initialized(ParamId::new(), Tensor::from_data(data, build.device))
}

impl Adamss {
    /// What a file has for a site.
    fn stored_of(&self, site: &SiteInfo) -> Option<&StoredGroups> {
        let fits = |key: &str| {
            key.strip_suffix(site.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        // A class around or inside the model puts more in front of the path, or less.
        let found = self.stored.iter().find(|(key, _)| fits(key));
        let shorter = || {
            let ends = |key: &&String| {
                site.path
                    .ends_with(&format!(".{}", key.trim_start_matches("base_model.model.")))
            };
            self.stored.iter().find(|(key, _)| ends(key))
        };
        found.or_else(shorter).map(|(_, stored)| stored)
    }

    /// The groups of a new adapter.
    fn groups(
        &self,
        site: &SiteInfo,
        build: &Build<'_>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        r: usize,
    ) -> Groups {
        let mut rng = build.rng(None, site.site);
        let weight = weight.transpose();
        let [d_out, _] = weight.dims();
        let whole = match bias {
            Some(bias) => Tensor::cat(vec![weight, bias.unsqueeze_dim(1)], 1),
            None => weight,
        };
        let (u, _, vt) = svd::<2, 1>(whole, SWEEPS);
        let left = u.slice_dim(1, 0..r);
        let rows: Vec<f32> = left.clone().into_data().iter().collect();
        let clusters = clusters(&rows, r, self.num_subspaces.min(d_out), &mut rng);
        let mut groups = Groups {
            a: Vec::new(),
            b: Vec::new(),
            directions: Param::from_data(vt.slice_dim(0, 0..r).into_data(), build.device),
            order: integers(
                TensorData::new(
                    clusters.concat().iter().map(|row| *row as i64).collect::<Vec<_>>(),
                    [d_out],
                ),
                build,
            ),
            d_out,
        };
        for members in clusters {
            let indices: Vec<i64> = members.iter().map(|row| *row as i64).collect();
            let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [members.len()]), &left.device());
            let (_, s, vt) = svd::<2, 1>(left.clone().select(0, indices), SWEEPS);
            let values: Vec<f64> = s.into_data().iter().collect();
            let most = self.subspace_rank.min(members.len()).min(values.len());
            let rank = match self.use_dynamic_rank {
                true => {
                    let limit = self.svd_threshold * values.first().copied().unwrap_or_default().powi(2);
                    values.iter().filter(|value| value.powi(2) > limit).count().min(most)
                }
                false => most,
            };
            let rank = rank.max(1);
            let b = match self.init_weights {
                Some(AdamssInit::Orthogonal) => draw::constant([members.len(), rank], 0.0),
                None => draw::normal(&mut rng, [members.len(), rank], 0.01),
            };
            groups
                .a
                .push(Param::from_data(vt.slice_dim(0, 0..rank).into_data(), build.device));
            groups.b.push(Param::from_data(b, build.device));
        }
        groups
    }
}

/// Puts rows of `width` numbers into `count` clusters, none empty, by Lloyd's algorithm from rows drawn as centers. Each
/// cluster lists its rows, rising.
fn clusters(rows: &[f32], width: usize, count: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let rows: Vec<&[f32]> = rows.chunks_exact(width).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    for i in 0..count {
        let other = i + (rng.next_u64() % (rows.len() - i) as u64) as usize;
        order.swap(i, other);
    }
    let mut centers: Vec<Vec<f32>> = order[..count].iter().map(|row| rows[*row].to_vec()).collect();
    let distance = |row: &[f32], center: &[f32]| row.iter().zip(center).map(|(x, y)| (x - y).powi(2)).sum::<f32>();
    let mut found = Vec::new();
    for _ in 0..ITERATIONS {
        found = vec![Vec::new(); count];
        for (index, row) in rows.iter().enumerate() {
            let distances = centers.iter().map(|center| distance(row, center));
            let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            found[nearest.map_or(0, |(cluster, _)| cluster)].push(index);
        }
        // An empty cluster takes a row of the largest.
        while let Some(empty) = found.iter().position(Vec::is_empty) {
            let largest = (0..count).max_by_key(|cluster| found[*cluster].len()).unwrap_or(0);
            let row = found[largest].pop();
            found[empty].extend(row);
        }
        for (center, members) in centers.iter_mut().zip(&found) {
            for (column, value) in center.iter_mut().enumerate() {
                *value = members.iter().map(|row| rows[*row][column]).sum::<f32>() / members.len() as f32;
            }
        }
    }
    found.iter_mut().for_each(|members| members.sort_unstable());
    found
}

/// Rounds of Lloyd's algorithm, as in the reference.
const ITERATIONS: usize = 10;

impl PeftModules for Adamss {
    const PEFT_TYPE: &'static str = "ADAMSS";

    fn modules(&self) -> &ModuleFields {
        &self.targets
    }

    fn modules_mut(&mut self) -> &mut ModuleFields {
        &mut self.targets
    }
}

impl Codec<AdapterHub> for Adamss {}

const ORDER: &str = "scatter_index";

impl Codec<Peft> for Adamss {
    fn base_fields() -> &'static [BaseField] {
        Self::BASE_FIELDS
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        read_modules(Self::PEFT_TYPE, stored, PeftModules::modules)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Fields, ConfigError> {
        Ok(self.written(sites, host))
    }

    /// A further file has the order of the features under the name of an adapter.
    fn is_duplicate(&self, key: &str) -> bool {
        key.contains(&format!(".{ORDER}."))
    }

    fn may_lack(&self, param: &str) -> bool {
        param == ORDER && !self.stored.is_empty() && self.stored.values().all(|stored| stored.order.is_some())
    }

    /// The groups are those of the file.
    fn adjusted_to(&self, tensors: &Tensors) -> Option<Self> {
        let mut stored: BTreeMap<String, StoredGroups> = BTreeMap::new();
        for (key, data) in tensors {
            if let Some((path, number)) = key.split_once(".adamss_B.")
                && let (Ok(number), &[features, rank]) = (number.parse(), &data.shape()[..])
            {
                let groups = stored.entry(path.to_owned()).or_default();
                groups.sizes.insert(number, [features, rank]);
            }
            if let Some((path, _)) = key.split_once(&format!(".{ORDER}")) {
                stored.entry(path.to_owned()).or_default().order = Some(data.clone());
            }
        }
        (!stored.is_empty()).then(|| Self { stored, ..self.clone() })
    }
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Groups {
    /// Of each group, `[rank, r]`.
    pub(crate) a: Vec<Param<Tensor<2>>>,
    /// Of each group, `[features, rank]`.
    pub(crate) b: Vec<Param<Tensor<2>>>,
    /// N, `[r, d_in]`, with one column more for a bias; not trained.
    pub(crate) directions: Param<Tensor<2>>,
    /// The output feature of each feature of the groups, `[d_out]`.
    pub(crate) order: Param<Tensor<1, Int>>,
    /// Output features.
    pub(crate) d_out: usize,
}

impl Groups {
    /// `P [B_i A_i]_i`, `[d_out, r]`.
    fn update(&self) -> Tensor<2> {
        let updates = self.a.iter().zip(&self.b).map(|(a, b)| b.val().matmul(a.val()));
        let inverse = self.order.val().argsort(0);
        Tensor::cat(updates.collect(), 0).select(0, inverse)
    }
}

impl SiteAdapter<LinearState> for Groups {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let update = self.update();
        let directions = self.directions.val();
        let [_, width] = directions.dims();
        state.plus(|x| {
            let [_, _, d_in] = x.dims();
            let seen = project(x, directions.clone().slice_dim(1, 0..d_in));
            let seen = match width > d_in {
                true => seen + directions.slice_dim(1, d_in..width).transpose().unsqueeze::<3>(),
                false => seen,
            };
            project(seen, update)
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let whole = self.update().matmul(self.directions.val());
        let [d_in, d_out] = base.weight.dims();
        let [_, width] = whole.dims();
        let mut merged = base.plus(whole.clone().slice_dim(1, 0..d_in));
        if width > d_in {
            let more = whole.slice_dim(1, d_in..width).reshape([d_out]);
            merged.bias = Some(match merged.bias {
                Some(bias) => bias + more,
                None => more,
            });
        }
        Ok(merged)
    }
}

impl NamedParams for Groups {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let of = |name: &'static str, params: &[Param<Tensor<2>>]| {
            let named = params.iter().enumerate();
            let named = named.map(|(index, param)| (format!("{name}.{index}").into(), param.id));
            named.collect::<Vec<_>>()
        };
        let mut params = [of("adamss_A", &self.a), of("adamss_B", &self.b)].concat();
        params.push(("adamss_newB".into(), self.directions.id));
        params.push((ORDER.into(), self.order.id));
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        vec![self.directions.id, self.order.id]
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        vec![(self.order.id, vec![self.d_out])]
    }
}
