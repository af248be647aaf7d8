//! MonteCLoRA: a low-rank update whose A is drawn again in every step of training, around a trained mean.

use std::borrow::Cow;

use adapters_core::config::to_fields;
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Causality, Codec, ConfigError, Effect, Error, Host, LinearState, LinearWeight,
    Method, NamedParams, NotMergeable, ParamId, Peft, SiteAdapter, SiteInfo, SiteLayer, Source, StoredConfig,
};
use adapters_nn::ops::project;
use adapters_nn::{Dropout, draw};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation::softmax};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lora_config::LoraConfig;
use crate::low_rank::{Factored, LowRank};
use crate::peft;
use crate::site_builder::{SiteBuilder, linear};

/// LoRA in evaluation. In training `A + c sum_e w_e N_e` replaces `A`: `num_samples` normal matrices whose rows have the
/// deviations `exp(std_prior)` times the root of a chi-squared number of `r` degrees, weighted by a sample of a Dirichlet
/// distribution with the logarithms `expert_weights_prior`, in its logistic-normal approximation.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `num_samples` | 8 | matrices drawn for a pass | >= 1 |
/// | `sample_scaler` | 1e-4 | `c` | a finite number |
/// | `use_entropy`, `dirichlet_prior`, `kl_loss_weight` | false, 0.1, 1e-5 | a penalty that peft's users add to the loss; kept, not added here | |
/// | `buffer_size` | 150 | samples that peft draws ahead; no effect here | |
/// | `lora` | rank 8 | everything else | |
///
/// Paper: *Robust and Efficient Fine-tuning of LLMs with Bayesian Reparameterization of Low-Rank Adaptation*, Sengupta et al., 2024,
/// <https://arxiv.org/abs/2411.04358>.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Monteclora {
    /// What is drawn.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// Everything else.
    #[serde(flatten)]
    pub lora: LoraConfig,
}

/// What is drawn in a step of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Matrices drawn for a pass.
    pub num_samples: usize,
    /// Whether the penalty has an entropy; kept.
    pub use_entropy: bool,
    /// Concentration of the prior in the penalty; kept.
    pub dirichlet_prior: f64,
    /// Factor of what is drawn.
    pub sample_scaler: f64,
    /// Weight of the penalty; kept.
    pub kl_loss_weight: f64,
    /// Samples that peft draws ahead; kept.
    pub buffer_size: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            num_samples: 8,
            use_entropy: false,
            dirichlet_prior: 0.1,
            sample_scaler: 1e-4,
            kl_loss_weight: 1e-5,
            buffer_size: 150,
        }
    }
}

/// The field of peft's LoRA object.
const FIELD: &str = "monteclora_config";

impl Method for Monteclora {
    const NAME: &'static str = "monteclora";
    const DESCRIPTION: &'static str = "LoRA whose A is drawn in every step of training, around a trained mean.";

    fn check(&self) -> Result<(), ConfigError> {
        let Sampling {
            num_samples,
            sample_scaler,
            ..
        } = self.sampling;
        ConfigError::size("num_samples", num_samples)?;
        ConfigError::elements("r x r", [self.lora.rank, self.lora.rank])?;
        ConfigError::finite("sample_scaler", sample_scaler)?;
        self.lora.check_for_peft_variant()
    }

    fn target(&self) -> Target {
        self.lora.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let mut builder = SiteBuilder::new(Self::NAME, &self.lora.target, self.lora.seed, site, build);
        let inner = self.lora.low_rank(&mut builder)?;
        let ([rank, _], count) = (inner.a.dims(), self.sampling.num_samples);
        let mut prior = |size: usize| {
            let numbers = draw::uniform(&mut builder.rng, [size], 0.5);
            builder.param(numbers, None).map(|numbers| numbers + 0.5)
        };
        Ok(linear(Sampled {
            deviations: prior(rank),
            weights: prior(count),
            last_variance: Param::from_tensor(Tensor::eye(rank, build.device)),
            last_weights: builder.param(draw::constant([count], (count as f32).recip()), None),
            sample_scaler: self.sampling.sample_scaler,
            inner,
        }))
    }
}

