//! Reparameterization: adapters on any Burn module, through its parameters instead of its `forward`.
//!
//! A method that folds into a weight is a function of that weight, and Burn can hold such a function next to a parameter
//! (a *reparameterization*): whoever reads the parameter then gets the adapted weight. So a model whose `forward` knows
//! no [`Ctx`](adapters_core::Ctx) is adapted too. The price is that the adapted weight is composed at each read, as large as the
//! weight, and that there is no dropout on an update's input and no composition of adapters.

#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod files;

use std::collections::BTreeMap;
use std::hash::Hasher;

use burn::module::{LoraAdapter, Module, ModuleVisitor, Param, ParamId, Reparameterization, Reparameterizer};
use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor, TensorData};
use fancy_regex::Regex;
use fnv::FnvHasher;

use adapters_core::{
    AnyMethod, Build, Erased, Error, Host, LinearRole, LinearState, LinearWeight, Location, PatternError, Shared,
    SiteLayer, Sited, Sites, Stack,
};
use adapters_nn::nearest;

/// Aims a method at the parameters of any Burn module.
pub trait ForPaths {
    /// A reparameterization of the parameters whose path matches one of `patterns`, where `*` stands for any text:
    /// `"*.query.weight"`.
    fn for_paths<S: Into<String>>(self, patterns: impl IntoIterator<Item = S>) -> AdapterReparameterizer;
}

impl ForPaths for AnyMethod {
    fn for_paths<S: Into<String>>(self, patterns: impl IntoIterator<Item = S>) -> AdapterReparameterizer {
        AdapterReparameterizer::new(self, patterns)
    }
}

/// A method and the parameters of a module that it targets.
///
/// [`apply`](Self::apply) checks first and changes nothing on an error. As a [`Reparameterizer`] it goes to
/// [`Module::apply_reparameterization`] directly, which can return no error and does not show what is adapted already:
/// what cannot be adapted is then left alone, and a second application nests.
#[derive(Clone, Debug)]
pub struct AdapterReparameterizer {
    method: AnyMethod,
    patterns: Vec<String>,
    seed: u64,
    /// Layers read from files, by path of their parameter.
    ready: BTreeMap<String, WeightAdapter>,
}

/// What reparameterization adds to a parameter: a method's layer, whose merged weight is what is read.
#[derive(Module, Debug)]
pub struct WeightAdapter {
    layer: Erased<LinearState>,
    shared: Shared,
}

impl Reparameterization for WeightAdapter {
    const NAME: &'static str = "adapter";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        // Composed in `f32`, and in the type of the parameter where that is another.
        let base = base.dequantize();
        let (shape, dtype) = (base.shape(), base.dtype());
        let base = base.cast(DType::F32);
        let weight = LinearWeight {
            weight: as_linear(base.clone()),
            bias: None,
        };
        match self.layer.merged(weight, &self.shared) {
            Ok(merged) => match D {
                2 => merged.weight.reshape(shape).cast(dtype),
                _ => merged.weight.transpose().reshape(shape).cast(dtype),
            },
            // It puts in only layers that merge.
            Err(_) => base.cast(dtype),
        }
    }
}

/// A weight as `[d_in, d_out]`: that of a linear layer, or a kernel `[d_out, d_in, ..]` with its inputs flattened.
fn as_linear<const D: usize>(weight: Tensor<D>) -> Tensor<2> {
    let weight = weight.dequantize();
    let dims = weight.dims();
    match D {
        2 => weight.reshape([dims[0], dims[1]]),
        _ => {
            let d_out = dims[0];
            let d_in = dims.iter().skip(1).product::<usize>();
            weight.reshape([d_out, d_in]).transpose()
        }
    }
}

impl AdapterReparameterizer {
    fn new<S: Into<String>>(method: AnyMethod, patterns: impl IntoIterator<Item = S>) -> Self {
        Self {
            method,
            patterns: patterns.into_iter().map(Into::into).collect(),
            seed: 0,
            ready: BTreeMap::new(),
        }
    }

    /// Sets the seed of the initial values; 0 without it.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adapts `model`: freezes all its parameters and adds the method's update to those that match. Only the updates
    /// train.
    ///
    /// # Errors
    ///
    /// [`Error::NoTarget`] for a pattern without a hit, [`Error::CannotBuild`] for a parameter that is adapted already
    /// (Burn would nest the updates silently), that is no weight, or that the method does not fold into.
    pub fn apply<M: Module>(self, model: M) -> Result<M, Error> {
        self.check(&model)?;
        Ok(model.apply_reparameterization(self))
    }

    /// What [`apply`](Self::apply) would refuse.
    fn check<M: Module>(&self, model: &M) -> Result<(), Error> {
        let weights = weights_of(model);
        for pattern in &self.patterns {
            let matcher = matcher(std::slice::from_ref(pattern))?;
            if !weights.iter().any(|w| matcher.is_match(&w.path).unwrap_or(false)) {
                return Err(Error::NoTarget {
                    target: pattern.clone(),
                    architecture: "Burn".to_owned(),
                    nearest: near_miss(pattern, &weights),
                    available: weights.iter().map(|w| w.path.clone()).collect::<Vec<_>>().join(", "),
                });
            }
        }
        let matcher = matcher(&self.patterns)?;
        for found in weights
            .into_iter()
            .filter(|w| matcher.is_match(&w.path).unwrap_or(false))
        {
            if found.adapted {
                return Err(self.refuse(&found.path, "it is already adapted; materialize the module first"));
            }
            let weight = found
                .weight
                .ok_or_else(|| self.refuse(&found.path, "it is not a weight with two or more dimensions"))?;
            self.layer(&found.path, weight)?;
        }
        Ok(())
    }

