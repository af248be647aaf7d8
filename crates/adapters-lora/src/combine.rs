//! Several LoRAs into one, by what their products are rather than parameter by parameter.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use adapters_core::{AdapterSet, Attached, ConfigError, Error, Host, SiteInfo, SiteKind};
use adapters_nn::UnknownName;
use burn::linalg::{qr, svd};
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::config::{Init, LoraConfig, Scaling};
use crate::init::SWEEPS;
use crate::inject::{FAMILY, Lora};
use crate::variants::Variant;

/// How LoRAs become one. `w_i` are the weights, `s_i` the scales, and every sum is over the adapters.
///
/// The plain average of AdapterHub, `sum w_i A_i` and `sum w_i B_i`, is
/// [`AdapterSet::average`](adapters_core::AdapterSet::average), as for every other method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Combination {
    /// `sum |w_i| A_i` and `sum w_i B_i`: a negative weight subtracts. *Composing Parameter-Efficient Modules with
    /// Arithmetic Operations*, Zhang et al., 2023, <https://arxiv.org/abs/2306.14870>.
    NegateB,
    /// The `rank` largest singular triplets of `sum w_i B_i A_i`, without scales, as AdapterHub computes it. The new
    /// adapter keeps the `alpha` of the first, so that its scale follows the new rank.
    DeltaSvd {
        /// Rank of the new adapter.
        rank: usize,
    },
    /// `sum sign_i sqrt(|w_i s_i|) A_i` and `sum sqrt(|w_i s_i|) B_i`, as peft's `linear`.
    Linear,
    /// All A above each other, times `w_i s_i`, and all B beside each other: exactly `sum w_i s_i B_i A_i`.
    Cat,
    /// The `rank` largest singular triplets of `sum w_i s_i B_i A_i`.
    Svd {
        /// Rank of the new adapter.
        rank: usize,
    },
    /// Trim, elect a sign, and average what agrees with it, for A and B apart. *TIES-Merging*, Yadav et al., 2023,
    /// <https://arxiv.org/abs/2306.01708>.
    Ties {
        /// Share of the elements kept.
        density: f64,
        /// How the sign is elected.
        sign: SignElection,
    },
    /// As [`Ties`](Self::Ties) on the whole updates, then their largest singular triplets.
    TiesSvd {
        /// Share of the elements kept.
        density: f64,
        /// How the sign is elected.
        sign: SignElection,
        /// Rank of the new adapter.
        rank: usize,
    },
    /// As [`Linear`](Self::Linear) with elements dropped at random and the others rescaled. *Language Models are Super
    /// Mario*, Yu et al., 2023, <https://arxiv.org/abs/2311.03099>.
    DareLinear {
        /// Share of the elements kept.
        density: f64,
        /// Seed of the choice.
        seed: u64,
    },
    /// As [`Ties`](Self::Ties) with elements dropped at random in place of the smallest.
    DareTies {
        /// Share of the elements kept.
        density: f64,
        /// How the sign is elected.
        sign: SignElection,
        /// Seed of the choice.
        seed: u64,
    },
    /// As [`Linear`](Self::Linear) of the largest elements of A and B.
    MagnitudePrune {
        /// Share of the elements kept.
        density: f64,
    },
}

/// How the sign of an element is elected among adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignElection {
    /// The sign of the sum.
    #[default]
    Total,
    /// The sign most adapters have.
    Frequency,
}

/// The names of [`Combination`] in commands and recipes.
const NAMES: &[&str] = &[
    "negate_b",
    "delta_svd",
    "linear",
    "cat",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_ties",
    "magnitude_prune",
];

