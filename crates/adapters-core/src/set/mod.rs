//! A set of adapters beside a frozen model.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::composition::Composition;
use crate::set::active::{Active, Generation};
use crate::set::average::ParamValues;
use crate::set::model_shape::ModelShape;
use adapters_nn::nearest;

use crate::error::Error;
use crate::host::Host;
use crate::method::AnyMethod;
use crate::method::layer::{NamedParams, SiteLayer, each_kind, map_kind};
use crate::method::shared::Shared;
use crate::site::{Site, SiteInfo};

pub(crate) mod active;
pub(crate) mod attach;
pub(crate) mod average;
mod check;
mod first_position;
pub(crate) mod frozen;
mod fusions;
mod longer_rows;
mod model_shape;
mod place;
mod stacks;
pub(crate) mod values;

pub use place::{ParamPlace, ParamShape};
pub use values::values;

/// Adapters by name, fusions of them, the composition that is active, and what of it trains.
///
/// *Attached*, *active* and *trainable* are three separate states; printing the set shows all three. The set is
/// a Burn [`Module`] of adapter parameters only: saving it, counting it or optimizing it never meets the base.
#[derive(Clone, Debug, Default)]
pub struct AdapterSet {
    adapters: Vec<Attached>,
    fusions: Vec<Attached>,
    active: Option<Active>,
    generation: Generation,
    /// Passes of training the fusions have been through.
    passes: u64,
}

/// One attached adapter.
#[derive(Clone, Debug)]
pub struct Attached {
    name: String,
    method: AnyMethod,
    layers: BTreeMap<Site, AttachedLayer>,
    shared: Shared,
    /// The model it was attached to.
    model: Arc<ModelShape>,
    trainable: bool,
    /// The adapter whose parameters it uses in place of its own, where the method lets adapters share.
    owner: Option<String>,
}

/// An adapter's layer at a site, with the site as the model listed it.
#[derive(Clone, Debug)]
pub struct AttachedLayer {
    /// The site.
    pub info: SiteInfo,
    /// The layer.
    pub layer: SiteLayer,
}

impl Attached {
    /// An adapter of `model` from built layers, trainable.
    pub fn new(name: impl Into<String>, method: AnyMethod, model: &dyn Host, layers: Vec<AttachedLayer>) -> Self {
        Self {
            name: name.into(),
            method,
            layers: layers.into_iter().map(|l| (l.info.site, l)).collect(),
            shared: Shared::new(),
            model: ModelShape::of(model),
            trainable: true,
            owner: None,
        }
    }

    /// The same adapter with another configuration and other layers; what the layers share stays.
    #[must_use]
    pub fn reformed(&self, method: AnyMethod, layers: Vec<AttachedLayer>) -> Self {
        Self {
            method,
            layers: layers.into_iter().map(|l| (l.info.site, l)).collect(),
            ..self.clone()
        }
    }

    /// Adds what the layers share.
    #[must_use]
    pub fn with_shared(mut self, shared: Shared) -> Self {
        self.shared = shared;
        self
    }

