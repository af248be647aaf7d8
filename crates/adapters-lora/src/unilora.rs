//! Uni-LoRA: low-rank matrices whose elements are all taken from one vector.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method,
    NamedParams, NotMergeable, ParamId, Shared, SharedParameters, SiteAdapter, SiteInfo, SiteLayer, Source,
    named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{NumpyRng, draw};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::site_builder::linear;

/// `W + B A`, where each element of A and B is an element of one vector that all layers share and train, over the root of how often
/// that element is used.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 4 | rank | >= 1 |
/// | `theta_d_length` | 256 | length of the vector | >= 1 |
/// | `proj_seed` | 42 | seed of the choice of elements, in NumPy's generator | |
/// | `save_indices` | false | store the choice; without it it is drawn again when the file is read | |
/// | `init_theta_d_bound` | 0.02 | bound of the initial values | > 0 |
/// | `init_weights` | true | uniform initial values; normal ones without it | |
/// | `unilora_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
///
/// Paper: *Uni-LoRA: One Vector is All You Need*, Li et al., 2025, <https://arxiv.org/abs/2506.00799>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unilora {
    /// Rank.
    pub r: usize,
    /// Length of the vector.
    pub theta_d_length: usize,
    /// Seed of the choice of elements.
    pub proj_seed: u64,
    /// Whether files hold the choice.
    pub save_indices: bool,
    /// Bound of the initial values.
    pub init_theta_d_bound: f64,
    /// Whether the initial values are uniform.
    pub init_weights: bool,
    /// Dropout probability on the input, in training.
    pub unilora_dropout: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Unilora {
    fn default() -> Self {
        Self {
            r: 4,
            theta_d_length: 256,
            proj_seed: 42,
            save_indices: false,
            init_theta_d_bound: 0.02,
            init_weights: true,
            unilora_dropout: 0.0,
            targets: ModuleFields::default(),
        }
    }
}

/// The shared vector.
const THETA: &str = "unilora_theta_d";

impl Unilora {
    /// Which elements all adapted layers take, one layer after the other, A before B; and where those of `site` begin.
    fn choice(&self, site: &SiteInfo, build: &Build<'_>) -> Result<(Vec<usize>, usize), Error> {
        let (mut count, mut start) = (0, 0);
        for info in self.target().select(build.host)?.sites {
            if info.site == site.site {
                start = count;
            }
            let (d_in, d_out) = Self::linear_dims(&info)?;
            count += self.r * (d_in + d_out);
        }
        let length = self.theta_d_length;
        let mut rng = NumpyRng::new(self.proj_seed);
        // Each as often as the others, and some once more.
        let mut all: Vec<usize> = (0..length)
            .flat_map(|i| std::iter::repeat_n(i, count / length))
            .collect();
        if count % length > 0 {
            all.extend(rng.choice(length, count % length));
        }
        rng.shuffle(&mut all);
        Ok((all, start))
    }
}

impl Method for Unilora {
    const NAME: &'static str = "unilora";
    const DESCRIPTION: &'static str = "Low-rank matrices whose elements are all taken from one trained vector.";

