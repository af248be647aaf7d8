//! (IA)3: activations scaled by learned vectors.

use std::borrow::Cow;

use adapters_core::target::{ModulePattern, Target};
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Causality, Codec, ConfigError, Effect, Error, Finisher, Host, LinearState,
    LinearWeight, Method, NamedParams, NotMergeable, Peft, SiteAdapter, SiteInfo, SiteLayer, Source, StoredConfig,
    config::from_fields,
};
use adapters_nn::ops;
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::adapterhub::{self, Object};
use crate::dtype::Dtype;
use crate::fused_projection::FusedProjection;
use crate::gate::{GATED, Gate};
use crate::init::{Init, init_b};
use crate::lora_config::LoraConfig;
use crate::peft;
use crate::scaling::Scaling;
use crate::site_builder::{SiteBuilder, linear};
use crate::target::{AttentionMatrix, LayerRoles, LoraTarget};

/// The output of a layer times a learned vector: `y = (W x + b) * (l alpha)`. In the modules of `feedforward` the input is
/// scaled in its place: `y = W (x * l) + b`, as peft does.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `alpha` | 1 | constant factor | finite |
/// | `gated` (`use_gating`) | false | a learned gate in place of `alpha` | |
/// | `target` (`attn_matrices`, .., or `target_modules`, ..) | key, value, first feed-forward projection | which layers are adapted | |
/// | `feedforward` (`feedforward_modules`) | none | which of them scale their input | |
/// | `init` (`init_weights`) | [`Ia3`](Init::Ia3): ones | initial values | |
/// | `seed` (`init_weights_seed`) | none | seed of the initial values | |
/// | `dtype` | none | element type of the vectors, else the device's default | |
///
/// Names in parentheses are those of config strings and files.
///
/// Paper: *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning*, Liu et al., 2022,
/// <https://arxiv.org/abs/2205.05638>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ia3Config {
    /// Constant factor.
    pub alpha: f64,
    /// Which layers are adapted.
    #[serde(flatten)]
    pub target: LoraTarget,
    /// Initial values.
    #[serde(rename = "init_weights")]
    pub init: Init,
    /// Seed of the initial values; without it the run's.
    #[serde(rename = "init_weights_seed")]
    pub seed: Option<u64>,
    /// A learned gate in place of `alpha`.
    #[serde(rename = "use_gating")]
    pub gated: bool,
    /// Element type of the vectors; without it the device's default.
    pub dtype: Option<Dtype>,
    /// Which of the layers scale their input.
    #[serde(rename = "feedforward_modules")]
    pub feedforward: Option<ModulePattern>,
    /// Fields of a file this version does not know, kept and written back.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            gated: false,
            target: LoraTarget::Roles(LayerRoles {
                attention: vec![AttentionMatrix::Key, AttentionMatrix::Value],
                intermediate: true,
                ..LayerRoles::default()
            }),
            feedforward: None,
            init: Init::Ia3,
            seed: None,
            dtype: None,
            extra: Map::new(),
        }
    }
}

impl Method for Ia3Config {
    const NAME: &'static str = "ia3";
    const DESCRIPTION: &'static str = "Activations scaled by learned vectors.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::finite("alpha", self.alpha)?;
        ConfigError::unless(
            matches!(self.init, Init::Ia3 | Init::Bert | Init::Lora),
            "init_weights",
            "`ia3`, `bert` or `lora` for (IA)3",
            format!("{:?}", self.init),
        )?;
        self.target.check()
    }

    fn target(&self) -> Target {
        self.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let mut builder = SiteBuilder::new(Self::NAME, &self.target, self.seed, site, build);
        let (d_in, d_out) = builder.dims()?;
        let on_input = match &self.feedforward {
            // As in peft within a component too, other than among the modules.
            Some(ModulePattern::Names(names)) => names.iter().any(|name| site.path.ends_with(name.as_str())),
            Some(modules) => modules.matches(&site.path)?,
            None => false,
        };
        if on_input {
            let l = init_b(self.init, &mut builder.rng, 1, d_in);
            return Ok(linear(InputScale {
                l: builder.param(l, self.dtype),
            }));
        }
        let l = init_b(self.init, &mut builder.rng, d_out, 1);
        Ok(linear(OutputScale {
            l: builder.param(l, self.dtype),
            gate: self.gated.then(|| builder.gate(d_in)),
            scale: self.alpha,
            fused: builder.fused.clone(),
        }))
    }
}