    /// The same adapter under another name.
    #[must_use]
    pub fn renamed(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What the layers share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The checked configuration.
    pub fn method(&self) -> &AnyMethod {
        &self.method
    }

    /// Layers in the order of their sites.
    pub fn layers(&self) -> impl Iterator<Item = &AttachedLayer> {
        self.layers.values()
    }

    /// This adapter with the shared parameters of `owner`; `None` where the two share nothing.
    fn borrowing(&self, owner: &Self) -> Option<Self> {
        let mut adapter = self.clone();
        for (site, l) in &mut adapter.layers {
            l.layer = l.layer.borrowing(&owner.layers.get(site)?.layer)?;
        }
        adapter.owner = Some(owner.name.clone());
        Some(adapter)
    }

    /// The adapter whose parameters it uses in place of its own.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// Whether its parameters require gradients in training.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Number of parameters.
    pub fn num_params(&self) -> usize {
        let layers = self.layers.values();
        let at_sites: usize = layers
            .map(|l| each_kind!(&l.layer, layer => Module::num_params(layer)))
            .sum();
        at_sites + Module::num_params(&self.shared)
    }

    /// Shapes of the parameters, by id.
    pub fn shapes(&self) -> HashMap<ParamId, ParamShape> {
        struct Shapes(HashMap<ParamId, ParamShape>);
        impl ModuleVisitor for Shapes {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let dims = param.lazy_shape().to_vec();
                self.0.insert(param.id, ParamShape { dims, integers: false });
            }
            fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
                let dims = param.lazy_shape().to_vec();
                self.0.insert(param.id, ParamShape { dims, integers: true });
            }
        }
        let mut shapes = Shapes(HashMap::new());
        for l in self.layers() {
            each_kind!(&l.layer, layer => layer.visit(&mut shapes));
        }
        self.shared.visit(&mut shapes);
        shapes.0
    }

    /// Replaces the values of parameters, found by their id.
    pub fn fill(&mut self, values: HashMap<ParamId, TensorData>) {
        let mut fill = values::Fill(values);
        self.change_layers(|layer| map_kind!(layer, l => l.map(&mut fill)));
    }

    /// The parameters under their names, in storage order.
    pub fn params(&self) -> impl Iterator<Item = ParamPlace<'_>> {
        let at_sites = self.layers.values().flat_map(|l| self.places(Some(&l.info), &l.layer));
        at_sites.chain(self.places(None, &self.shared))
    }

    fn places<'a>(&'a self, info: Option<&'a SiteInfo>, layer: &impl NamedParams) -> Vec<ParamPlace<'a>> {
        let fixed = layer.fixed_params();
        let limits: HashMap<ParamId, Vec<usize>> = layer.index_limits().into_iter().collect();
        let named = layer.named_params().into_iter();
        named
            .map(|(param, id)| ParamPlace {
                adapter: &self.name,
                method: &self.method,
                info,
                param,
                id,
                fixed: fixed.contains(&id),
                limits: limits.get(&id).cloned().unwrap_or_default(),
            })
            .collect()
    }

    /// Passes every layer, and what they share, through `change`.
    pub(crate) fn change_layers(&mut self, mut change: impl FnMut(SiteLayer) -> SiteLayer) {
        self.layers = std::mem::take(&mut self.layers)
            .into_iter()
            .map(|(site, AttachedLayer { info, layer })| {
                let layer = change(layer);
                (site, AttachedLayer { info, layer })
            })
            .collect();
        if let SiteLayer::Shared(shared) = change(SiteLayer::Shared(std::mem::take(&mut self.shared))) {
            self.shared = shared;
        }
    }
}

