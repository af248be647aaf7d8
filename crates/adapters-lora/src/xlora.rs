//! X-LoRA: a classifier over the hidden states of the model alone weighs several LoRAs, token by token.

use std::borrow::Cow;

use adapters_core::config::{from_fields, to_fields};
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AnyMethod, Attached, BasePass, Build, Call, Capabilities, Causality, Codec, ConfigError, Erased, Error,
    FusionState, Host, Method, NamedParams, ParamId, Peft, RoutesAdapters, Shared, SharedParameters, Site, SiteAdapter,
    SiteInfo, SiteLayer, StoredConfig,
};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::activation::{relu, softmax};
use burn::tensor::{Device, Tensor};
use indexmap::IndexMap;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::routing::{among_largest, weighted_sum};

/// `g sum_e w_e s_e B_e A_e x` at each adapted layer, with the weights `w = softmax(C(h) / T)` of a trained classifier `C` of
/// linear layers with rectifiers between them, and `h` the last hidden state of an earlier pass of the model, with the adapters at a constant weight or, as by default,
/// without them.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `adapters` | none | names of the LoRAs, with the folders they were read from | at least one |
/// | `xlora_depth`, `xlora_size` | 1, 2048 | layers of the classifier, and their width | >= 1 |
/// | `xlora_dropout_p` | 0.2 | dropout between its layers, in training | `0 <= p < 1` |
/// | `layerwise_scalings` | false | weights of their own for each adapted layer | |
/// | `enable_softmax`, `softmax_temperature` | true, 1 | the softmax, and `T` | > 0 |
/// | `top_k_lora` | none | how many adapters act on a token; without it all | >= 1 |
/// | `enable_softmax_topk` | false | a softmax over those, too | |
/// | `global_scaling_weight` | 1 | `g` | finite |
/// | `scaling_pass_value` | 0 | weight of each adapter where `h` is computed; other than 0 without `top_k_lora` only | finite |
/// | `use_trainable_adapters` | false | whether the adapters train, too | |
///
/// It acts in a `Fuse` block of its adapters that has its name, which is the whole composition. A text is generated without a
/// cache. Paper: *X-LoRA: Mixture of Low-Rank Adapter Experts*, Buehler and Buehler, 2024, <https://arxiv.org/abs/2402.07148>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Xlora {
    /// Names of the LoRAs, with the folders they were read from.
    pub adapters: IndexMap<String, String>,
    /// Layers of the classifier.
    pub xlora_depth: usize,
    /// Their width.
    pub xlora_size: usize,
    /// Dropout between its layers.
    pub xlora_dropout_p: f64,
    /// Whether each adapted layer has weights of its own.
    pub layerwise_scalings: bool,
    /// Whether the weights are a softmax.
    pub enable_softmax: bool,
    /// What its input is divided by.
    pub softmax_temperature: f64,
    /// How many adapters act on a token.
    pub top_k_lora: Option<usize>,
    /// Whether there is a softmax over those, too.
    pub enable_softmax_topk: bool,
    /// Factor of all.
    pub global_scaling_weight: f64,
    /// Weight of the adapters where the hidden state is computed.
    pub scaling_pass_value: f64,
    /// Whether the adapters train, too.
    pub use_trainable_adapters: bool,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// Where the adapters act.
    #[serde(skip)]
    sites: Vec<Site>,
}

const PEFT_TYPE: &str = "XLORA";

impl Default for Xlora {
    fn default() -> Self {
        Self {
            adapters: IndexMap::new(),
            xlora_depth: 1,
            xlora_size: 2048,
            xlora_dropout_p: 0.2,
            layerwise_scalings: false,
            enable_softmax: true,
            softmax_temperature: 1.0,
            top_k_lora: None,
            enable_softmax_topk: false,
            global_scaling_weight: 1.0,
            scaling_pass_value: 0.0,
            use_trainable_adapters: false,
            extra: Map::new(),
            sites: Vec::new(),
        }
    }
}

