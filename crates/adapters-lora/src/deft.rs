//! DEFT: a part of the weight replaced by a trained one.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method, NotMergeable,
    SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{draw, float_weight};
use burn::linalg::qr;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::site_builder::linear;

/// `W - Q P'^T W + s Q R`: what `W` has in the directions of `P` is taken out, and `R` put in its place.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | number of directions; at most `d_out` of them are used | >= 1 |
/// | `decomposition_method` | `relu` | `Q` and `P'` are `P` and `relu(P)`, or both the orthonormal `Q` of `P = Q R` | `relu`, `qr` |
/// | `alpha` | none | `s = alpha / r`; 1 if none or zero | finite |
/// | `para` | false | nothing is put in their place: no `R` | |
/// | `deft_dropout` | 0 | dropout on the input of `R`, in training | `0 <= p < 1` |
/// | `init_weights` | true | `R` begins as what is taken out; random without it | |
/// | `init_scale` | 1 | deviation of a random `R`, over 0.02 | finite |
///
/// Paper: *DEFT: Decompositional Efficient Fine-Tuning for Text-to-Image Models*, Kumar et al., 2025.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deft {
    /// Number of directions.
    pub r: usize,
    /// What is made of `P`.
    pub decomposition_method: Decomposition,
    /// Numerator of the scale; none or zero for a scale of one.
    pub alpha: Option<f64>,
    /// Whether nothing is put in place of what is taken out.
    pub para: bool,
    /// Dropout probability on the input of `R`, in training.
    pub deft_dropout: f64,
    /// Whether `R` begins as what is taken out.
    pub init_weights: bool,
    /// Deviation of a random `R`, over 0.02.
    pub init_scale: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

/// What is made of `P`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decomposition {
    /// `Q = P` and `P' = relu(P)`.
    #[default]
    Relu,
    /// Both are the orthonormal factor of `P`.
    Qr,
}

impl Default for Deft {
    fn default() -> Self {
        Self {
            r: 8,
            decomposition_method: Decomposition::Relu,
            alpha: None,
            para: false,
            deft_dropout: 0.0,
            init_weights: true,
            init_scale: 1.0,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Deft {
    const NAME: &'static str = "deft";
    const DESCRIPTION: &'static str = "A part of the weight, replaced by a trained one.";

    fn check(&self) -> Result<(), ConfigError> {
        let (alpha, dropout) = (self.alpha.unwrap_or_default(), self.deft_dropout);
        ConfigError::size("r", self.r)?;
        ConfigError::finite("alpha", alpha)?;
        let scale = self.init_scale;
        ConfigError::finite("init_scale", scale)?;
        ConfigError::probability("deft_dropout", dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let r = self.r.min(d_out);
        let mut rng = build.rng(None, site.site);
        let directions = draw::normal(&mut rng, [d_out, r], 0.02);
        let replacement = draw::normal(&mut rng, [r, d_in], 0.02 * self.init_scale as f32);
        let mut layer = Replaced {
            p: Param::from_data(directions, build.device),
            r: (!self.para).then(|| Param::from_data(replacement, build.device)),
            decomposition: self.decomposition_method,
            scale: self
                .alpha
                .filter(|alpha| *alpha != 0.0)
                .map_or(1.0, |alpha| alpha / r as f64),
            dropout: self.deft_dropout,
        };
        if self.init_weights && !self.para {
            let frozen = build.host.linear(site.site);
            let frozen = frozen.ok_or_else(|| Self::refuse(site, "the model gives no access to this weight"))?;
            let (_, right) = layer.directions();
            let taken = float_weight(frozen).matmul(right).transpose() / layer.scale;
            layer.r = Some(Param::from_data(taken.into_data(), build.device));
        }
        Ok(linear(layer))
    }
}

peft_modules!(Deft: "DEFT" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Replaced {
    /// `P`, `[d_out, r]`.
    pub(crate) p: Param<Tensor<2>>,
    /// `R`, `[r, d_in]`.
    pub(crate) r: Option<Param<Tensor<2>>>,
    /// What is made of `P`.
    #[module(skip)]
    pub(crate) decomposition: Decomposition,
    /// `s`.
    pub(crate) scale: f64,
    /// Dropout probability on the input of `R`.
    pub(crate) dropout: f64,
}

impl Replaced {
    /// `Q` and `P'`, `[d_out, r]`.
    fn directions(&self) -> (Tensor<2>, Tensor<2>) {
        let p = self.p.val();
        match self.decomposition {
            Decomposition::Relu => (p.clone(), activation::relu(p)),
            Decomposition::Qr => {
                let (q, _) = qr(p, true);
                (q.clone(), q)
            }
        }
    }

    /// `s R`, `[r, d_in]`.
    fn replacement(&self) -> Option<Tensor<2>> {
        self.r.as_ref().map(|r| r.val() * self.scale)
    }
}

impl SiteAdapter<LinearState> for Replaced {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let (q, right) = self.directions();
        // `P'^T W`, `[r, d_in]`.
        let taken = float_weight(&state.layer).matmul(right).transpose();
        state.plus(|x| {
            let out = project(x.clone(), taken);
            let inner = match self.replacement() {
                Some(put) => project(call.dropout(x, self.dropout), put) - out,
                None => -out,
            };
            project(inner, q)
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let (q, right) = self.directions();
        let taken = base.weight.clone().matmul(right).transpose();
        let inner = match self.replacement() {
            Some(put) => put - taken,
            None => -taken,
        };
        Ok(base.plus(q.matmul(inner)))
    }
}

named_params!(Replaced: "deft_P" => p; optional "deft_R" => r);
