//! (IA)3: activations scaled by learned vectors.

use std::borrow::Cow;

use adapters_core::target::ModulePattern;
use adapters_core::{
    Call, Causality, ConfigError, Effect, Finisher, LinearState, LinearWeight, NamedParams, NotMergeable, Shared,
    SiteAdapter, Source,
};
use adapters_nn::ops;
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use serde_json::{Map, Value};

use crate::config::{Dtype, Init};
use crate::fused::FusedParts;
use crate::module::{GATED, Gate};
use crate::places::{AttentionMatrix, LoraTarget, Places};

/// The output of a layer times a learned vector: `y = (W x + b) * (l alpha)`. In the modules of `feedforward` the input is
/// scaled in its place: `y = W (x * l) + b`, as peft does.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `alpha` | 1 | constant factor | finite |
/// | `gated` | false | a learned gate in place of `alpha` | |
/// | `target` | key, value, first feed-forward projection | which layers are adapted | |
/// | `feedforward` | none | which of them scale their input | |
/// | `init` | [`Ia3`](Init::Ia3): ones | initial values | |
///
/// Paper: *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning*, Liu et al., 2022,
/// <https://arxiv.org/abs/2205.05638>.
#[derive(Clone, Debug, PartialEq)]
pub struct Ia3Config {
    /// Constant factor.
    pub alpha: f64,
    /// A learned gate in place of `alpha`.
    pub gated: bool,
    /// Which layers are adapted.
    pub target: LoraTarget,
    /// Which of them scale their input.
    pub feedforward: Option<ModulePattern>,
    /// Initial values.
    pub init: Init,
    /// Seed of the initial values; without it the run's.
    pub seed: Option<u64>,
    /// Element type of the vectors; without it the device's default.
    pub dtype: Option<Dtype>,
    /// Fields of a file this version does not know, kept and written back.
    pub extra: Map<String, Value>,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            gated: false,
            target: LoraTarget::Places(Places {
                attention: vec![AttentionMatrix::Key, AttentionMatrix::Value],
                intermediate: true,
                ..Places::default()
            }),
            feedforward: None,
            init: Init::Ia3,
            seed: None,
            dtype: None,
            extra: Map::new(),
        }
    }
}

impl Ia3Config {
    pub(crate) fn check_fields(&self) -> Result<(), ConfigError> {
        ConfigError::unless(self.alpha.is_finite(), "alpha", "a finite number", self.alpha)?;
        ConfigError::unless(
            matches!(self.init, Init::Ia3 | Init::Bert | Init::Lora),
            "init_weights",
            "`ia3`, `bert` or `lora` with composition_mode = \"scale\"",
            format!("{:?}", self.init),
        )?;
        self.target.check()
    }
}

/// `y = (W x + b) * (l s)` with a learned vector `l` and a constant or gated `s`.
#[derive(Module, Debug)]
pub struct OutputScale {
    /// `l`, published as `[d_out, 1]`.
    pub l: Param<Tensor<2>>,
    /// Replaces the constant scale where there is one.
    pub gate: Option<Gate>,
    /// The constant scale `s`.
    pub scale: f64,
    /// The parts of a fused projection that are adapted: `l` is one in the others.
    #[module(skip)]
    pub parts: Option<FusedParts>,
}

impl OutputScale {
    /// `l` for all features of the output, `[d_out]`.
    fn factor(&self) -> Tensor<1> {
        let [features, _] = self.l.dims();
        let l = self.l.val().reshape([features]);
        match &self.parts {
            Some(parts) => parts.placed(l, 0, 1.0),
            None => l,
        }
    }
}

impl SiteAdapter<LinearState> for OutputScale {
    /// Keeps the factor in `delta`, `[batch, 1, d_out]`; a stack multiplies factors.
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let (factor, [rows, _, _]) = (self.factor(), state.input.dims());
        let [d_out] = factor.dims();
        let factor = factor.reshape([1, 1, d_out]).expand([rows, 1, d_out]);
        let factor = match &self.gate {
            Some(gate) => factor * gate.recorded(state.input.clone(), call),
            None => factor * self.scale,
        };
        let delta = match state.delta {
            Some(delta) => delta * factor,
            None => factor,
        };
        LinearState {
            delta: Some(delta),
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::of_gate(&self.gate)
    }

    fn finisher(&self) -> Option<&dyn Finisher<LinearState>> {
        Some(self)
    }

    fn merged(&self, base: LinearWeight, _shared: &Shared) -> Result<LinearWeight, NotMergeable> {
        if self.gate.is_some() {
            return Err(GATED);
        }
        let factor = self.factor() * self.scale;
        Ok(LinearWeight {
            weight: base.weight * factor.clone().unsqueeze(),
            bias: base.bias.map(|b| b * factor),
        })
    }
}

impl Finisher<LinearState> for OutputScale {
    fn finish(&self, state: LinearState, _call: &Call<'_>) -> Tensor<3> {
        let output = ops::linear(&state.layer, state.input);
        match (state.delta, &self.parts) {
            (None, _) => output,
            (Some(factor), None) => output * factor,
            // The other parts are left alone, whatever became of several adapters' factors; the constant factor reaches
            // them, as in the reference.
            (Some(factor), Some(parts)) => {
                let others = if self.gate.is_some() { 1.0 } else { self.scale };
                output * parts.placed(parts.taken(factor, 2), 2, others)
            }
        }
    }
}

impl NamedParams for OutputScale {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("lora_B".into(), self.l.id)];
        params.extend(self.gate.iter().flat_map(Gate::named_params));
        params
    }
}

/// `y = W (x * l) + b` with a learned vector `l`.
#[derive(Module, Debug)]
pub struct InputScale {
    /// `l`, published as `[1, d_in]`.
    pub l: Param<Tensor<2>>,
}

impl SiteAdapter<LinearState> for InputScale {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        LinearState {
            input: state.input * self.l.val().unsqueeze(),
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &Shared) -> Result<LinearWeight, NotMergeable> {
        Ok(LinearWeight {
            weight: base.weight * self.l.val().transpose(),
            ..base
        })
    }
}

impl NamedParams for InputScale {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![("lora_B".into(), self.l.id)]
    }
}
