//! Adapters of reparameterized modules, in peft's format.

use std::collections::HashMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::{AdapterReparameterizer, WeightAdapter, Weights, device_of, weights_of};
use adapters_core::{
    AdapterSet, AnyMethod, Attached, AttachedLayer, Erased, Error, Format, LinearState, Shared, SiteLayer, Sited,
};
use adapters_methods::Registry;
use adapters_store::{LoadOptions, SavedFiles, StoreError, load_adapter, save_adapter};

/// Name of the adapter while it is in a set; peft's files do not hold it.
const NAME: &str = "adapter";

/// The ids of a layer's parameters, in the order in which it shows them.
fn order_of(layer: &Erased<LinearState>) -> Vec<ParamId> {
    struct Order(Vec<ParamId>);
    impl ModuleVisitor for Order {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.id);
        }
    }
    let mut order = Order(Vec::new());
    layer.visit(&mut order);
    order.0
}

impl AdapterReparameterizer {
    /// Saves the updates a reparameterization with this method put into `model` in the folder `dir`, in peft's format. `published` gives the
    /// module path in the published checkpoint for the path of a parameter: `"layers.0.q.weight"` may be
    /// `"encoder.layer.0.attention.self.query"`; `None` leaves a parameter out.
    ///
    /// # Errors
    ///
    /// [`Error::NoTarget`] if nothing is left to save; [`Error::Config`] for a method peft has no format for;
    /// [`StoreError`] for files.
    pub fn save<M: Module>(
        dir: &Path,
        model: &M,
        method: &AnyMethod,
        published: impl Fn(&str) -> Option<String>,
    ) -> Result<SavedFiles, StoreError> {
        let found = weights_of(model);
        let available = || found.iter().map(|w| w.path.clone()).collect::<Vec<_>>().join(", ");
        let mut named = Vec::new();
        for param in found.iter().filter(|param| !param.update.is_empty()) {
            if let (Some(path), Some(weight)) = (published(&param.path), &param.weight) {
                named.push((path, weight.clone(), param.update.clone()));
            }
        }
        if named.is_empty() {
            return Err(Error::NoTarget {
                target: "(adapted parameters)".to_owned(),
                architecture: "Burn".to_owned(),
                nearest: None,
                available: available(),
            }
            .into());
        }
        let host = Weights::new(named.iter().map(|(path, weight, _)| (path.clone(), weight.clone())));
        let reparameterization = Self::new(method.clone(), Vec::<String>::new());
        let mut layers = Vec::new();
        let (mut shared, mut by_id) = (Shared::new(), HashMap::new());
        for (info, (path, weight, values)) in host.layers.iter().map(Sited::info).zip(named) {
            let update = reparameterization.layer(&path, weight)?;
            shared = update.shared;
            by_id.extend(order_of(&update.layer).into_iter().zip(values));
            layers.push(AttachedLayer {
                info: info.clone(),
                layer: SiteLayer::Linear(update.layer),
            });
        }
        let mut set = AdapterSet::new();
        let mut adapter = Attached::new(NAME, method.clone(), &host, layers).with_shared(shared);
        adapter.fill(by_id);
        set.insert(adapter)?;
        save_adapter(dir, Format::Peft, &set, NAME, &host)
    }

    /// A reparameterization with the adapter in the folder `dir`, to be applied to `model` or a model like it; `published` as in
    /// [`save`](Self::save).
    ///
    /// # Errors
    ///
    /// Those of [`load_adapter`].
    pub fn load<M: Module>(
        dir: &Path,
        model: &M,
        registry: &Registry,
        published: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StoreError> {
        let weights: Vec<(String, String, Tensor<2>)> = weights_of(model)
            .into_iter()
            .filter_map(|found| Some((published(&found.path)?, found.path, found.weight?)))
            .collect();
        let host = Weights::new(weights.iter().map(|(path, _, weight)| (path.clone(), weight.clone())));
        let mut set = AdapterSet::new();
        let options = LoadOptions {
            name: Some(NAME.to_owned()),
            ..LoadOptions::default()
        };
        load_adapter(dir, &mut set, &host, registry, &options, &device_of(model))?;
        let adapter = set.attached(NAME)?;
        let mut reparameterization = Self::new(adapter.method().clone(), Vec::<String>::new());
        for AttachedLayer { info, layer } in adapter.layers() {
            let path = weights
                .iter()
                .find(|(published, ..)| *published == info.path)
                .map(|(_, path, _)| path);
            if let (Some(path), SiteLayer::Linear(layer)) = (path, layer) {
                reparameterization.patterns.push(path.clone());
                let update = WeightAdapter {
                    layer: layer.clone(),
                    shared: adapter.shared().clone(),
                };
                reparameterization.ready.insert(path.clone(), update);
            }
        }
        Ok(reparameterization)
    }

    /// The method.
    pub fn method(&self) -> &AnyMethod {
        &self.method
    }
}
