//! PEANuT: an update that a small network computes from the weight.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method, NamedParams, NotMergeable,
    SiteAdapter, SiteInfo, SiteLayer, Source,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::Activation;
use adapters_nn::{NonLinearity, draw, float_weight};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::site_builder::linear;

/// `W + s N(W)`, where the network `N` turns each column of `W` into the update of that column: into `r` features by `A`,
/// through `depth` square layers and as many back with a residual around each pair, and out by `B`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 32 | hidden features | >= 1 |
/// | `depth` | 0 | square layers on the way in, and on the way back | <= 1024 |
/// | `act_fn` | `relu` | after every layer but the last | a published name without parameters |
/// | `scaling` | 1 | `s` | finite |
/// | `init_weights` | true | begin at zero; random values without it | |
///
/// Paper: *PEANuT: Parameter-Efficient Adaptation with Weight-aware Neural Tweakers*, Zhong et al., 2024,
/// <https://arxiv.org/abs/2410.01870>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peanut {
    /// Hidden features.
    pub r: usize,
    /// Square layers on the way in, and on the way back.
    pub depth: usize,
    /// After every layer but the last.
    pub act_fn: String,
    /// Scale of the update.
    pub scaling: f64,
    /// Whether the update begins at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Peanut {
    fn default() -> Self {
        Self {
            r: 32,
            depth: 0,
            act_fn: "relu".to_owned(),
            scaling: 1.0,
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Peanut {
    fn activation(&self) -> Result<Activation, ConfigError> {
        let function = NonLinearity::function(&self.act_fn).map_err(|unknown| ConfigError::UnknownName {
            field: "act_fn",
            unknown,
        })?;
        function.ok_or_else(|| ConfigError::Unsupported {
            field: "act_fn",
            found: self.act_fn.clone(),
        })
    }
}

impl Method for Peanut {
    const NAME: &'static str = "peanut";
    const DESCRIPTION: &'static str = "An update that a small network computes from the weight.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::unless(self.depth <= 1024, "depth", "at most 1024", self.depth)?;
        ConfigError::elements("depth x r x r", [self.depth, self.r, self.r])?;
        ConfigError::finite("scaling", self.scaling)?;
        self.activation().map(|_| ())
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (_, d_out) = Self::linear_dims(site)?;
        let activation = Error::in_config(Self::NAME, self.activation())?;
        let mut rng = build.rng(None, site.site);
        let mut drawn = |shape: [usize; 2]| {
            let data = draw::linear(&mut rng, shape, shape[1]);
            Param::from_data(data, build.device)
        };
        let a = drawn([self.r, d_out]);
        let square = [self.r, self.r];
        let (encoders, decoders) = (0..self.depth).map(|_| (drawn(square), drawn(square))).unzip();
        let b = match self.init_weights {
            true => Param::from_data(draw::constant([d_out, self.r], 0.0), build.device),
            false => drawn([d_out, self.r]),
        };
        Ok(linear(WeightNetwork {
            a,
            encoders,
            decoders,
            b,
            activation,
            scale: self.scaling,
        }))
    }
}

peft_modules!(Peanut: "PEANUT");

/// The network of one layer.
#[derive(Module, Debug)]
pub(crate) struct WeightNetwork {
    /// `[r, d_out]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[r, r]` each.
    pub(crate) encoders: Vec<Param<Tensor<2>>>,
    /// `[r, r]` each.
    pub(crate) decoders: Vec<Param<Tensor<2>>>,
    /// `[d_out, r]`.
    pub(crate) b: Param<Tensor<2>>,
    /// After every layer but the last.
    #[module(skip)]
    pub(crate) activation: Activation,
    /// `s`.
    pub(crate) scale: f64,
}

impl WeightNetwork {
    /// The update, `[d_in, d_out]`, of a weight of that shape.
    fn delta(&self, weight: Tensor<2>) -> Tensor<2> {
        let layer = |x: Tensor<2>, weight: &Param<Tensor<2>>| {
            let weight = weight.val().transpose();
            self.activation.forward(x.matmul(weight))
        };
        let mut hidden = layer(weight, &self.a);
        let mut residuals = Vec::with_capacity(self.encoders.len());
        for encoder in &self.encoders {
            residuals.push(hidden.clone());
            hidden = layer(hidden, encoder);
        }
        for (decoder, residual) in self.decoders.iter().zip(residuals.into_iter().rev()) {
            hidden = layer(hidden, decoder) + residual;
        }
        hidden.matmul(self.b.val().transpose()) * self.scale
    }
}

impl SiteAdapter<LinearState> for WeightNetwork {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let delta = self.delta(float_weight(&state.layer));
        state.plus(|x| x.matmul(delta.unsqueeze()))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(LinearWeight {
            weight: base.weight.clone() + self.delta(base.weight),
            ..base
        })
    }
}

impl NamedParams for WeightNetwork {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params: Vec<(Cow<'static, str>, ParamId)> = vec![
            ("peanut_A.weight".into(), self.a.id),
            ("peanut_B.weight".into(), self.b.id),
        ];
        for (name, layers) in [("encoders", &self.encoders), ("decoders", &self.decoders)] {
            let named = layers.iter().enumerate();
            params.extend(named.map(|(i, layer)| (format!("peanut_{name}.{i}.weight").into(), layer.id)));
        }
        params
    }
}
