//! AdapterFusion: attention over what several adapters add to the residual stream.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData, activation};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::method::config::{self, ConfigError};
use crate::pass::ctx::Pass;
use adapters_nn::{UnknownName, draw};

use crate::error::Error;
use crate::host::Host;
use crate::method::codec::Format;
use crate::method::layer::{FusionQuery, NamedParams, SiteLayer};
use crate::method::target::Target;
use crate::method::{Build, Method};
use crate::set::Attached;
use crate::site::{Role, SiteInfo, SiteKind};
use adapters_nn::ops::project;

const FAMILY: &str = "fusion";

/// How adapters are fused: `sum_i softmax_i(q(x) . k(u_i) / T) v(u_i) + residual`, where `u_i` is what adapter `i` adds
/// before its gate, norm and residual.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `key`, `query` | true | learned projections, with a bias; without one the identity | |
/// | `value` | true (`static`: false) | a learned projection without bias | |
/// | `query_before_ln` | false | ask with the state before its normalization | |
/// | `regularization` | true (`static`: false) | add `0.01 sum (I - V)^2` to the loss, which keeps the value projection near the identity | |
/// | `residual_before` | false | add the residual to keys and values instead of the result | |
/// | `temperature` | false | `T = max(50 - 0.05 n, 1)` in pass `n` of training, see [`Ctx::after_passes`](crate::Ctx::after_passes); else 1 | |
/// | `value_before_softmax` | true | project values before they are weighed, not after | |
/// | `value_initialized` | true (`static`: false) | begin the value projection near the identity | |
/// | `dropout_prob` | none | dropout on the scores; none and zero mean the attention dropout of the model | `0 .. 1` |
///
/// The names on the wire and the defaults are those of the reference. Where it regularizes whether or not
/// `regularization` is set, this follows the field.
///
/// Paper: *AdapterFusion: Non-Destructive Task Composition for Transfer Learning*, Pfeiffer et al., 2021,
/// <https://arxiv.org/abs/2005.00247>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FusionConfig {
    /// Whether keys are projected.
    pub key: bool,
    /// Whether queries are projected.
    pub query: bool,
    /// Whether values are projected.
    pub value: bool,
    /// Whether the query is the state before its normalization.
    pub query_before_ln: bool,
    /// Whether the value projection is kept near the identity.
    pub regularization: bool,
    /// Whether the residual is added to keys and values.
    pub residual_before: bool,
    /// Whether the scores are divided by a temperature that falls.
    pub temperature: bool,
    /// Whether values are projected before they are weighed.
    pub value_before_softmax: bool,
    /// Whether the value projection begins near the identity.
    pub value_initialized: bool,
    /// Dropout on the scores; without it that of the model's attention.
    pub dropout_prob: Option<f64>,
    /// Fields of a file this version does not know, kept and written back.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for FusionConfig {
    fn default() -> Self {
        Self::dynamic()
    }
}

impl FusionConfig {
    /// With a value projection, which is kept near the identity. The default.
    pub fn dynamic() -> Self {
        Self {
            key: true,
            query: true,
            value: true,
            query_before_ln: false,
            regularization: true,
            residual_before: false,
            temperature: false,
            value_before_softmax: true,
            value_initialized: true,
            dropout_prob: None,
            extra: Map::new(),
        }
    }

    /// Without a value projection.
    pub fn fixed_values() -> Self {
        Self {
            value: false,
            regularization: false,
            value_initialized: false,
            ..Self::dynamic()
        }
    }

    /// The configuration of that name, `dynamic` or `static`.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownName`].
    pub fn named(name: &str) -> Result<Self, Error> {
        match name {
            "dynamic" => Ok(Self::dynamic()),
            "static" => Ok(Self::fixed_values()),
            other => Err(UnknownName::new("fusion configuration", other, ["dynamic", "static"]).into()),
        }
    }

    /// From the object of a file. Unknown fields are kept.
    pub fn read(fields: Map<String, Value>) -> Result<Self, Error> {
        let config: Self = Error::in_config(FAMILY, config::from_fields(fields))?;
        Error::in_config(FAMILY, config.check())?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let dropout = self.dropout_prob.unwrap_or(0.0);
        ConfigError::unless(
            (0.0..1.0).contains(&dropout),
            "dropout_prob",
            "at least 0 and below 1",
            dropout,
        )
    }
}

/// A checked fusion of certain adapters, at the places where all of them act.
#[derive(Clone, Debug)]
pub struct Fusion {
    config: FusionConfig,
    adapters: Vec<String>,
    roles: Vec<Role>,
    dropout: f64,
}