impl Combination {
    /// A combination from its name, with the options it takes.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownName`]; [`ConfigError::OutOfRange`] for an option that is missing or outside its range.
    pub fn named(
        name: &str,
        rank: Option<usize>,
        density: Option<f64>,
        sign: SignElection,
        seed: u64,
    ) -> Result<Self, Error> {
        let missing = |field, expected| {
            Error::config(
                FAMILY,
                ConfigError::OutOfRange {
                    field,
                    expected,
                    found: "nothing".to_owned(),
                },
            )
        };
        let rank = || rank.ok_or_else(|| missing("rank", "the rank of the new adapter"));
        let density = || density.ok_or_else(|| missing("density", "the share of elements to keep"));
        let combination = match name {
            "negate_b" => Self::NegateB,
            "delta_svd" => Self::DeltaSvd { rank: rank()? },
            "linear" => Self::Linear,
            "cat" => Self::Cat,
            "svd" => Self::Svd { rank: rank()? },
            "ties" => Self::Ties {
                density: density()?,
                sign,
            },
            "ties_svd" => Self::TiesSvd {
                density: density()?,
                sign,
                rank: rank()?,
            },
            "dare_linear" => Self::DareLinear {
                density: density()?,
                seed,
            },
            "dare_ties" => Self::DareTies {
                density: density()?,
                sign,
                seed,
            },
            "magnitude_prune" => Self::MagnitudePrune { density: density()? },
            other => {
                return Err(UnknownName::new("combination", other, NAMES.iter().copied()).into());
            }
        };
        Error::in_config(FAMILY, combination.check())?;
        Ok(combination)
    }

    fn check(self) -> Result<(), ConfigError> {
        let (density, rank) = match self {
            Self::DeltaSvd { rank } | Self::Svd { rank } => (None, Some(rank)),
            Self::Ties { density, .. } | Self::MagnitudePrune { density } => (Some(density), None),
            Self::DareLinear { density, .. } | Self::DareTies { density, .. } => (Some(density), None),
            Self::TiesSvd { density, rank, .. } => (Some(density), Some(rank)),
            Self::NegateB | Self::Linear | Self::Cat => (None, None),
        };
        if let Some(density) = density {
            let fits = density > 0.0 && density <= 1.0;
            ConfigError::unless(fits, "density", "0 < density <= 1", density)?;
        }
        match rank {
            Some(rank) => ConfigError::unless(rank > 0, "rank", "at least 1", rank),
            None => Ok(()),
        }
    }

    /// Adds `name` to `set`: the LoRAs of `weights` combined.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`], [`Error::NameTaken`]; [`Error::CannotAverage`] for adapters that are not plain LoRA, or
    /// have other places or ranks.
    pub fn combine(
        self,
        set: &mut AdapterSet,
        name: &str,
        weights: &[(String, f64)],
        host: &dyn Host,
        device: &Device,
    ) -> Result<(), Error> {
        Error::in_config(FAMILY, self.check())?;
        let parts = Parts::read(set, weights, self.needs_one_rank())?;
        let mut values = BTreeMap::new();
        let mut rank = 0;
        for (info, factors) in &parts.sites {
            let groups = parts.config.target.parts(info).map_or(1, |fused| fused.count());
            // Each part of a fused projection has a product of its own.
            let combined = (0..groups).map(|group| {
                let own: Vec<Factor> = factors.iter().map(|f| f.group(group, groups)).collect();
                self.at_site(&own, device)
            });
            let (a, b): (Vec<Matrix>, Vec<Matrix>) = combined.unzip();
            rank = a[0].rows;
            let (a, b) = (below(a), below(b));
            let [name_a, name_b] = names(info.kind);
            values.insert((Some(info.site), name_a.to_owned()), a.into_data());
            values.insert((Some(info.site), name_b.to_owned()), b.into_data());
        }
        let config = LoraConfig {
            rank,
            alpha: match self {
                Self::NegateB | Self::DeltaSvd { .. } => parts.config.alpha,
                // A scale of one.
                _ => rank as f64,
            },
            scaling: match self {
                Self::NegateB | Self::DeltaSvd { .. } => parts.config.scaling,
                _ => Scaling::Standard,
            },
            init: Init::Lora,
            rank_pattern: match self {
                Self::NegateB => parts.config.rank_pattern.clone(),
                _ => Default::default(),
            },
            alpha_pattern: match self {
                Self::NegateB => parts.config.alpha_pattern.clone(),
                _ => Default::default(),
            },
            ..parts.config
        };
        let method: Arc<dyn adapters_core::Method> = Arc::new(Error::in_config(FAMILY, config.check())?);
        let sites = parts.sites.into_iter().map(|(info, _)| info).collect();
        let adapter = Attached::build(name, method, sites, host, 0, device)?;
        set.insert(adapter.with_values(values))
    }

