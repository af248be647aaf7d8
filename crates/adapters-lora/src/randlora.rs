//! RandLoRA: a sum of random products of low rank, scaled by trained diagonals: an update of full rank.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method,
    NotMergeable, Shared, SharedParameters, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::largest_shape::largest_dims;
use crate::site_builder::linear;

/// `W + s sum_n B_n L_n A G_n` with random matrices A and `B_n` of rank `r`, shared by all layers and never trained, and diagonals
/// `L_n` and `G_n` that train; as many terms as make the rank full. `s = randlora_alpha / r`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 32 | rank of a term | >= 1 |
/// | `randlora_alpha` | 640 | numerator of the scale | finite |
/// | `randlora_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
/// | `sparse`, `very_sparse` | false | a third of the random numbers is not zero; one in `sqrt(min(d_in, d_out))` | |
/// | `init_weights` | true | `L` begins at zero; random values without it | |
/// | `projection_prng_key` | 0 | kept; the random matrices are in the file | |
/// | `save_projection` | true | store the random matrices | true: peft draws them in the half precision of the machine |
///
/// Paper: *RandLoRA: Full-rank parameter-efficient fine-tuning of large models*, Albert et al., 2025,
/// <https://arxiv.org/abs/2502.00987>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Randlora {
    /// Rank of a term.
    pub r: usize,
    /// Numerator of the scale.
    pub randlora_alpha: f64,
    /// Dropout probability on the input, in training.
    pub randlora_dropout: f64,
    /// Whether a third of the random numbers is not zero.
    pub sparse: bool,
    /// Whether one in `sqrt(min(d_in, d_out))` is not zero.
    pub very_sparse: bool,
    /// Whether the update begins at zero.
    pub init_weights: bool,
    /// Only true is read and written.
    pub save_projection: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Randlora {
    fn default() -> Self {
        Self {
            r: 32,
            randlora_alpha: 640.0,
            randlora_dropout: 0.0,
            sparse: false,
            very_sparse: false,
            init_weights: true,
            save_projection: true,
            targets: ModuleFields::default(),
        }
    }
}

/// Names of the shared matrices.
const A: &str = "randlora_A";
const B: &str = "randlora_B";

impl Method for Randlora {
    const NAME: &'static str = "randlora";
    const DESCRIPTION: &'static str =
        "A full-rank sum of random low-rank products, scaled by trained diagonal matrices.";