impl Method for Xlora {
    const NAME: &'static str = "xlora";
    const DESCRIPTION: &'static str =
        "A classifier over the hidden states of the model that weighs LoRAs, token by token.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("xlora_depth", self.xlora_depth)?;
        ConfigError::size("xlora_size", self.xlora_size)?;
        let axes = [self.xlora_depth, self.xlora_size, self.xlora_size];
        ConfigError::elements("xlora_depth x xlora_size x xlora_size", axes)?;
        ConfigError::size("top_k_lora", self.top_k_lora.unwrap_or(1))?;
        let (dropout, temperature) = (self.xlora_dropout_p, self.softmax_temperature);
        ConfigError::probability("xlora_dropout_p", dropout)?;
        ConfigError::positive("softmax_temperature", temperature)?;
        let factor = self.global_scaling_weight;
        ConfigError::finite("global_scaling_weight", factor)?;
        let first = self.scaling_pass_value;
        ConfigError::finite("scaling_pass_value", first)?;
        // Which of equal weights are the largest is undefined.
        let known = first == 0.0 || self.top_k_lora.is_none();
        ConfigError::unless(known, "scaling_pass_value", "0 with `top_k_lora`", first)
    }

    /// Where its adapters act.
    fn target(&self) -> Target {
        Target::Any(Vec::new())
    }

    fn build(&self, site: &SiteInfo, _build: &Build<'_>) -> Result<SiteLayer, Error> {
        let number = self.sites.iter().position(|own| *own == site.site);
        let number = number.ok_or_else(|| Self::refuse(site, "none of its adapters acts there"))?;
        Ok(SiteLayer::Fusion(Erased::new(XloraRouter {
            number,
            rules: Rules {
                temperature: self.enable_softmax.then_some(self.softmax_temperature),
                top_k: self.top_k_lora,
                softmax_of_largest: self.enable_softmax_topk,
                factor: self.global_scaling_weight,
                dropout: self.xlora_dropout_p,
                layers: if self.layerwise_scalings { self.sites.len() } else { 1 },
                first: match self.enable_softmax_topk {
                    true => (self.adapters.len() as f64).recip(),
                    false => self.scaling_pass_value,
                },
            },
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            routes: Some(self),
            ..Capabilities::default()
        }
    }
}

impl RoutesAdapters for Xlora {
    fn adapters(&self) -> Vec<String> {
        self.adapters.keys().cloned().collect()
    }

    fn over(&self, _adapters: &[&Attached], sites: &[SiteInfo]) -> Result<AnyMethod, Error> {
        let stack = sites.first().map(|info| info.site.stack);
        if sites.iter().any(|info| Some(info.site.stack) != stack) {
            return Err(Error::CannotFuse {
                adapters: self.adapters().join(", "),
                reason: "they act in several stacks, and X-LoRA reads the hidden states of one".to_owned(),
            });
        }
        AnyMethod::new(Self {
            sites: sites.iter().map(|info| info.site).collect(),
            ..self.clone()
        })
    }

    fn reads_base(&self) -> Option<BasePass> {
        Some(match self.scaling_pass_value == 0.0 {
            true => BasePass::Plain,
            false => BasePass::WithAdapters,
        })
    }

    fn trains_adapters(&self) -> bool {
        self.use_trainable_adapters
    }
}

impl SharedParameters for Xlora {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let layers = if self.layerwise_scalings { self.sites.len() } else { 1 };
        let mut widths = vec![self.xlora_size; self.xlora_depth];
        widths[0] = self.sites.first().map_or(1, |site| build.host.d_model_of(site.stack));
        widths.push(self.adapters.len() * layers);
        let mut rng = build.shared_rng(None);
        let layers = widths
            .windows(2)
            .map(|widths| Dense::new([widths[0], widths[1]], &mut rng, build.device));
        Ok(Shared::of(Classifier {
            layers: layers.collect(),
            // Between two layers there are a rectifier and, with it, dropout.
            step: if self.xlora_dropout_p > 0.0 { 3 } else { 2 },
        }))
    }

    fn owns(&self, param: &str) -> bool {
        param.starts_with(CLASSIFIER)
    }
}

impl Codec<AdapterHub> for Xlora {}

impl Codec<Peft> for Xlora {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        stored.peft_fields(PEFT_TYPE).map(from_fields)
    }

    fn write(&self, _sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = to_fields(self, &[]);
        fields.insert("peft_type".to_owned(), PEFT_TYPE.into());
        fields.insert("hidden_size".to_owned(), host.d_model().into());
        for (field, value) in [("task_type", Value::Null), ("inference_mode", Value::Bool(true))] {
            fields.entry(field).or_insert(value);
        }
        Ok(fields)
    }
}