    /// Whether A and B are combined element by element.
    fn needs_one_rank(self) -> bool {
        !matches!(
            self,
            Self::Cat | Self::Svd { .. } | Self::DeltaSvd { .. } | Self::TiesSvd { .. }
        )
    }

    /// A and B of the new adapter.
    fn at_site(self, factors: &[Factor], device: &Device) -> (Matrix, Matrix) {
        // Peft's weights of A, with the sign, and of B.
        let of_a: Vec<f64> = factors
            .iter()
            .map(|f| f.weighted_scale().abs().sqrt().copysign(f.weighted_scale()))
            .collect();
        let of_b: Vec<f64> = of_a.iter().map(|w| w.abs()).collect();
        let both = |combine: &mut dyn FnMut(Vec<&Matrix>, &[f64]) -> Matrix| {
            let a = combine(factors.iter().map(|f| &f.a).collect(), &of_a);
            let b = combine(factors.iter().map(|f| &f.b).collect(), &of_b);
            (a, b)
        };
        match self {
            Self::NegateB => {
                let weights: Vec<f64> = factors.iter().map(|f| f.weight).collect();
                let sizes: Vec<f64> = weights.iter().map(|w| w.abs()).collect();
                (
                    sum(&factors.iter().map(|f| f.a.clone()).collect::<Vec<_>>(), &sizes),
                    sum(&factors.iter().map(|f| f.b.clone()).collect::<Vec<_>>(), &weights),
                )
            }
            Self::Linear => both(&mut |parts, weights| sum(&cloned(parts), weights)),
            Self::MagnitudePrune { density } => {
                both(&mut |parts, weights| sum(&map(parts, |part| largest(part, density)), weights))
            }
            Self::Ties { density, sign } => {
                both(&mut |parts, weights| agreeing(&map(parts, |part| largest(part, density)), weights, sign))
            }
            Self::DareLinear { density, seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                both(&mut |parts, weights| sum(&map(parts, |part| dropped(part, density, &mut rng)), weights))
            }
            Self::DareTies { density, sign, seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                both(&mut |parts, weights| {
                    agreeing(&map(parts, |part| dropped(part, density, &mut rng)), weights, sign)
                })
            }
            Self::Cat => stacked(factors, Factor::weighted_scale, device),
            Self::Svd { rank } => {
                let (right, left) = stacked(factors, Factor::weighted_scale, device);
                product_svd(&left, &right, rank, device)
            }
            Self::DeltaSvd { rank } => {
                let (right, left) = stacked(factors, |f| f.weight, device);
                product_svd(&left, &right, rank, device)
            }
            Self::TiesSvd { density, sign, rank } => {
                let updates: Vec<Matrix> = factors.iter().map(|f| largest(&f.update(device), density)).collect();
                let weights: Vec<f64> = factors.iter().map(|f| f.weight).collect();
                dense_svd(agreeing(&updates, &weights, sign).tensor(device), rank)
            }
        }
    }
}

/// A matrix on the host, row by row.
#[derive(Clone, Debug, PartialEq)]
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn new(data: &TensorData) -> Option<Self> {
        let [rows, cols] = *data.shape().to_vec().first_chunk()?;
        Some(Self {
            rows,
            cols,
            values: data.iter::<f32>().collect(),
        })
    }

    fn of(tensor: Tensor<2>) -> Self {
        let [rows, cols] = tensor.dims();
        Self {
            rows,
            cols,
            values: tensor.into_data().iter::<f32>().collect(),
        }
    }

    fn tensor(&self, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.values.clone(), [self.rows, self.cols]), device)
    }

    /// One of several equal blocks of rows.
    fn rows_of(&self, block: usize, blocks: usize) -> Self {
        let (rows, size) = (self.rows / blocks, self.values.len() / blocks);
        Self {
            rows,
            cols: self.cols,
            values: self.values[block * size..(block + 1) * size].to_vec(),
        }
    }

    fn into_data(self) -> TensorData {
        TensorData::new(self.values, [self.rows, self.cols])
    }

    fn mapped(&self, mut change: impl FnMut(usize, f32) -> f32) -> Self {
        let values = self.values.iter().enumerate().map(|(i, x)| change(i, *x)).collect();
        Self { values, ..*self }
    }
}

/// One adapter's layer at a site.
struct Factor {
    /// `[rank, d_in]`.
    a: Matrix,
    /// `[d_out, rank]`.
    b: Matrix,
    scale: f64,
    weight: f64,
}