    fn check(&self) -> Result<(), ConfigError> {
        let (alpha, dropout) = (self.randlora_alpha, self.randlora_dropout);
        ConfigError::size("r", self.r)?;
        ConfigError::finite("randlora_alpha", alpha)?;
        ConfigError::probability("randlora_dropout", dropout)?;
        let expected = "true: without it the random matrices depend on the machine that wrote the file";
        ConfigError::unless(self.save_projection, "save_projection", expected, false)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let (narrow, wide) = (d_in.min(d_out), d_in.max(d_out));
        let terms = narrow.div_ceil(self.r);
        let shape = [self.r, terms];
        let (lambda, gamma) = match self.init_weights {
            true => (draw::constant(shape, 0.0), (terms.max(narrow) as f32).recip()),
            false => (
                draw::normal(&mut build.rng(None, site.site), shape, 1.0),
                (wide as f32).recip(),
            ),
        };
        Ok(linear(ScaledBases {
            lambda: Param::from_data(lambda, build.device),
            gamma: Param::from_data(draw::constant([terms, narrow], gamma), build.device),
            scale: self.randlora_alpha / self.r as f64,
            dropout: self.randlora_dropout,
            d_in,
            d_out,
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Randlora: "RANDLORA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;

    /// The shared matrices again, at every module.
    fn is_computed(key: &str) -> bool {
        [A, B].iter().any(|name| key.strip_suffix(name).is_some_and(|path| path.ends_with('.')))
    }
});

impl SharedParameters for Randlora {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let (d_in, d_out) = largest_dims(&self.target(), build)?;
        let (narrow, wide) = (d_in.min(d_out), d_in.max(d_out));
        let terms = narrow.div_ceil(self.r);
        let sparsity = match (self.very_sparse, self.sparse) {
            (true, _) => Some((narrow as f32).sqrt()),
            (false, true) => Some(3.0),
            (false, false) => None,
        };
        let mut rng = build.shared_rng(None);
        let mut drawn = |shape: [usize; 3]| {
            let data = unit_variance(&mut rng, shape, sparsity);
            Param::from_data(data, build.device)
        };
        let (a, b) = (drawn([self.r, 1, narrow]), drawn([wide, terms, self.r]));
        Ok(Shared::of(SharedBases { a, b }))
    }

    fn owns(&self, param: &str) -> bool {
        [A, B].contains(&param)
    }
}

/// The random matrices, which all layers share and none trains.
#[derive(Module, Debug)]
pub(crate) struct SharedBases {
    /// `[r, 1, narrow]`.
    pub(crate) a: Param<Tensor<3>>,
    /// `[wide, terms, r]`.
    pub(crate) b: Param<Tensor<3>>,
}

named_params!(SharedBases: "randlora_A" => a, "randlora_B" => b; fixed a, b);

/// Uniform numbers of unit variance, or `-1`, `0` and `1` with that variance, one in `sparsity` of them not zero.
fn unit_variance(rng: &mut ChaCha8Rng, shape: [usize; 3], sparsity: Option<f32>) -> TensorData {
    let data = draw::uniform(rng, shape, 1.0);
    let mut values: Vec<f32> = data.iter().collect();
    if let Some(sparsity) = sparsity {
        let limit = 1.0 - sparsity.recip();
        for value in &mut values {
            *value = if value.abs() > limit { value.signum() } else { 0.0 };
        }
    }
    let count = values.len().max(2) as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let variance = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let std = variance.sqrt().max(f64::MIN_POSITIVE) as f32;
    TensorData::new(values.into_iter().map(|x| x / std).collect::<Vec<f32>>(), shape)
}

/// The update of one layer. `narrow` and `wide` are the smaller and the larger of its numbers of features.
#[derive(Module, Debug)]
pub(crate) struct ScaledBases {
    /// `[r, terms]`.
    pub(crate) lambda: Param<Tensor<2>>,
    /// `[terms, narrow]`.
    pub(crate) gamma: Param<Tensor<2>>,
    /// `randlora_alpha / r`.
    pub(crate) scale: f64,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
    /// Input features of the layer.
    pub(crate) d_in: usize,
    /// Output features of the layer.
    pub(crate) d_out: usize,
}

impl ScaledBases {
    /// `[d_out, k]` and `[k, d_in]`, without the scale.
    fn factors(&self, shared: &SharedBases) -> (Tensor<2>, Tensor<2>) {
        let ([r, terms], [_, narrow]) = (self.lambda.dims(), self.gamma.dims());
        let wide = self.d_in.max(self.d_out);
        let a = shared.a.val().slice_dim(2, 0..narrow);
        let scaled = self.lambda.val().reshape([r, terms, 1]) * a * self.gamma.val().unsqueeze::<3>();
        let scaled = scaled.reshape([r * terms, narrow]);
        let b = shared.b.val().slice_dim(0, 0..wide).slice_dim(1, 0..terms);
        let b = b.reshape([wide, terms * r]);
        match narrow == self.d_in {
            true => (b, scaled),
            false => (scaled.transpose(), b.transpose()),
        }
    }
}

impl SiteAdapter<LinearState, SharedBases> for ScaledBases {
    fn apply(&self, state: LinearState, call: &Call<'_, SharedBases>) -> LinearState {
        let (left, right) = self.factors(call.shared);
        state.plus(|x| project(project(call.dropout(x, self.dropout), right), left) * self.scale)
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &SharedBases) -> Result<LinearWeight, NotMergeable> {
        let (left, right) = self.factors(shared);
        Ok(base.plus(left.matmul(right) * self.scale))
    }
}

named_params!(ScaledBases: "randlora_lambda" => lambda, "randlora_gamma" => gamma);