    fn check(&self) -> Result<(), ConfigError> {
        let (bound, dropout) = (self.init_theta_d_bound, self.unilora_dropout);
        ConfigError::size("r", self.r)?;
        let length = self.theta_d_length;
        ConfigError::unless(length > 0, "theta_d_length", "at least 1", length)?;
        ConfigError::elements("theta_d_length", [length])?;
        ConfigError::unless(bound > 0.0, "init_theta_d_bound", "above 0", bound)?;
        ConfigError::probability("unilora_dropout", dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let (all, start) = self.choice(site, build)?;
        let mut uses = vec![0usize; self.theta_d_length];
        for index in &all {
            uses[*index] += 1;
        }
        let shapes = [[self.r, d_in], [d_out, self.r]];
        let mut at = start;
        let [a, b] = shapes.map(|shape| {
            let end = (at + shape[0] * shape[1]).min(all.len());
            let mine = &all[at.min(end)..end];
            at = end;
            let indices: Vec<i64> = mine.iter().map(|index| *index as i64).collect();
            let scales: Vec<f32> = mine.iter().map(|index| (uses[*index] as f32).sqrt().recip()).collect();
            let indices = Tensor::<2, Int>::from_data(TensorData::new(indices, shape), build.device);
            let scales = Tensor::<2>::from_data(TensorData::new(scales, shape), build.device);
            match self.save_indices {
                true => Taken::Stored(StoredTable {
                    indices: Param::initialized(ParamId::new(), indices),
                    scales: Param::from_tensor(scales),
                }),
                false => Taken::Drawn(DrawnTable { indices, scales }),
            }
        });
        Ok(linear(TakenFromVector {
            a,
            b,
            length: self.theta_d_length,
            dropout: self.unilora_dropout,
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Unilora: "UNILORA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;

    /// The choice under the names of live modules, which follows from the seed.
    fn is_computed(key: &str) -> bool {
        key.contains(".unilora_indices_") || key.contains(".unilora_scales_")
    }
});

impl SharedParameters for Unilora {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let (shape, mut rng) = ([self.theta_d_length], build.shared_rng(None));
        let theta = match self.init_weights {
            true => draw::uniform(&mut rng, shape, self.init_theta_d_bound as f32),
            false => draw::normal(&mut rng, shape, 1.0),
        };
        let theta = Param::from_data(theta, build.device);
        Ok(Shared::of(SharedVector { theta }))
    }

    fn owns(&self, param: &str) -> bool {
        param == THETA
    }
}

/// The vector that all layers share.
#[derive(Module, Debug)]
pub(crate) struct SharedVector {
    /// `[theta_d_length]`.
    pub(crate) theta: Param<Tensor<1>>,
}

named_params!(SharedVector: "unilora_theta_d" => theta);

/// A matrix of elements of the vector, never trained.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there are two for each layer, and Burn has no module in a box"
)]
pub(crate) enum Taken {
    /// Files hold which.
    Stored(StoredTable),
    /// They follow from the seed.
    Drawn(DrawnTable),
}

/// Which elements, as a constant.
#[derive(Module, Debug)]
pub(crate) struct DrawnTable {
    /// Which element of the vector stands at each position.
    pub(crate) indices: Tensor<2, Int>,
    /// The factor of each position.
    pub(crate) scales: Tensor<2>,
}

/// Which elements, as files hold it.
#[derive(Module, Debug)]
pub(crate) struct StoredTable {
    /// Which element of the vector stands at each position.
    pub(crate) indices: Param<Tensor<2, Int>>,
    /// The factor of each position.
    pub(crate) scales: Param<Tensor<2>>,
}

impl Taken {
    fn matrix(&self, theta: Tensor<1>) -> Tensor<2> {
        let (indices, scales) = match self {
            Self::Stored(table) => (table.indices.val(), table.scales.val()),
            Self::Drawn(table) => (table.indices.clone(), table.scales.clone()),
        };
        let [rows, cols] = indices.dims();
        let taken = theta.select(0, indices.reshape([rows * cols]));
        taken.reshape([rows, cols]) * scales
    }

    fn stored(&self) -> Option<&StoredTable> {
        match self {
            Self::Stored(table) => Some(table),
            Self::Drawn(_) => None,
        }
    }
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct TakenFromVector {
    /// A, `[r, d_in]`.
    pub(crate) a: Taken,
    /// B, `[d_out, r]`.
    pub(crate) b: Taken,
    /// Length of the vector.
    pub(crate) length: usize,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl SiteAdapter<LinearState, SharedVector> for TakenFromVector {
    fn apply(&self, state: LinearState, call: &Call<'_, SharedVector>) -> LinearState {
        let theta = call.shared.theta.val();
        let (a, b) = (self.a.matrix(theta.clone()), self.b.matrix(theta));
        state.plus(|x| project(project(call.dropout(x, self.dropout), a), b))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &SharedVector) -> Result<LinearWeight, NotMergeable> {
        let theta = shared.theta.val();
        Ok(base.plus(self.b.matrix(theta.clone()).matmul(self.a.matrix(theta))))
    }
}

impl NamedParams for TakenFromVector {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let (Some(a), Some(b)) = (self.a.stored(), self.b.stored()) else {
            return Vec::new();
        };
        vec![
            ("unilora_indices_A".into(), a.indices.id),
            ("unilora_indices_B".into(), b.indices.id),
            ("unilora_scales_A".into(), a.scales.id),
            ("unilora_scales_B".into(), b.scales.id),
        ]
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.named_params().into_iter().map(|(_, id)| id).collect()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        let stored = [&self.a, &self.b].into_iter().filter_map(Taken::stored);
        stored.map(|table| (table.indices.id, vec![self.length])).collect()
    }
}