    fn refuse(&self, path: &str, reason: impl Into<String>) -> Error {
        Error::CannotBuild {
            method: self.method.name(),
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// The update of one weight, `[d_in, d_out]`.
    fn layer(&self, path: &str, weight: Tensor<2>) -> Result<WeightAdapter, Error> {
        if let Some(ready) = self.ready.get(path) {
            return Ok(ready.clone());
        }
        let device = weight.device();
        let lone = Weights::new([(path.to_owned(), weight.clone())]);
        let build = Build {
            seed: self.seed ^ hash(path),
            device: &device,
            host: &lone,
        };
        let info = lone.layers[0].info();
        let (layer, shared) = (self.method.build(info, &build)?, self.method.build_shared(&build)?);
        let SiteLayer::Linear(layer) = layer else {
            return Err(self.refuse(path, "the method does not act on a weight"));
        };
        if shared.trains() {
            return Err(self.refuse(
                path,
                "its layers share trained parameters, which reparameterization does not support",
            ));
        }
        layer
            .merged(LinearWeight { weight, bias: None }, &shared)
            .map_err(|e| self.refuse(path, e.reason))?;
        Ok(WeightAdapter { layer, shared })
    }
}

/// The end of a path that a pattern may have meant, as long as the pattern.
fn near_miss(pattern: &str, weights: &[FoundParam]) -> Option<String> {
    let wanted = pattern.trim_start_matches("*.");
    let parts = wanted.split('.').count();
    let ends = weights
        .iter()
        .map(|found| match found.path.rmatch_indices('.').nth(parts - 1) {
            Some((at, _)) => &found.path[at + 1..],
            None => found.path.as_str(),
        });
    nearest(wanted, ends)
}

/// A number for a path, so that equal layers begin differently.
fn hash(path: &str) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(path.as_bytes());
    hasher.finish()
}

impl Reparameterizer for AdapterReparameterizer {
    type Reparam = WeightAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<WeightAdapter>) {
        let matches = matcher(&self.patterns).is_ok_and(|matcher| matcher.is_match(path).unwrap_or(false));
        let layer = (matches && D >= 2)
            .then(|| self.layer(path, as_linear(param.base())).ok())
            .flatten();
        (param.set_require_grad(false), layer)
    }
}

/// One expression for all patterns, in which `*` stands for any text.
fn matcher(patterns: &[String]) -> Result<Regex, Error> {
    let any: Vec<String> = patterns
        .iter()
        .map(|p| fancy_regex::escape(p).replace(r"\*", ".*"))
        .collect();
    Regex::new(&format!("^(?:{})$", any.join("|"))).map_err(|source| {
        let pattern = patterns.join(", ");
        let source = Box::new(source);
        Error::TargetPattern(PatternError { pattern, source })
    })
}

/// A parameter of a module.
struct FoundParam {
    path: String,
    /// `[d_in, d_out]`; `None` for a parameter of one axis.
    weight: Option<Tensor<2>>,
    /// Values of the update next to it, in the order of its layer's parameters.
    update: Vec<TensorData>,
    adapted: bool,
}

/// All float parameters of a module; an update comes with the parameter it is next to.
///
/// Burn shows a visitor the parameters of an update, below the path of the adapted parameter, and not the update itself.
fn weights_of<M: Module>(model: &M) -> Vec<FoundParam> {
    let mut find = FindWeights::default();
    model.visit(&mut find);
    let mut found: Vec<FoundParam> = Vec::new();
    for param in find.found {
        let owner = found.last_mut().and_then(|last| {
            let rest = param.path.strip_prefix(&last.path)?;
            let ours = rest.starts_with(&format!(".{}.", WeightAdapter::NAME));
            (ours || rest.starts_with(&format!(".{}.", LoraAdapter::NAME))).then_some((last, ours))
        });
        match owner {
            Some((owner, ours)) => {
                owner.adapted = true;
                owner.update.extend(ours.then(|| param.data()).flatten());
            }
            None => found.push(param),
        }
    }
    found
}

impl FoundParam {
    fn data(&self) -> Option<TensorData> {
        self.update.first().cloned()
    }
}

#[derive(Default)]
struct FindWeights {
    path: Vec<String>,
    found: Vec<FoundParam>,
}

impl ModuleVisitor for FindWeights {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let of_update = path.contains(&format!(".{}.", WeightAdapter::NAME));
        self.found.push(FoundParam {
            path,
            weight: (D >= 2).then(|| as_linear(param.base())),
            update: of_update.then(|| param.base().into_data()).into_iter().collect(),
            adapted: false,
        });
    }
}

/// Weights under paths, as a model a method can be built for.
#[derive(Sites)]
struct Weights {
    layers: Vec<Sited<Linear>>,
}

impl Weights {
    fn new(weights: impl IntoIterator<Item = (String, Tensor<2>)>) -> Self {
        let layers = weights.into_iter().enumerate().map(|(index, (path, weight))| {
            let layer = Linear {
                weight: Param::initialized(ParamId::new(), weight),
                bias: None,
            };
            Sited::new(Location::layer(Stack::Encoder, index), LinearRole::Query, path, layer)
        });
        Self {
            layers: layers.collect(),
        }
    }
}

impl Host for Weights {
    fn architecture(&self) -> &str {
        "Burn"
    }

    fn class_name(&self) -> &str {
        "Module"
    }

    fn d_model(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.weight.dims()[0])
    }
}

/// Where parameters of a set live when nothing says otherwise.
fn device_of<M: Module>(model: &M) -> Device {
    model.devices().first().cloned().unwrap_or_default()
}
