//! The adapters of a frozen model, by name.

use std::collections::HashSet;
use std::fmt;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor};

use crate::error::Error;
use crate::method::named_params::ParamValues;
use crate::method::site_layer::SiteLayer;
use crate::set::active::{Active, Generation};
use crate::set::attached::ParamInfo;
use crate::set::attached::{Attached, AttachedLayer};
use adapters_config::Composition;
use adapters_nn::nearest;

pub(crate) mod active;
pub(crate) mod attach;
pub(crate) mod attached;
mod check;
mod first_position;
mod fusions;
mod longer_rows;
mod model_shape;
mod stacks;

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

    /// Replaces the adapter of that name by `adapter`. The name and whether it trains stay. An active composition that
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
        adapter.change_layers(|layer| layer.map(&mut require));
        Ok(())
    }

    /// Lets `borrowers` use the parameters of `owner` that their method shares among adapters, in place of their own:
    /// one tensor for all of them, trained by each. The reference calls it `share_parameters`.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`]; [`Error::CannotTie`] for methods that share nothing, or that are not the same.
    pub fn tie_parameters(&mut self, owner: &str, borrowers: &[&str]) -> Result<(), Error> {
        let model = self.attached(owner)?.clone();
        for borrower in borrowers.iter().filter(|borrower| **borrower != owner) {
            let index = self.index(borrower)?;
            let refuse = || Error::CannotTie {
                owner: owner.to_owned(),
                borrower: (*borrower).to_owned(),
            };
            let adapter = self.adapters[index].borrowing(&model).ok_or_else(refuse)?;
            self.adapters[index] = adapter;
        }
        Ok(())
    }

    /// Gives borrowed parameters the value their owner has, after either was changed.
    fn refresh_borrowed(&mut self) {
        for index in 0..self.adapters.len() {
            let owner = self.adapters[index].owner.as_ref();
            let Some(owner) = owner.and_then(|owner| self.get(owner)) else {
                continue;
            };
            if let Some(adapter) = self.adapters[index].borrowing(owner) {
                self.adapters[index] = adapter;
            }
        }
    }

    /// What training adds to the loss for the adapters and fusions that train.
    pub fn penalty(&self) -> Option<Tensor<1>> {
        let trained = self.all().filter(|a| a.trainable);
        trained
            .filter_map(|a| a.method.capabilities().penalty?.penalty(a))
            .reduce(|sum, penalty| sum + penalty)
    }

    /// Puts other values in place of some of an adapter's. Parameters that it borrows keep the values of their owner; those that
    /// others borrow from it change there, too.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`].
    pub fn put_values(&mut self, name: &str, values: ParamValues) -> Result<(), Error> {
        let index = self.index(name)?;
        let adapter = self.adapters.remove(index).with_values(values);
        self.adapters.insert(index, adapter);
        self.refresh_borrowed();
        Ok(())
    }

    /// All parameters under their names, those of fusions last.
    pub fn params(&self) -> impl Iterator<Item = ParamInfo<'_>> {
        self.all().flat_map(Attached::params)
    }

    /// Number of parameters that train: without those that are stored only, and shared ones once.
    pub fn num_trainable_params(&self) -> usize {
        let mut counted = HashSet::new();
        let mut sum = 0;
        for adapter in self.all().filter(|a| a.trainable) {
            let shapes = adapter.shapes();
            let mut trained = adapter
                .params()
                .filter(|p| !p.fixed && counted.insert(p.id))
                .map(|p| p.id);
            sum += trained
                .by_ref()
                .filter_map(|id| shapes.get(&id))
                .map(|s| s.dims.iter().product::<usize>())
                .sum::<usize>();
        }
        sum
    }

    fn index(&self, name: &str) -> Result<usize, Error> {
        self.adapters
            .iter()
            .position(|a| a.name == name)
            .ok_or_else(|| Error::NoSuchAdapter {
                name: name.to_owned(),
                nearest: nearest(name, self.iter().map(Attached::name)),
                attached: names_or_none(self.iter(), ", "),
            })
    }

    fn change_all(mut self, mut change: impl FnMut(SiteLayer) -> SiteLayer) -> Self {
        for adapter in self.all_mut() {
            adapter.change_layers(&mut change);
        }
        self.refresh_borrowed();
        self
    }
}

/// The names of adapters or fusions for a message, "none" where there are none.
fn names_or_none<'a>(adapters: impl Iterator<Item = &'a Attached>, separator: &str) -> String {
    let names: Vec<&str> = adapters.map(Attached::name).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(separator),
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
                .nodes()
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
            let devices = adapter
                .layers()
                .fold(devices, |devices, l| l.layer.collect_devices(devices));
            adapter.shared.collect_devices(devices)
        })
    }

    fn fork(self, device: &Device) -> Self {
        self.change_all(|layer| layer.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.change_all(|layer| layer.to_device(device))
    }

    fn train(self) -> Self {
        self.change_all(|layer| layer.train())
    }

    fn valid(&self) -> Self {
        self.clone().change_all(|layer| layer.valid())
    }

    fn materialize(self) -> Self {
        self.change_all(|layer| layer.materialize())
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for adapter in self.all() {
            let name = component(&adapter.name);
            visitor.enter_module(&name, "Adapter");
            for l in adapter.own_layers() {
                let site = component(&l.info.site);
                visitor.enter_module(&site, "Site");
                l.layer.visit(visitor);
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
                    let layer = layer.map(mapper);
                    mapper.exit_module(&path, "Site");
                    (site, AttachedLayer { info, layer })
                })
                .collect();
            mapper.enter_module("shared", "Shared");
            adapter.shared = std::mem::take(&mut adapter.shared).map(mapper);
            adapter.tie_again();
            mapper.exit_module("shared", "Shared");
            mapper.exit_module(&name, "Adapter");
        }
        self.refresh_borrowed();
        self
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
