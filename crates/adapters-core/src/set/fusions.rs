//! Fusion layers in a set: they are kept next to the adapters and are named after those they fuse.

use crate::error::Error;
use crate::set::AdapterSet;
use crate::set::attached::Attached;
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
        let index = self
            .fusions
            .iter()
            .position(|fusion| fusion.name() == name)
            .unwrap_or(0);
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