impl AdapterSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an adapter; it is neither activated nor moved.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`] if the set has an adapter of that name, or of one with the same module path: `a.b` and
    /// `a_b`.
    pub fn insert(&mut self, adapter: Attached) -> Result<(), Error> {
        self.check_free(&adapter.name)?;
        self.adapters.push(adapter);
        self.changed();
        Ok(())
    }

    /// Refuses a name that an adapter or a fusion has.
    fn check_free(&self, name: &str) -> Result<(), Error> {
        let path = component(&name);
        match self.all().any(|other| component(&other.name) == path) {
            true => Err(Error::NameTaken { name: name.to_owned() }),
            false => Ok(()),
        }
    }

    /// Adapters and fusions.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Attached> {
        self.adapters.iter().chain(&self.fusions)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Attached> {
        self.adapters.iter_mut().chain(&mut self.fusions)
    }

    /// Takes an adapter out. An active composition that names it is deactivated.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`].
    pub fn remove(&mut self, name: &str) -> Result<Attached, Error> {
        let index = self.index(name)?;
        for adapter in &mut self.adapters {
            // What was borrowed stays as a copy.
            adapter.owner.take_if(|owner| owner == name);
        }
        let removed = self.adapters.remove(index);
        self.changed();
        Ok(removed)
    }

    /// Puts `adapter` in the place of the one of that name. The name and whether it trains stay. An active composition that
    /// names it is checked again, and deactivated if it cannot run with the new adapter.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`].
    pub fn replace(&mut self, name: &str, adapter: Attached) -> Result<(), Error> {
        let index = self.index(name)?;
        let trainable = self.adapters[index].trainable;
        self.adapters[index] = adapter.renamed(name);
        self.changed();
        self.set_trainable(name, trainable)
    }

    /// The adapter of that name.
    pub fn get(&self, name: &str) -> Option<&Attached> {
        self.adapters.iter().find(|a| a.name == name)
    }

    /// The adapter of that name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`] with the nearest name.
    pub fn attached(&self, name: &str) -> Result<&Attached, Error> {
        Ok(&self.adapters[self.index(name)?])
    }

    /// All adapters, in the order they were attached.
    pub fn iter(&self) -> impl Iterator<Item = &Attached> {
        self.adapters.iter()
    }

    /// Sets whether the parameters of an adapter, or of a fusion, require gradients in training.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`].
    pub fn set_trainable(&mut self, name: &str, trainable: bool) -> Result<(), Error> {
        let adapter = match self.fusions.iter().position(|fusion| fusion.name == name) {
            Some(index) => &mut self.fusions[index],
            None => {
                let index = self.index(name)?;
                &mut self.adapters[index]
            }
        };
        adapter.trainable = trainable;
        let mut require = RequireGrad {
            trainable,
            fixed: adapter.params().filter(|p| p.fixed).map(|p| p.id).collect(),
        };
        adapter.change_layers(|layer| map_kind!(layer, l => l.map(&mut require)));
        Ok(())
    }

    /// Lets `borrowers` use the parameters of `owner` that their method shares among adapters, in place of their own:
    /// one tensor for all of them, trained by each. The reference calls it `share_parameters`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`]; [`Error::CannotShare`] for methods that share nothing, or that are not the same.
    pub fn share(&mut self, owner: &str, borrowers: &[&str]) -> Result<(), Error> {
        let model = self.attached(owner)?.clone();
        for borrower in borrowers.iter().filter(|borrower| **borrower != owner) {
            let index = self.index(borrower)?;
            let refuse = || Error::CannotShare {
                owner: owner.to_owned(),
                borrower: (*borrower).to_owned(),
            };
            let adapter = self.adapters[index].borrowing(&model).ok_or_else(refuse)?;
            self.adapters[index] = adapter;
        }
        Ok(())
    }

    /// Gives borrowed parameters the value their owner has, after both were mapped.
    fn with_borrowed(mut self) -> Self {
        for index in 0..self.adapters.len() {
            let owner = self.adapters[index].owner.as_ref();
            let Some(owner) = owner.and_then(|owner| self.get(owner)) else {
                continue;
            };
            if let Some(adapter) = self.adapters[index].borrowing(owner) {
                self.adapters[index] = adapter;
            }
        }
        self
    }

    /// What training adds to the loss for the adapters and fusions that train.
    pub fn penalty(&self) -> Option<Tensor<1>> {
        let trained = self.all().filter(|a| a.trainable);
        trained
            .filter_map(|a| a.method.penalty(a))
            .reduce(|sum, penalty| sum + penalty)
    }

    /// Puts other values in place of some of an adapter's.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`].
    pub fn put_values(&mut self, name: &str, values: ParamValues) -> Result<(), Error> {
        let index = self.index(name)?;
        let adapter = self.adapters.remove(index).with_values(values);
        self.adapters.insert(index, adapter);
        Ok(())
    }

    /// All parameters under their names, those of fusions last.
    pub fn params(&self) -> impl Iterator<Item = ParamPlace<'_>> {
        self.all().flat_map(Attached::params)
    }

    fn index(&self, name: &str) -> Result<usize, Error> {
        self.adapters
            .iter()
            .position(|a| a.name == name)
            .ok_or_else(|| Error::NoSuchAdapter {
                name: name.to_owned(),
                nearest: nearest(name, self.iter().map(Attached::name)),
                attached: self.iter().map(Attached::name).collect::<Vec<_>>().join(", "),
            })
    }

    fn change_all(mut self, mut change: impl FnMut(SiteLayer) -> SiteLayer) -> Self {
        for adapter in self.all_mut() {
            adapter.change_layers(&mut change);
        }
        self.with_borrowed()
    }
}