impl Codec<AdapterHub> for Ia3Config {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let object = Object::of(Self::NAME, stored)?;
        Some(object.and_then(|object| {
            if object.use_dora {
                return Err(ConfigError::Unsupported {
                    field: "use_dora",
                    found: "true with composition_mode = \"scale\"".to_owned(),
                });
            }
            let mut fields = object.fields;
            for (field, only) in [("r", 1.0), ("dropout", 0.0)] {
                let found = fields.shift_remove(field).unwrap_or_else(|| only.into());
                if found.as_f64() != Some(only) {
                    return Err(ConfigError::OutOfRange {
                        field,
                        expected: if only == 1.0 { "1" } else { "0" },
                        found: format!("{found} with composition_mode = \"scale\""),
                    });
                }
            }
            from_fields(fields)
        }))
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        if self.feedforward.is_some() {
            return Err(adapterhub::refuse("(IA)3 on a layer's input"));
        }
        let lora = LoraConfig {
            rank: 1,
            alpha: self.alpha,
            scaling: if self.gated { Scaling::Gated } else { Scaling::Standard },
            target: self.target.clone(),
            init: self.init,
            seed: self.seed,
            dtype: self.dtype,
            extra: self.extra.clone(),
            ..LoraConfig::default()
        };
        Object::scale().write(&lora, sites, host)
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        adapterhub::key(site, adapter, param)
    }
}

impl Codec<Peft> for Ia3Config {
    fn base_fields() -> &'static [BaseField] {
        &[BaseField::ModulesToSave]
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        stored.is_peft("IA3").then(|| {
            let (target, mut extra) = LoraTarget::from_peft(stored.fields)?;
            let feedforward = extra.shift_remove("feedforward_modules").unwrap_or_default();
            Ok(Self {
                target,
                extra,
                ..from_fields(Map::from_iter([
                    ("init_weights".to_owned(), "ia3".into()),
                    ("alpha".to_owned(), 1.into()),
                    ("feedforward_modules".to_owned(), feedforward),
                ]))?
            })
        })
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        if self.gated {
            return Err(peft::refuse("a gated scale"));
        }
        if self.alpha != 1.0 {
            return Err(peft::refuse("(IA)3 with a constant factor"));
        }
        let mut fields = self.target.to_peft("IA3", &self.extra, sites, host)?;
        // Without the field peft guesses; an empty list means none.
        let feedforward = self.feedforward.clone().unwrap_or(ModulePattern::Names(Vec::new()));
        fields.insert("feedforward_modules".to_owned(), json!(feedforward));
        Ok(fields)
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, _param: &str) -> String {
        format!("{}.ia3_l", site.path)
    }
}

/// `y = (W x + b) * (l s)` with a learned vector `l` and a constant or gated `s`.
#[derive(Module, Debug)]
pub(crate) struct OutputScale {
    /// `l`, published as `[d_out, 1]`.
    pub(crate) l: Param<Tensor<2>>,
    /// Replaces the constant scale where there is one.
    pub(crate) gate: Option<Gate>,
    /// The constant scale `s`.
    pub(crate) scale: f64,
    /// Which projections of a fused one are adapted: `l` is one in the others.
    #[module(skip)]
    pub(crate) fused: Option<FusedProjection>,
}

impl OutputScale {
    /// `l` for all features of the output, `[d_out]`.
    fn factor(&self) -> Tensor<1> {
        let [features, _] = self.l.dims();
        let l = self.l.val().reshape([features]);
        match &self.fused {
            Some(fused) => fused.scatter(l, 0, 1.0),
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

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
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
        match (state.delta, &self.fused) {
            (None, _) => output,
            (Some(factor), None) => output * factor,
            // The other parts are left alone, whatever became of several adapters' factors; the constant factor reaches
            // them, as in the reference.
            (Some(factor), Some(fused)) => {
                let others = if self.gate.is_some() { 1.0 } else { self.scale };
                output * fused.scatter(fused.gather(factor, 2), 2, others)
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
pub(crate) struct InputScale {
    /// `l`, published as `[1, d_in]`.
    pub(crate) l: Param<Tensor<2>>,
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

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
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