impl Codec<AdapterHub> for Monteclora {}

impl Codec<Peft> for Monteclora {
    fn base_fields() -> &'static [BaseField] {
        BaseField::ALL
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let read = peft::read_section(stored, FIELD)?;
        Some(read.map(|(lora, sampling)| Self { sampling, lora }))
    }

    fn names() -> &'static peft::Names {
        peft::LORA
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = peft::write_lora(&self.lora, false, sites, host)?;
        let sampling = to_fields(&self.sampling, &[]);
        fields.insert(FIELD.to_owned(), Value::Object(sampling));
        Ok(fields)
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        peft::lora_key(site, param)
    }
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Sampled {
    /// LoRA.
    pub(crate) inner: LowRank,
    /// Logarithms of the deviations of the rows of A, `[r]`.
    pub(crate) deviations: Param<Tensor<1>>,
    /// Logarithms of the concentrations of the weights, `[num_samples]`.
    pub(crate) weights: Param<Tensor<1>>,
    /// The variances that peft drew last, `[r, r]`; stored, without effect.
    pub(crate) last_variance: Param<Tensor<2>>,
    /// The weights that peft drew last, `[num_samples]`; stored, without effect.
    pub(crate) last_weights: Param<Tensor<1>>,
    /// The factor of what is drawn.
    pub(crate) sample_scaler: f64,
}

/// The smallest variance.
const LEAST: f64 = 1e-3;
/// What is added to a variance of the weights, and the smallest of these and of the concentrations.
const EPSILON: f64 = 1e-6;

impl Sampled {
    /// A and what is drawn for this step, `[r, d_in]`.
    fn sample(&self, a: Tensor<2>, random: &Dropout) -> Tensor<2> {
        let ([rank, d_in], [count], device) = (a.dims(), self.weights.dims(), a.device());
        // A Wishart matrix of `r` degrees has sums of `r` squares on its diagonal.
        let drawn: Tensor<2> = random.normal([rank, rank], &device).square().sum_dim(1);
        let variances = self.deviations.val().mul_scalar(2.0).exp() * drawn.squeeze_dim(1);
        let deviations = variances.clamp_min(LEAST).sqrt();
        let weights = self.mixture(random.normal([count], &device));
        let matrices: Tensor<3> = random.normal([count, rank, d_in], &device);
        let mixed: Tensor<3> = (matrices * weights.reshape([count, 1, 1])).sum_dim(0);
        a + mixed.squeeze_dim(0) * deviations.unsqueeze_dim(1) * self.sample_scaler
    }

    /// The weights of the matrices, `[num_samples]`, which add up to one.
    fn mixture(&self, drawn: Tensor<1>) -> Tensor<1> {
        let [count] = drawn.dims();
        let n = count as f64;
        let concentrations = self.weights.val().exp().clamp_min(EPSILON);
        let logarithms = concentrations.clone().log();
        let center = logarithms.clone() - logarithms.mean();
        let inverse = concentrations.recip();
        let variances = inverse.clone() * (1.0 - 2.0 / n) + inverse.sum() / (n * n);
        let deviations = (variances.clamp_min(EPSILON) + EPSILON).sqrt();
        softmax(deviations * drawn + center, 0)
    }
}

impl SiteAdapter<LinearState> for Sampled {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let (b, a) = self.inner.factors(call.shared);
        let a = match &call.dropout {
            Some(random) => self.sample(a, random),
            None => a,
        };
        state.plus(|x| {
            let x = call.dropout(x, self.inner.dropout);
            project(project(x, a) * self.inner.scale, b)
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &()) -> Result<LinearWeight, NotMergeable> {
        self.inner.merged(base, shared)
    }
}

impl NamedParams for Sampled {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = self.inner.named_params();
        for (name, id) in [
            ("std_prior", self.deviations.id),
            ("expert_weights_prior", self.weights.id),
            ("gaussian_var_prior", self.last_variance.id),
            ("expert_weights", self.last_weights.id),
        ] {
            params.push((format!("lora_monteclora_sampler.{name}").into(), id));
        }
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        vec![self.last_variance.id, self.last_weights.id]
    }
}