impl fmt::Display for AdapterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.active {
            Some(active) => writeln!(f, "active: {active}")?,
            None => writeln!(f, "active: none")?,
        }
        let fused: Vec<String> = match &self.active {
            Some(active) => active
                .composition()
                .parts()
                .filter_map(Composition::fusion_name)
                .collect(),
            None => Vec::new(),
        };
        for a in self.all() {
            let active = self.active.as_ref().is_some_and(|c| c.adapters().any(|n| n == a.name))
                || (self.get(&a.name).is_none() && fused.contains(&a.name));
            writeln!(
                f,
                "{}: {} at {} sites, {} parameters, {}, {}",
                a.name,
                a.method,
                a.layers.len(),
                a.num_params(),
                if active { "active" } else { "not active" },
                if a.trainable { "trainable" } else { "frozen" },
            )?;
        }
        Ok(())
    }
}

/// A name as one component of a module path: Burn separates components by dots.
fn component(name: &impl fmt::Display) -> String {
    name.to_string().replace('.', "_")
}

impl Module for AdapterSet {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.all().fold(devices, |devices, adapter| {
            let devices = adapter.layers().fold(
                devices,
                |devices, l| each_kind!(&l.layer, layer => layer.collect_devices(devices)),
            );
            adapter.shared.collect_devices(devices)
        })
    }

    fn fork(self, device: &Device) -> Self {
        self.change_all(|layer| map_kind!(layer, l => l.fork(device)))
    }

    fn to_device(self, device: &Device) -> Self {
        self.change_all(|layer| map_kind!(layer, l => l.to_device(device)))
    }

    fn train(self) -> Self {
        self.change_all(|layer| map_kind!(layer, l => l.train()))
    }

    fn valid(&self) -> Self {
        self.clone().change_all(|layer| map_kind!(layer, l => l.valid()))
    }

    fn materialize(self) -> Self {
        self.change_all(|layer| map_kind!(layer, l => l.materialize()))
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for adapter in self.all() {
            let name = component(&adapter.name);
            visitor.enter_module(&name, "Adapter");
            for (site, l) in &adapter.layers {
                let site = component(site);
                visitor.enter_module(&site, "Site");
                each_kind!(&l.layer, layer => layer.visit(visitor));
                visitor.exit_module(&site, "Site");
            }
            visitor.enter_module("shared", "Shared");
            adapter.shared.visit(visitor);
            visitor.exit_module("shared", "Shared");
            visitor.exit_module(&name, "Adapter");
        }
    }

    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        for adapter in self.all_mut() {
            let name = component(&adapter.name);
            mapper.enter_module(&name, "Adapter");
            adapter.layers = std::mem::take(&mut adapter.layers)
                .into_iter()
                .map(|(site, AttachedLayer { info, layer })| {
                    let path = component(&site);
                    mapper.enter_module(&path, "Site");
                    let layer = map_kind!(layer, l => l.map(mapper));
                    mapper.exit_module(&path, "Site");
                    (site, AttachedLayer { info, layer })
                })
                .collect();
            mapper.enter_module("shared", "Shared");
            adapter.shared = std::mem::take(&mut adapter.shared).map(mapper);
            mapper.exit_module("shared", "Shared");
            mapper.exit_module(&name, "Adapter");
        }
        self.with_borrowed()
    }
}

impl ModuleDisplayDefault for AdapterSet {
    fn content(&self, content: Content) -> Option<Content> {
        self.all()
            .fold(content, |content, a| {
                content.add_formatted(&format!("{}: {}", a.name, a.method))
            })
            .optional()
    }
}

impl ModuleDisplay for AdapterSet {}

/// Sets whether parameters require gradients, all but the fixed ones.
struct RequireGrad {
    trainable: bool,
    fixed: HashSet<ParamId>,
}

impl ModuleMapper for RequireGrad {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let require = self.trainable && !self.fixed.contains(&param.id);
        param.set_require_grad(require)
    }
}

/// Gives every parameter of a module a fresh id.
///
/// Burn's optimizer and gradients know a parameter by its id, and a loaded or cloned module carries the ids of
/// its source: trained side by side, one would update the other.
pub fn with_fresh_ids<M: Module>(module: M) -> M {
    struct Fresh;
    impl ModuleMapper for Fresh {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (_, tensor, mapper) = param.consume();
            // A leaf of its own too: gradients are found by graph node, and a clone shares it.
            Param::from_mapped_value(ParamId::new(), tensor.detach(), mapper)
        }
        fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
            let (_, tensor, mapper) = param.consume();
            Param::from_mapped_value(ParamId::new(), tensor, mapper)
        }
    }
    module.map(&mut Fresh)
}
