//! PVeRA: VeRA whose inner features are drawn from a distribution in training.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method,
    NotMergeable, Shared, SharedParameters, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{TorchRng, draw};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::largest_shape::{kaiming, largest_dims};
use crate::site_builder::linear;
use crate::vera::{DrawnMatrices, SharedMatrices, StoredMatrices};

/// `W x + b B m` with `[m; v] = d A x`, where A `[2 r, d_in]` and B `[d_out, r]` are random, shared by all layers and never
/// trained; in training `m + exp(v / 2) e` with normal `e` replaces `m`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 256 | rank | >= 1 |
/// | `projection_prng_key` | 0 | seed of A and B, in PyTorch's generator | 0 .. 2^32 |
/// | `save_projection` | true | store A and B; without it they are drawn again when the file is read | |
/// | `pvera_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
/// | `d_initial` | 0.1 | initial value of `d` | finite |
/// | `init_weights` | true | `b` begins at zero; at one, with normal `d`, without it | |
/// | `sample_at_inference` | false | not computed | false |
///
/// Paper: *PVeRA: Probabilistic Vector-Based Random Matrix Adaptation*, Fillioux et al., 2025,
/// <https://arxiv.org/abs/2512.07703>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pvera {
    /// Rank.
    pub r: usize,
    /// Seed of A and B.
    pub projection_prng_key: u64,
    /// Whether files hold A and B.
    pub save_projection: bool,
    /// Dropout probability on the input, in training.
    pub pvera_dropout: f64,
    /// Initial value of `d`.
    pub d_initial: f64,
    /// Whether the update begins at zero.
    pub init_weights: bool,
    /// Only false is computed.
    pub sample_at_inference: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Pvera {
    fn default() -> Self {
        Self {
            r: 256,
            projection_prng_key: 0,
            save_projection: true,
            pvera_dropout: 0.0,
            d_initial: 0.1,
            init_weights: true,
            sample_at_inference: false,
            targets: ModuleFields::default(),
        }
    }
}

/// Names of the shared matrices.
const NAMES: [&str; 2] = ["pvera_A", "pvera_B"];

impl Method for Pvera {
    const NAME: &'static str = "pvera";
    const DESCRIPTION: &'static str = "VeRA whose inner features are drawn from a learned distribution in training.";

    fn check(&self) -> Result<(), ConfigError> {
        let (key, dropout) = (self.projection_prng_key, self.pvera_dropout);
        ConfigError::size("r", self.r)?;
        ConfigError::unless(u32::try_from(key).is_ok(), "projection_prng_key", "below 2^32", key)?;
        ConfigError::finite("d_initial", self.d_initial)?;
        ConfigError::probability("pvera_dropout", dropout)?;
        ConfigError::unless(!self.sample_at_inference, "sample_at_inference", "false", true)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let inner = 2 * self.r;
        let (d, b) = match self.init_weights {
            true => (
                draw::constant([inner], self.d_initial as f32),
                draw::constant([d_out], 0.0),
            ),
            false => (
                draw::normal(&mut build.rng(None, site.site), [inner], 1.0),
                draw::constant([d_out], 1.0),
            ),
        };
        Ok(linear(MeanAndVariance {
            d: Param::from_data(d, build.device),
            b: Param::from_data(b, build.device),
            d_in,
            dropout: self.pvera_dropout,
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Pvera: "PVERA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

impl SharedParameters for Pvera {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let (d_in, d_out) = largest_dims(&self.target(), build)?;
        let mut torch = TorchRng::new(u32::try_from(self.projection_prng_key).unwrap_or_default());
        let a = kaiming(&mut torch, 2 * self.r, d_in, build);
        let b = kaiming(&mut torch, d_out, self.r, build);
        Ok(match self.save_projection {
            true => Shared::of(SharedMatrices::Stored(StoredMatrices {
                a: Param::from_tensor(a),
                b: Param::from_tensor(b),
                names: NAMES,
            })),
            false => Shared::of(SharedMatrices::Drawn(DrawnMatrices { a, b })),
        })
    }

    fn owns(&self, param: &str) -> bool {
        NAMES.contains(&param)
    }
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct MeanAndVariance {
    /// `[2 r]`, the second half for the logarithm of the variance.
    pub(crate) d: Param<Tensor<1>>,
    /// `[d_out]`.
    pub(crate) b: Param<Tensor<1>>,
    /// Input features of this layer: it takes as many columns of A.
    pub(crate) d_in: usize,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl MeanAndVariance {
    /// `d A`, `[2 r, d_in]`, and `b B`, `[d_out, r]`.
    fn factors(&self, shared: &SharedMatrices) -> (Tensor<2>, Tensor<2>) {
        let [d_out] = self.b.dims();
        let a = shared.a().slice_dim(1, 0..self.d_in) * self.d.val().unsqueeze_dim(1);
        let b = shared.b().slice_dim(0, 0..d_out) * self.b.val().unsqueeze_dim(1);
        (a, b)
    }
}

impl SiteAdapter<LinearState, SharedMatrices> for MeanAndVariance {
    fn apply(&self, state: LinearState, call: &Call<'_, SharedMatrices>) -> LinearState {
        let (a, b) = self.factors(call.shared);
        let [_, r] = b.dims();
        state.plus(|x| {
            let Some(random) = &call.dropout else {
                return project(project(x, a.slice_dim(0, 0..r)), b);
            };
            let inner = project(random.forward(x, self.dropout), a);
            let (mean, log_variance) = (inner.clone().slice_dim(2, 0..r), inner.slice_dim(2, r..2 * r));
            let noise = random.normal(mean.dims(), &mean.device());
            project(mean + (log_variance * 0.5).exp() * noise, b)
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &SharedMatrices) -> Result<LinearWeight, NotMergeable> {
        let (a, b) = self.factors(shared);
        let [_, r] = b.dims();
        Ok(base.plus(b.matmul(a.slice_dim(0, 0..r))))
    }
}

named_params!(MeanAndVariance: "pvera_lambda_b" => b, "pvera_lambda_d" => d);