impl Factor {
    fn weighted_scale(&self) -> f64 {
        self.weight * self.scale
    }

    /// The factors of one of several products whose A lie one below the other, and whose B do.
    fn group(&self, group: usize, groups: usize) -> Self {
        Self {
            a: self.a.rows_of(group, groups),
            b: self.b.rows_of(group, groups),
            ..*self
        }
    }

    /// `s B A`.
    fn update(&self, device: &Device) -> Matrix {
        Matrix::of(self.b.tensor(device).matmul(self.a.tensor(device)) * self.scale)
    }
}

/// The adapters to combine, site by site.
struct Parts {
    config: LoraConfig,
    sites: Vec<(SiteInfo, Vec<Factor>)>,
}

fn names(kind: SiteKind) -> [&'static str; 2] {
    match kind {
        SiteKind::Table { .. } => ["lora_embedding_A", "lora_embedding_B"],
        _ => ["lora_A", "lora_B"],
    }
}

impl Parts {
    fn read(set: &AdapterSet, weights: &[(String, f64)], one_rank: bool) -> Result<Self, Error> {
        let first = weights.first().map(|(name, _)| name.clone()).unwrap_or_default();
        let model = set.attached(&first)?;
        let model_config = plain(model).ok_or_else(|| Error::CannotAverage {
            first: first.clone(),
            other: first.clone(),
            reason: "only plain LoRA is combined this way".to_owned(),
        })?;
        let mut sites: Vec<(SiteInfo, Vec<Factor>)> = model.layers().map(|l| (l.info.clone(), Vec::new())).collect();
        for (name, weight) in weights {
            let refuse = |reason: &str| Error::CannotAverage {
                first: first.clone(),
                other: name.clone(),
                reason: reason.to_owned(),
            };
            let adapter = set.attached(name)?;
            let config = plain(adapter).ok_or_else(|| refuse("only plain LoRA is combined this way"))?;
            let mut values = adapter.values();
            if values.len() != 2 * sites.len() {
                return Err(refuse("they have different places, or more than A and B"));
            }
            for (info, factors) in &mut sites {
                let mut matrix = |param: &str| {
                    let data = values.remove(&(Some(info.site), param.to_owned()))?;
                    Matrix::new(&data)
                };
                let [name_a, name_b] = names(info.kind);
                let (Some(a), Some(b)) = (matrix(name_a), matrix(name_b)) else {
                    return Err(refuse("they have different places, or more than A and B"));
                };
                if one_rank && factors.first().is_some_and(|f| f.a.rows != a.rows) {
                    return Err(refuse("they have different ranks"));
                }
                if config.target.parts(info) != model_config.target.parts(info) {
                    return Err(refuse("they adapt other parts of a fused projection"));
                }
                let (_, scale) = config.rank_and_scale(&info.path)?;
                factors.push(Factor {
                    a,
                    b,
                    scale,
                    weight: *weight,
                });
            }
        }
        Ok(Self {
            config: model_config,
            sites,
        })
    }
}

/// The configuration of an adapter that is plain LoRA.
fn plain(adapter: &Attached) -> Option<LoraConfig> {
    let method: &dyn Any = &**adapter.method();
    match method.downcast_ref::<Lora>()?.variant() {
        Variant::Lora(config) if config.scaling != Scaling::Gated => Some(config.clone()),
        _ => None,
    }
}

fn cloned(parts: Vec<&Matrix>) -> Vec<Matrix> {
    parts.into_iter().cloned().collect()
}

fn map(parts: Vec<&Matrix>, mut change: impl FnMut(&Matrix) -> Matrix) -> Vec<Matrix> {
    parts.into_iter().map(&mut change).collect()
}

/// The matrices one below the other.
fn below(parts: Vec<Matrix>) -> Matrix {
    Matrix {
        rows: parts.iter().map(|part| part.rows).sum(),
        cols: parts[0].cols,
        values: parts.into_iter().flat_map(|part| part.values).collect(),
    }
}

/// `sum w_i M_i`.
fn sum(parts: &[Matrix], weights: &[f64]) -> Matrix {
    parts[0].mapped(|i, _| {
        let terms = parts.iter().zip(weights).map(|(part, w)| f64::from(part.values[i]) * w);
        terms.sum::<f64>() as f32
    })
}

