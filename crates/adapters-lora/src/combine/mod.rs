//! Several LoRAs into one, by what their products are rather than parameter by parameter.

mod inputs;
mod matrix;
mod sparsify;
mod svd;

use std::collections::BTreeMap;

use adapters_core::{AdapterSet, AnyMethod, Attached, ConfigError, Error, Host, Method};
use adapters_nn::UnknownName;
use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::combine::inputs::{Factor, Inputs, names};
use crate::combine::matrix::{Matrix, vstack, weighted_sum};
use crate::combine::sparsify::{dare_drop, magnitude_prune, ties_merge};
use crate::combine::svd::{concatenated, dense_svd, product_svd};
use crate::init::Init;
use crate::lora_config::LoraConfig;
use crate::scaling::Scaling;

/// How LoRAs become one. `w_i` are the weights, `s_i` the scales, and every sum is over the adapters.
///
/// The plain average of AdapterHub, `sum w_i A_i` and `sum w_i B_i`, is
/// `adapters_adapted::average`, as for every other method.
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
    /// All A above each other, times `w_i s_i`, and all B side by side: exactly `sum w_i s_i B_i A_i`.
    Cat,
    /// The `rank` largest singular triplets of `sum w_i s_i B_i A_i`.
    Svd {
        /// Rank of the new adapter.
        rank: usize,
    },
    /// Trim, elect a sign, and average what agrees with it, for A and B separately. *TIES-Merging*, Yadav et al., 2023,
    /// <https://arxiv.org/abs/2306.01708>.
    Ties {
        /// Fraction of the elements kept.
        density: f64,
        /// How the sign is elected.
        sign: SignElection,
    },
    /// As [`Ties`](Self::Ties) on the whole updates, then their largest singular triplets.
    TiesSvd {
        /// Fraction of the elements kept.
        density: f64,
        /// How the sign is elected.
        sign: SignElection,
        /// Rank of the new adapter.
        rank: usize,
    },
    /// As [`Linear`](Self::Linear) with elements dropped at random and the others rescaled. *Language Models are Super
    /// Mario*, Yu et al., 2023, <https://arxiv.org/abs/2311.03099>.
    DareLinear {
        /// Fraction of the elements kept.
        density: f64,
        /// Seed of the choice.
        seed: u64,
    },
    /// As [`Ties`](Self::Ties) with elements dropped at random in place of the smallest.
    DareTies {
        /// Fraction of the elements kept.
        density: f64,
        /// How the sign is elected.
        sign: SignElection,
        /// Seed of the choice.
        seed: u64,
    },
    /// As [`Linear`](Self::Linear) of the largest elements of A and B.
    MagnitudePrune {
        /// Fraction of the elements kept.
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

impl Combination {
    /// The names that [`named`](Self::named) takes, and the options that each needs, `rank` or `density`.
    pub const NAMES: [(&'static str, &'static [&'static str]); 10] = [
        ("linear", &[]),
        ("cat", &[]),
        ("svd", &["rank"]),
        ("ties", &["density"]),
        ("ties_svd", &["density", "rank"]),
        ("dare_linear", &["density"]),
        ("dare_ties", &["density"]),
        ("magnitude_prune", &["density"]),
        ("negate_b", &[]),
        ("delta_svd", &["rank"]),
    ];

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
                LoraConfig::NAME,
                ConfigError::OutOfRange {
                    field,
                    expected,
                    found: "nothing".to_owned(),
                },
            )
        };
        let rank = || rank.ok_or_else(|| missing("rank", "the rank of the new adapter"));
        let density = || density.ok_or_else(|| missing("density", "the fraction of elements to keep"));
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
                return Err(UnknownName::new("combination", other, Self::NAMES.map(|(name, _)| name)).into());
            }
        };
        Error::in_config(LoraConfig::NAME, combination.check())?;
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
            Some(rank) => ConfigError::size("rank", rank),
            None => Ok(()),
        }
    }

    /// Adds `name` to `set`: the LoRAs of `weights` combined.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`], [`Error::NameTaken`]; [`Error::CannotAverage`] for adapters that are not plain LoRA, or
    /// adapt other modules or have other ranks.
    pub fn combine(
        self,
        set: &mut AdapterSet,
        name: &str,
        weights: &[(String, f64)],
        host: &dyn Host,
        device: &Device,
    ) -> Result<(), Error> {
        Error::in_config(LoraConfig::NAME, self.check())?;
        let inputs = Inputs::read(set, weights, self.needs_one_rank())?;
        let mut values = BTreeMap::new();
        let mut rank = 0;
        for (info, factors) in &inputs.sites {
            let groups = inputs.config.target.fused(info).map_or(1, |fused| fused.count());
            // Each projection of a fused one has a product of its own.
            let combined = (0..groups).map(|group| {
                let own: Vec<Factor> = factors.iter().map(|f| f.group(group, groups)).collect();
                self.at_site(&own, device)
            });
            let (a, b): (Vec<Matrix>, Vec<Matrix>) = combined.unzip();
            rank = a[0].rows;
            let (a, b) = (vstack(a), vstack(b));
            let [name_a, name_b] = names(info.kind);
            values.insert((Some(info.site), name_a.to_owned()), a.into_data());
            values.insert((Some(info.site), name_b.to_owned()), b.into_data());
        }
        let config = LoraConfig {
            rank,
            alpha: match self {
                Self::NegateB | Self::DeltaSvd { .. } => inputs.config.alpha,
                // A scale of one.
                _ => rank as f64,
            },
            scaling: match self {
                Self::NegateB | Self::DeltaSvd { .. } => inputs.config.scaling,
                _ => Scaling::Standard,
            },
            init: Init::Lora,
            rank_pattern: match self {
                Self::NegateB => inputs.config.rank_pattern.clone(),
                _ => Default::default(),
            },
            alpha_pattern: match self {
                Self::NegateB => inputs.config.alpha_pattern.clone(),
                _ => Default::default(),
            },
            ..inputs.config
        };
        let method = AnyMethod::new(config)?;
        let sites = inputs.sites.into_iter().map(|(info, _)| info).collect();
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
        let both = |combine: &mut dyn FnMut(Vec<Matrix>, &[f64]) -> Matrix| {
            let a = combine(factors.iter().map(|f| f.a.clone()).collect(), &of_a);
            let b = combine(factors.iter().map(|f| f.b.clone()).collect(), &of_b);
            (a, b)
        };
        match self {
            Self::NegateB => {
                let weights: Vec<f64> = factors.iter().map(|f| f.weight).collect();
                let sizes: Vec<f64> = weights.iter().map(|w| w.abs()).collect();
                (
                    weighted_sum(&factors.iter().map(|f| f.a.clone()).collect::<Vec<_>>(), &sizes),
                    weighted_sum(&factors.iter().map(|f| f.b.clone()).collect::<Vec<_>>(), &weights),
                )
            }
            Self::Linear => both(&mut |all, weights| weighted_sum(&all, weights)),
            Self::MagnitudePrune { density } => {
                both(&mut |all, weights| weighted_sum(&map(all, |m| magnitude_prune(m, density)), weights))
            }
            Self::Ties { density, sign } => {
                both(&mut |all, weights| ties_merge(&map(all, |m| magnitude_prune(m, density)), weights, sign))
            }
            Self::DareLinear { density, seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                both(&mut |all, weights| weighted_sum(&map(all, |m| dare_drop(m, density, &mut rng)), weights))
            }
            Self::DareTies { density, sign, seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                both(&mut |all, weights| ties_merge(&map(all, |m| dare_drop(m, density, &mut rng)), weights, sign))
            }
            Self::Cat => concatenated(factors, Factor::weighted_scale, device),
            Self::Svd { rank } => {
                let (right, left) = concatenated(factors, Factor::weighted_scale, device);
                product_svd(&left, &right, rank, device)
            }
            Self::DeltaSvd { rank } => {
                let (right, left) = concatenated(factors, |f| f.weight, device);
                product_svd(&left, &right, rank, device)
            }
            Self::TiesSvd { density, sign, rank } => {
                let updates: Vec<Matrix> = factors
                    .iter()
                    .map(|f| magnitude_prune(&f.update(device), density))
                    .collect();
                let weights: Vec<f64> = factors.iter().map(|f| f.weight).collect();
                dense_svd(ties_merge(&updates, &weights, sign).tensor(device), rank)
            }
        }
    }
}

fn map(matrices: Vec<Matrix>, change: impl FnMut(&Matrix) -> Matrix) -> Vec<Matrix> {
    matrices.iter().map(change).collect()
}