impl Fusion {
    /// A fusion of these adapters for `host`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a value outside its range, [`Error::CannotFuse`] for adapters that do not answer a fusion or
    /// act at different places.
    pub fn new(config: FusionConfig, adapters: &[&Attached], host: &dyn Host) -> Result<Self, Error> {
        Error::in_config(FAMILY, config.check())?;
        let names: Vec<String> = adapters.iter().map(|adapter| adapter.name().to_owned()).collect();
        let refuse = |reason: String| Error::CannotFuse {
            adapters: names.join(", "),
            reason,
        };
        let mut common: Option<Vec<Role>> = None;
        for adapter in adapters {
            let roles = fusable_roles(adapter).map_err(&refuse)?;
            match &common {
                Some(common) if *common != roles => {
                    return Err(refuse(format!(
                        "`{}` acts at other places than `{}`",
                        adapter.name(),
                        names[0]
                    )));
                }
                _ => common = Some(roles),
            }
        }
        let model = host.attention_dropout();
        Ok(Self {
            dropout: config.dropout_prob.filter(|p| *p > 0.0).unwrap_or(model),
            roles: common.ok_or_else(|| refuse("no adapter is named".to_owned()))?,
            adapters: names,
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &FusionConfig {
        &self.config
    }

    /// The fused adapters, in order.
    pub fn adapters(&self) -> &[String] {
        &self.adapters
    }

    /// The fusion an entry of a set is.
    pub fn of(attached: &Attached) -> Option<&Self> {
        let method: &dyn Any = &**attached.method();
        method.downcast_ref()
    }
}

/// The places in a layer where an adapter can be fused.
fn fusable_roles(adapter: &Attached) -> Result<Vec<Role>, String> {
    let mut roles: Vec<Role> = Vec::new();
    for l in adapter.layers() {
        match &l.layer {
            SiteLayer::Hidden(layer) if layer.fusion_query().is_some() => roles.push(l.info.hub_role),
            // Acts for the first adapter of a setup alone.
            SiteLayer::Embedding(_) => {}
            _ => {
                return Err(format!(
                    "`{}` has a layer at `{}` that says nothing a fusion could attend to",
                    adapter.name(),
                    l.info.path
                ));
            }
        }
    }
    roles.sort();
    roles.dedup();
    match roles.is_empty() {
        true => Err(format!("`{}` acts nowhere in the residual stream", adapter.name())),
        false => Ok(roles),
    }
}

/// The fusion layer of one place.
#[derive(Module, Debug)]
pub struct FusionLayer {
    query: Option<Projection>,
    key: Option<Projection>,
    /// `[d_model, d_model]`, published layout.
    value: Option<Param<Tensor<2>>>,
    /// What the reference holds, and never uses, where nothing else is learned: `[1, d_model]` and `[1]`.
    unused: Option<Projection>,
    #[module(skip)]
    rules: Rules,
}

/// What of a configuration decides the way through the layer.
#[derive(Clone, Copy, Debug)]
struct Rules {
    query_before_ln: bool,
    residual_before: bool,
    temperature: bool,
    value_before_softmax: bool,
    dropout: f64,
}

/// `x W^T + b` in the published layout.
#[derive(Module, Debug)]
struct Projection {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Projection {
    fn new(d_model: usize, d_out: usize, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let weight = draw::normal(rng, [d_out, d_model], 0.02);
        Self {
            weight: Param::from_tensor(Tensor::from_data(weight, device)),
            bias: Param::from_tensor(Tensor::zeros([d_out], device)),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        project(x, self.weight.val()) + self.bias.val().unsqueeze()
    }

    fn named_params(&self, path: &str) -> [(Cow<'static, str>, ParamId); 2] {
        [
            (format!("{path}.weight").into(), self.weight.id),
            (format!("{path}.bias").into(), self.bias.id),
        ]
    }
}

/// Ones on the diagonal and `rest` elsewhere, `[d, d]`.
fn diagonal(d: usize, rest: f32) -> TensorData {
    let values = (0..d * d).map(|i| if i % (d + 1) == 0 { 1.0 } else { rest });
    TensorData::new(values.collect::<Vec<f32>>(), [d, d])
}

impl FusionLayer {
    fn new(fusion: &Fusion, d_model: usize, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let config = &fusion.config;
        let query = config.query.then(|| Projection::new(d_model, d_model, rng, device));
        let key = config.key.then(|| Projection::new(d_model, d_model, rng, device));
        let value = config.value.then(|| {
            let value = match config.value_initialized {
                true => diagonal(d_model, 1e-6),
                false => draw::normal(rng, [d_model, d_model], 0.02),
            };
            Param::from_tensor(Tensor::from_data(value, device))
        });
        let nothing = !config.query && !config.key && !config.value;
        Self {
            query,
            key,
            value,
            unused: nothing.then(|| Projection::new(d_model, 1, rng, device)),
            rules: Rules {
                query_before_ln: config.query_before_ln,
                residual_before: config.residual_before,
                temperature: config.temperature,
                value_before_softmax: config.value_before_softmax,
                dropout: fusion.dropout,
            },
        }
    }

    /// What the question is asked with: the state before the adapters, or as they open it.
    pub(crate) fn query_of(&self, of: Option<FusionQuery>, before: Tensor<3>, opened: Tensor<3>) -> Tensor<3> {
        match (of, self.rules.query_before_ln) {
            (Some(FusionQuery::Beside), _) | (_, false) => opened,
            (_, true) => before,
        }
    }

    /// The temperature the scores are divided by in a pass.
    fn temperature(&self, passes: u64) -> f64 {
        match self.rules.temperature {
            true => (50.0 - 0.05 * passes as f64).max(1.0),
            false => 1.0,
        }
    }

    /// `sum_i p_i v(u_i) + residual` with `p = softmax(q(query) . k(u_i) / T)`, and `p`, `[batch, seq, adapters]`.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`, all of them.
    ///
    /// # Panics
    ///
    /// Panics if `ups` is empty.
    pub(crate) fn forward(
        &self,
        query: Tensor<3>,
        ups: &[Tensor<3>],
        residual: Tensor<3>,
        pass: &Pass,
    ) -> (Tensor<3>, Tensor<3>) {
        let rules = &self.rules;
        let query = match &self.query {
            Some(projection) => projection.forward(query),
            None => query,
        };
        let ups: Vec<Tensor<3>> = match rules.residual_before {
            true => ups.iter().map(|up| up.clone() + residual.clone()).collect(),
            false => ups.to_vec(),
        };
        let score = |up: &Tensor<3>| {
            let key = match &self.key {
                Some(projection) => projection.forward(up.clone()),
                None => up.clone(),
            };
            (query.clone() * key).sum_dim(2)
        };
        let scores = Tensor::cat(ups.iter().map(score).collect(), 2);
        let scores = pass.dropout(scores, rules.dropout);
        let weights = activation::softmax(scores / self.temperature(pass.passes), 2);
        let value = |x: Tensor<3>, now: bool| match &self.value {
            Some(weight) if now => project(x, weight.val()),
            _ => x,
        };
        let weighed = ups
            .into_iter()
            .enumerate()
            .map(|(index, up)| value(up, rules.value_before_softmax) * weights.clone().slice_dim(2, index..index + 1));
        let context = weighed
            .reduce(|sum, part| sum + part)
            .expect("a fusion with a layer has an adapter that acts");
        let context = value(context, !rules.value_before_softmax);
        let fused = match rules.residual_before {
            true => context,
            false => context + residual,
        };
        (fused, weights)
    }
}

impl NamedParams for FusionLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = Vec::new();
        params.extend(self.query.iter().flat_map(|p| p.named_params("query")));
        params.extend(self.key.iter().flat_map(|p| p.named_params("key")));
        params.extend(self.value.iter().map(|value| ("value.weight".into(), value.id)));
        params.extend(self.unused.iter().flat_map(|p| p.named_params("dense")));
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.unused.iter().flat_map(|p| [p.weight.id, p.bias.id]).collect()
    }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |named: FusionConfig| FusionConfig {
            extra: self.config.extra.clone(),
            ..named
        };
        let kind = if self.config == plain(FusionConfig::dynamic()) {
            "dynamic"
        } else if self.config == plain(FusionConfig::fixed_values()) {
            "static"
        } else {
            "own"
        };
        write!(f, "{kind} fusion of {}", self.adapters.join(", "))
    }
}

impl Method for Fusion {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn target(&self) -> Target {
        Target::Roles {
            roles: self.roles.clone(),
            leave_out: Vec::new(),
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        match site.kind {
            SiteKind::Hidden { d_model } => {
                let mut rng = build.rng(None, site.site);
                Ok(SiteLayer::Fusion(FusionLayer::new(
                    self,
                    d_model,
                    &mut rng,
                    build.device,
                )))
            }
            _ => Err(Error::CannotBuild {
                method: FAMILY,
                path: site.path.clone(),
                reason: "it acts where blocks join the residual stream".to_owned(),
            }),
        }
    }

    fn key(&self, _format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        format!("{}.adapter_fusion_layer.{adapter}.{param}", site.path)
    }

    /// `0.01 sum (I - V)^2` over the value projections.
    fn penalty(&self, adapter: &Attached) -> Option<Tensor<1>> {
        if !self.config.regularization {
            return None;
        }
        let values = adapter.layers().filter_map(|l| match &l.layer {
            SiteLayer::Fusion(layer) => layer.value.as_ref(),
            _ => None,
        });
        let distance = |value: &Param<Tensor<2>>| {
            let value = value.val();
            let target = Tensor::from_data(diagonal(value.dims()[0], 0.0), &value.device());
            (target - value).square().sum() * 0.01
        };
        values.map(distance).reduce(|sum, one| sum + one)
    }

    fn wire(&self, format: Format, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, Error> {
        match format {
            Format::AdapterHub => Ok(config::to_fields(&self.config, &[])),
            Format::Peft => {
                let refused = ConfigError::NotExpressible {
                    format,
                    what: "a fusion",
                };
                Err(Error::config(FAMILY, refused))
            }
        }
    }
}
