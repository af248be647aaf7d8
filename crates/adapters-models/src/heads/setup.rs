//! A whole composition with its heads in one folder, as the reference's models with flexible heads keep it.

use std::path::{Path, PathBuf};

use adapters_core::AdapterSet;
use adapters_methods::Registry;
use adapters_store::{HeadSetup, Setup};
use burn::tensor::Device;

use crate::error::ModelError;
use crate::heads::config::refused;
use crate::heads::layers::Head;
use crate::heads::named::Heads;
use crate::model::Model;

impl Heads {
    /// Saves a setup: its adapters and fusions from `set`, and from these heads the ones the setup names, each in the folder of
    /// its name. A head that is called like an adapter of the composition goes next to that adapter, named or not, as in the
    /// reference.
    ///
    /// # Errors
    ///
    /// [`ModelError::NoSuchHead`], [`ModelError::Config`] for [`HeadSetup::Own`], both before anything is written; the errors of
    /// [`Setup::save`] and [`Head::save`].
    pub fn save_setup(&self, dir: &Path, setup: &Setup, set: &AdapterSet, base: &Model) -> Result<(), ModelError> {
        // What cannot be activated is refused before a head is written.
        set.composition(setup.composition.clone())?;
        let mut heads = Vec::new();
        for (name, folder) in folders(dir, setup, |name, _| self.get(name).is_some())? {
            heads.push((self.named(&name)?, folder));
        }
        for (named, folder) in heads {
            named.head.save(&folder, &named.name, base)?;
        }
        // The file that makes the folder a setup is the last one written.
        Ok(setup.save(dir, set, base)?)
    }

    /// Loads a saved setup: its adapters and fusions into `set`, as [`Setup::load`], and the heads it names and those next to its
    /// adapters into these, each under the name of its folder. Nothing is activated; [`Routing::of_setup`] assigns rows to
    /// heads. `allow_bin` permits PyTorch files.
    ///
    /// # Errors
    ///
    /// [`ModelError::HeadTaken`], [`ModelError::Config`] for [`HeadSetup::Own`], and the errors of [`Setup::load`] and
    /// [`Head::load`]. Set and heads are unchanged on error.
    ///
    /// [`Routing::of_setup`]: crate::heads::Routing::of_setup
    pub fn load_setup(
        &mut self,
        dir: &Path,
        set: &mut AdapterSet,
        base: &Model,
        registry: &Registry,
        allow_bin: bool,
        device: &Device,
    ) -> Result<Setup, ModelError> {
        let mut grown = self.clone();
        for (name, folder) in folders(dir, &Setup::read(dir)?, |_, folder| Head::is_in(folder))? {
            let (_, head) = Head::load(&folder, base, allow_bin, device)?;
            grown.insert(&name, head)?;
        }
        let setup = Setup::load(dir, set, base, registry, allow_bin, device)?;
        *self = grown;
        Ok(setup)
    }
}

/// Names and folders of the heads a setup names, and of those next to its adapters that are `there`.
fn folders(
    dir: &Path,
    setup: &Setup,
    there: impl Fn(&str, &Path) -> bool,
) -> Result<Vec<(String, PathBuf)>, ModelError> {
    if setup.heads == HeadSetup::Own {
        let path = dir.join(Setup::FILE);
        return Err(refused(&path, "head_setup", "heads by name", "true"));
    }
    let mut folders = Vec::new();
    for name in setup.heads.names() {
        folders.push((name.to_owned(), Setup::folder(dir, name)?));
    }
    for name in setup.composition.adapters() {
        let folder = Setup::folder(dir, name)?;
        if there(name, &folder) && !folders.iter().any(|(known, _)| known == name) {
            folders.push((name.to_owned(), folder));
        }
    }
    Ok(folders)
}