/// What the names of the classifier's parameters begin with.
const CLASSIFIER: &str = "internal_xlora_classifier.";

/// From the hidden state to the weights of the adapters.
#[derive(Module, Debug)]
pub(crate) struct Classifier {
    layers: Vec<Dense>,
    /// Modules from one layer to the next in files.
    step: usize,
}

/// `x W^T + b` in the published layout.
#[derive(Module, Debug)]
struct Dense {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Dense {
    fn new([d_in, d_out]: [usize; 2], rng: &mut ChaCha8Rng, device: &Device) -> Self {
        Self {
            weight: draw::linear_param(rng, [d_out, d_in], d_in, device),
            bias: draw::linear_param(rng, [d_out], d_in, device),
        }
    }
}

impl NamedParams for Classifier {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let named = self.layers.iter().enumerate().flat_map(|(index, layer)| {
            let path = format!("{CLASSIFIER}layers.{}", index * self.step);
            [
                (format!("{path}.weight").into(), layer.weight.id),
                (format!("{path}.bias").into(), layer.bias.id),
            ]
        });
        named.collect()
    }
}

/// What of the configuration decides the way from the classifier to the weights.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Of the softmax; `None` without one.
    temperature: Option<f64>,
    top_k: Option<usize>,
    softmax_of_largest: bool,
    factor: f64,
    dropout: f64,
    /// How many layers have weights of their own.
    layers: usize,
    /// The weight of each adapter in the pass whose hidden state is read.
    first: f64,
}

/// The router of one layer.
#[derive(Module, Debug)]
pub(crate) struct XloraRouter {
    /// Its place among the adapted layers.
    number: usize,
    #[module(skip)]
    rules: Rules,
}

impl XloraRouter {
    /// The weights of the adapters at this layer, `[batch, seq, adapters]`.
    fn weights(&self, base: &Tensor<3>, call: &Call<'_, Classifier>) -> Tensor<3> {
        let rules = self.rules;
        let all: Tensor<3> = call.once("scalings", || {
            let mut x = base.clone();
            for (index, layer) in call.shared.layers.iter().enumerate() {
                if index > 0 {
                    x = call.dropout(relu(x), rules.dropout);
                }
                x = project(x, layer.weight.val()) + layer.bias.val().unsqueeze();
            }
            let [batch, seq, width] = x.dims();
            match rules.temperature {
                // Layer by layer.
                Some(temperature) => {
                    let each = x.reshape([batch, seq * rules.layers, width / rules.layers]) / temperature;
                    softmax(each, 2).reshape([batch, seq, width])
                }
                None => x,
            }
        });
        let count = all.dims()[2] / rules.layers;
        let start = if rules.layers > 1 { self.number * count } else { 0 };
        let own = all.slice_dim(2, start..start + count);
        let own = match rules.top_k {
            Some(top_k) => {
                let left_out = among_largest(&own, top_k).bool_not();
                own.mask_fill(left_out, 0.0)
            }
            None => own,
        };
        if !rules.softmax_of_largest {
            return own;
        }
        let none = own.clone().equal_elem(0.0);
        let again = softmax(own.mask_fill(none.clone(), f32::MIN), 2);
        again.mask_fill(none, 0.0)
    }
}

impl SiteAdapter<FusionState, Classifier> for XloraRouter {
    /// Without a hidden state it is the pass whose hidden state is read.
    fn apply(&self, state: FusionState, call: &Call<'_, Classifier>) -> FusionState {
        let additions = state.additions.clone();
        let fused = match &call.pass.base {
            Some(base) => weighted_sum(self.weights(base, call) * self.rules.factor, additions),
            None => additions
                .into_iter()
                .reduce(|sum, one| sum + one)
                .map(|sum| sum * (self.rules.first * self.rules.factor)),
        };
        FusionState { fused, ..state }
    }

    fn effect(&self) {}

    /// The hidden states of the model alone are not kept in a cache.
    fn causality(&self) -> Causality {
        Causality::LooksAhead
    }
}

impl NamedParams for XloraRouter {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        Vec::new()
    }
}