/// The elements of largest size, the others zero.
fn largest(part: &Matrix, density: f64) -> Matrix {
    let keep = (density * part.values.len() as f64) as usize;
    let mut order: Vec<usize> = (0..part.values.len()).collect();
    order.sort_by(|i, j| part.values[*j].abs().total_cmp(&part.values[*i].abs()));
    let mut kept = vec![false; part.values.len()];
    for index in &order[..keep.min(order.len())] {
        kept[*index] = true;
    }
    part.mapped(|i, x| if kept[i] { x } else { 0.0 })
}

/// Elements kept with probability `density` and rescaled, the others zero.
fn dropped(part: &Matrix, density: f64, rng: &mut ChaCha8Rng) -> Matrix {
    part.mapped(|_, x| {
        if rng.random::<f64>() < density {
            (f64::from(x) / density) as f32
        } else {
            0.0
        }
    })
}

/// `sum w_i M_i` over those whose sign is the elected one, divided by their number.
fn agreeing(parts: &[Matrix], weights: &[f64], election: SignElection) -> Matrix {
    let sign = |x: f32| if x == 0.0 { 0.0 } else { x.signum() };
    parts[0].mapped(|i, _| {
        let votes: f32 = parts
            .iter()
            .map(|part| match election {
                SignElection::Total => part.values[i],
                SignElection::Frequency => sign(part.values[i]),
            })
            .sum();
        let elected = if votes >= 0.0 { 1.0 } else { -1.0 };
        let agree = parts
            .iter()
            .zip(weights)
            .filter(|(part, _)| sign(part.values[i]) == elected);
        let (total, count) = agree.fold((0.0, 0), |(total, count), (part, w)| {
            (total + f64::from(part.values[i]) * w, count + 1)
        });
        (total / f64::from(count.max(1))) as f32
    })
}

/// All A above each other, times `weight`, and all B beside each other.
fn stacked(factors: &[Factor], weight: impl Fn(&Factor) -> f64, device: &Device) -> (Matrix, Matrix) {
    let a = factors.iter().map(|f| f.a.tensor(device) * weight(f)).collect();
    let b = factors.iter().map(|f| f.b.tensor(device)).collect();
    (Matrix::of(Tensor::cat(a, 0)), Matrix::of(Tensor::cat(b, 1)))
}

/// The `rank` largest singular triplets of `left right`, as `A = V^T` and `B = U S`; zeros beyond what there is.
///
/// The dense product is not formed: both factors are made orthogonal first, and what is left is narrow.
fn product_svd(left: &Matrix, right: &Matrix, rank: usize, device: &Device) -> (Matrix, Matrix) {
    if left.cols >= left.rows.min(right.cols) {
        return dense_svd(left.tensor(device).matmul(right.tensor(device)), rank);
    }
    let (q_left, r_left) = qr(left.tensor(device), true);
    let (q_right, r_right) = qr(right.tensor(device).transpose(), true);
    let (u, s, vt) = svd::<2, 1>(r_left.matmul(r_right.transpose()), SWEEPS);
    cut(q_left.matmul(u), s, vt.matmul(q_right.transpose()), rank)
}

fn dense_svd(update: Tensor<2>, rank: usize) -> (Matrix, Matrix) {
    let (u, s, vt) = svd::<2, 1>(update, SWEEPS);
    cut(u, s, vt, rank)
}

fn cut(u: Tensor<2>, s: Tensor<1>, vt: Tensor<2>, rank: usize) -> (Matrix, Matrix) {
    let [d_out, there] = u.dims();
    let [_, d_in] = vt.dims();
    let device = u.device();
    let kept = rank.min(there);
    let b = u.slice_dim(1, 0..kept) * s.slice_dim(0, 0..kept).unsqueeze_dim(0);
    let a = vt.slice_dim(0, 0..kept);
    let missing = rank - kept;
    if missing == 0 {
        return (Matrix::of(a), Matrix::of(b));
    }
    let a = Tensor::cat(vec![a, Tensor::zeros([missing, d_in], &device)], 0);
    let b = Tensor::cat(vec![b, Tensor::zeros([d_out, missing], &device)], 1);
    (Matrix::of(a), Matrix::of(b))
}
