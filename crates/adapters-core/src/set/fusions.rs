//! Fusion layers in a set: they stand beside the adapters and are named after those they fuse.

use burn::tensor::Device;

use crate::set::attach::{AttachReport, build};
use adapters_nn::nearest;

use crate::error::Error;
use crate::fusion::{Fusion, FusionConfig, FusionLayer};
use crate::host::Host;
use crate::method::layer::SiteLayer;
use crate::method::{AnyMethod, ErasedMethod};
use crate::set::{AdapterSet, Attached};
use crate::site::Site;

impl AdapterSet {
    /// Adds a fusion of attached adapters, trainable, under the name a `Fuse` block of these adapters looks for: theirs,
    /// joined by commas. It has a layer wherever the model has the places that all of them act at.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`], [`Error::CannotFuse`] for adapters that do not answer a fusion or act at different
    /// places, [`Error::NameTaken`], [`Error::Config`] for a value outside its range.
    pub fn attach_fusion(
        &mut self,
        adapters: &[&str],
        config: FusionConfig,
        host: &dyn Host,
        seed: u64,
        device: &Device,
    ) -> Result<AttachReport, Error> {
        self.attach_named_fusion(&adapters.join(","), adapters, config, host, seed, device)
    }

    /// As [`attach_fusion`](Self::attach_fusion), under a name of its own: that of a
    /// [`named_fuse`](crate::Composition::named_fuse).
    ///
    /// # Errors
    ///
    /// As [`attach_fusion`](Self::attach_fusion).
    pub fn attach_named_fusion(
        &mut self,
        name: &str,
        adapters: &[&str],
        config: FusionConfig,
        host: &dyn Host,
        seed: u64,
        device: &Device,
    ) -> Result<AttachReport, Error> {
        let (fusion, report) = self.build_fusion(name, adapters, config, host, seed, device)?;
        self.insert_fusion(fusion)?;
        Ok(report)
    }

    /// Builds a fusion without adding it.
    ///
    /// # Errors
    ///
    /// As [`attach_named_fusion`](Self::attach_named_fusion), but for names.
    pub fn build_fusion(
        &self,
        name: &str,
        adapters: &[&str],
        config: FusionConfig,
        host: &dyn Host,
        seed: u64,
        device: &Device,
    ) -> Result<(Attached, AttachReport), Error> {
        let attached = adapters.iter().map(|adapter| self.attached(adapter));
        let method = Fusion::new(config, &attached.collect::<Result<Vec<_>, _>>()?, host)?;
        let target = method.target();
        let selection = target.select(host)?.require(&target, host)?;
        build(name, AnyMethod::erased(method), host, selection, seed, device)
    }

    /// Adds a built fusion.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`].
    pub fn insert_fusion(&mut self, fusion: Attached) -> Result<(), Error> {
        self.check_free(fusion.name())?;
        self.fusions.push(fusion);
        Ok(())
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
        let found = self.fusions.iter().find(|fusion| fusion.name() == name);
        found.ok_or_else(|| Error::NoSuchFusion {
            name: name.to_owned(),
            nearest: nearest(name, self.fusions.iter().map(Attached::name)),
            attached: match self.fusions.is_empty() {
                true => "none".to_owned(),
                false => self.fusions.iter().map(Attached::name).collect::<Vec<_>>().join("; "),
            },
        })
    }

    /// Takes a fusion out. An active composition that uses it is deactivated.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchFusion`].
    pub fn remove_fusion(&mut self, name: &str) -> Result<Attached, Error> {
        self.fusion(name)?;
        let uses = |active: &crate::Active| {
            let mut parts = active.composition().parts();
            parts.any(|part| part.fusion_name().is_some_and(|used| used == name))
        };
        if self.active.as_ref().is_some_and(uses) {
            self.active = None;
        }
        let index = self
            .fusions
            .iter()
            .position(|fusion| fusion.name() == name)
            .unwrap_or(0);
        Ok(self.fusions.remove(index))
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

    /// The layer of a fusion at `site`, with the fusion's name.
    pub(crate) fn fusion_at(&self, name: &str, site: Site) -> Option<(&str, &FusionLayer)> {
        let fusion = self.fusions.iter().find(|fusion| fusion.name() == name)?;
        match &fusion.layers.get(&site)?.layer {
            SiteLayer::Fusion(layer) => Some((fusion.name(), layer)),
            _ => None,
        }
    }
}
