//! Fusion layers in a set: they are kept next to the adapters and are named after those they fuse.

use crate::error::Error;
use crate::host::Host;
use crate::method::any::AnyMethod;
use crate::method::capability::BasePass;
use crate::method::site_layer::SiteLayer;
use crate::method::target::Selection;
use crate::set::attached::Attached;
use crate::set::{AdapterSet, names_or_none};
use adapters_config::Composition;
use adapters_nn::nearest;

impl AdapterSet {
    /// Adds a built fusion.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`].
    pub fn insert_fusion(&mut self, fusion: Attached) -> Result<(), Error> {
        self.check_free(fusion.name())?;
        self.fusions.push(fusion);
        self.changed();
        Ok(())
    }

    /// A method that routes adapters of this set, with what it takes from them, and the sites where any of them acts; `None` for
    /// every other method.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`]; [`Error::CannotFuse`] for adapters that do more than add to outputs of linear layers.
    pub fn routed(&self, method: &AnyMethod, host: &dyn Host) -> Result<Option<(AnyMethod, Selection)>, Error> {
        let Some(router) = method.capabilities().routes else {
            return Ok(None);
        };
        let names = router.adapters();
        let refuse = |reason: String| Error::CannotFuse {
            adapters: names.join(", "),
            reason,
        };
        let adapters = names.iter().map(|name| self.attached(name));
        let adapters = adapters.collect::<Result<Vec<_>, _>>()?;
        for adapter in &adapters {
            let adds = |layer: &SiteLayer| match layer {
                SiteLayer::Linear(layer) => !layer.effect().changes() && !layer.has_finisher(),
                _ => false,
            };
            if let Some(l) = adapter.layers().find(|l| !adds(&l.layer)) {
                let (name, path) = (adapter.name(), &l.info.path);
                return Err(refuse(format!(
                    "`{name}` does more at `{path}` than add to the output of a linear layer"
                )));
            }
        }
        let mut sites = host.sites();
        sites.retain(|info| adapters.iter().any(|adapter| adapter.layers.contains_key(&info.site)));
        if sites.is_empty() {
            return Err(refuse("no adapter is named".to_owned()));
        }
        let method = router.over(&adapters, &sites)?;
        let selection = Selection {
            sites,
            ..Selection::default()
        };
        Ok(Some((method, selection)))
    }

    /// Adds a built adapter, or, where its method routes others, the fusion that it is.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`].
    pub fn insert_any(&mut self, adapter: Attached) -> Result<(), Error> {
        let Some(router) = adapter.method().capabilities().routes else {
            return self.insert(adapter);
        };
        let (names, trained) = (router.adapters(), router.trains_adapters());
        self.insert_fusion(adapter)?;
        for name in names.iter().filter(|_| !trained) {
            self.set_trainable(name, false)?;
        }
        Ok(())
    }

    /// A composition that is the name of a router, as the block of its adapters; every other as it is.
    pub(crate) fn with_router(&self, composition: Composition) -> Composition {
        let Composition::Adapter(name) = &composition else {
            return composition;
        };
        let router = self.fusions.iter().find(|fusion| fusion.name() == name);
        match router.and_then(|router| router.method().capabilities().routes) {
            Some(routes) => Composition::named_fuse(name.clone(), routes.adapters()),
            None => composition,
        }
    }

    /// The fusions of a composition.
    pub(crate) fn fusions_of<'s>(&'s self, composition: &'s Composition) -> impl Iterator<Item = &'s Attached> {
        let names = composition.nodes().filter_map(Composition::fusion_name);
        names.filter_map(|name| self.fusions.iter().find(|fusion| fusion.name() == name))
    }

    /// The pass whose last hidden state a router of a composition reads; `None` where none reads one.
    pub(crate) fn reads_base(&self, composition: &Composition) -> Option<BasePass> {
        let mut routers = self
            .fusions_of(composition)
            .filter_map(|fusion| fusion.method().capabilities().routes);
        routers.find_map(|router| router.reads_base())
    }

    /// All fusions, in the order they were attached.
    pub fn fusions(&self) -> impl Iterator<Item = &Attached> {
        self.fusions.iter()
    }

    /// The fusion of that name.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFusion`] with the nearest name.
    pub fn fusion(&self, name: &str) -> Result<&Attached, Error> {
        Ok(&self.fusions[self.fusion_index(name)?])
    }

    fn fusion_index(&self, name: &str) -> Result<usize, Error> {
        let found = self.fusions.iter().position(|fusion| fusion.name() == name);
        found.ok_or_else(|| Error::NoSuchFusion {
            name: name.to_owned(),
            nearest: nearest(name, self.fusions.iter().map(Attached::name)),
            // The name of a fusion may hold commas.
            attached: names_or_none(self.fusions.iter(), "; "),
        })
    }

    /// Takes a fusion out. An active composition that uses it is deactivated.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFusion`].
    pub fn remove_fusion(&mut self, name: &str) -> Result<Attached, Error> {
        let index = self.fusion_index(name)?;
        let removed = self.fusions.remove(index);
        self.changed();
        Ok(removed)
    }

    /// Says how many passes of training the fusions have been through, which cools those with a temperature: what every
    /// context over this set begins with ([`Ctx::after_passes`](crate::Ctx::after_passes)). Neither format of files holds it.
    pub fn set_passes(&mut self, passes: u64) {
        self.passes = passes;
    }

    /// How many passes of training the fusions have been through.
    pub fn passes(&self) -> u64 {
        self.passes
    }
}
