//! A whole composition in one folder: `adapter_setup.json`, and a folder for each adapter and fusion in it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    HeadSetup, LoadOptions, REFERENCE_VERSION, StoreError, expressible, load_adapter, load_fusion, read_json_if_there,
    save_adapter, save_fusion, write_json,
};
use adapters_core::{AdapterSet, Composition, Host};
use adapters_methods::Registry;

/// What `adapter_setup.json` says, as the reference's `save_adapter_setup` writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The composition.
    #[serde(rename = "adapter_setup", with = "crate::dict::field")]
    pub composition: Composition,
    /// Which heads belong to it. Heads are no part of an adapter set; whoever has them saves and loads each in the folder of
    /// its name ([`Setup::folder`]).
    #[serde(rename = "head_setup", default)]
    pub heads: HeadSetup,
    /// Fields this version does not know, kept and written back.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Setup {
    /// Name of the file.
    pub const FILE: &'static str = "adapter_setup.json";

    /// A setup without heads.
    pub fn new(composition: impl Into<Composition>) -> Self {
        Self {
            composition: composition.into().into_block(),
            heads: HeadSetup::None,
            extra: Map::from_iter([("version".to_owned(), REFERENCE_VERSION.into())]),
        }
    }

    /// With heads.
    #[must_use]
    pub fn with_heads(mut self, heads: HeadSetup) -> Self {
        self.heads = heads;
        self
    }

    /// The folder of an adapter, a fusion or a head of that name.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotAFolderName`] for a name that would lie elsewhere.
    pub fn folder(dir: &Path, name: &str) -> Result<PathBuf, StoreError> {
        let mut components = Path::new(name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(_)), None) if !name.contains(['/', '\\']) => Ok(dir.join(name)),
            _ => Err(StoreError::NotAFolderName { name: name.to_owned() }),
        }
    }

    /// Names of the fusions, each once.
    pub fn fusions(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.composition.nodes().filter_map(Composition::fusion_name) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Saves the file, and every adapter and fusion of the composition from `set`, each adapter in the first format that
    /// can express it.
    ///
    /// # Errors
    ///
    /// As [`AdapterSet::composition`] for a composition that could not be activated, [`StoreError::NotAFolderName`] before
    /// anything is written, and the errors of [`save_adapter`] and [`save_fusion`].
    pub fn save(&self, dir: &Path, set: &AdapterSet, host: &dyn Host) -> Result<(), StoreError> {
        set.composition(self.composition.clone())?;
        let named = |names: Vec<String>| {
            let folders = names.into_iter().map(|name| Ok((Self::folder(dir, &name)?, name)));
            folders.collect::<Result<Vec<_>, StoreError>>()
        };
        let adapters = named(self.composition.adapters().map(str::to_owned).collect())?;
        let fusions = named(self.fusions())?;
        fs::create_dir_all(dir).map_err(|source| StoreError::Folder {
            path: dir.to_owned(),
            source,
        })?;
        for (folder, name) in adapters {
            save_adapter(&folder, expressible(set, &name, host)?, set, &name, host)?;
        }
        for (folder, name) in fusions {
            save_fusion(&folder, set, &name, host)?;
        }
        // Last, so that a folder with this file is a whole one.
        write_json(&dir.join(Self::FILE), self)
    }

    /// Reads the file alone.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotAnAdapter`], [`StoreError::Read`], [`StoreError::Json`].
    pub fn read(dir: &Path) -> Result<Self, StoreError> {
        read_json_if_there(&dir.join(Self::FILE))?.ok_or_else(|| StoreError::NotAnAdapter {
            path: dir.to_owned(),
            missing: Self::FILE,
        })
    }

    /// Loads a saved setup into `set`: every adapter and every fusion under its name, trainable, and nothing activated.
    /// `allow_bin` permits PyTorch files.
    ///
    /// # Errors
    ///
    /// The errors of [`read`](Self::read), [`load_adapter`] and [`load_fusion`], and those of
    /// [`AdapterSet::composition`]. The set is unchanged on error.
    pub fn load(
        dir: &Path,
        set: &mut AdapterSet,
        host: &dyn Host,
        registry: &Registry,
        allow_bin: bool,
        device: &Device,
    ) -> Result<Self, StoreError> {
        let setup = Self::read(dir)?;
        let mut grown = set.clone();
        let named = |name: &str| LoadOptions {
            name: Some(name.to_owned()),
            allow_bin,
            ..LoadOptions::default()
        };
        for name in setup.composition.adapters() {
            load_adapter(
                &Self::folder(dir, name)?,
                &mut grown,
                host,
                registry,
                &named(name),
                device,
            )?;
        }
        for name in setup.fusions() {
            load_fusion(&Self::folder(dir, &name)?, &mut grown, host, &named(&name), device)?;
        }
        grown.composition(setup.composition.clone())?;
        *set = grown;
        Ok(setup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let fuse = Composition::named_fuse("own", ["b", "c"]);
        let setup = Setup::new(Composition::stack(["a".into(), fuse])).with_heads(HeadSetup::One("a".to_owned()));
        write_json(&dir.path().join(Setup::FILE), &setup).unwrap();
        assert_eq!(Setup::read(dir.path()).unwrap(), setup);
        assert_eq!(setup.fusions(), ["own"]);
        assert!(matches!(
            Setup::read(&dir.path().join("none")),
            Err(StoreError::NotAnAdapter { .. })
        ));
    }

    #[test]
    fn names_stay_inside_the_folder() {
        let dir = Path::new("setup");
        assert_eq!(Setup::folder(dir, "b,c").unwrap(), dir.join("b,c"));
        for name in ["..", "", ".", "a/b", "/etc", "a\\b", "../x", "a/"] {
            let refused = Setup::folder(dir, name);
            assert!(matches!(refused, Err(StoreError::NotAFolderName { .. })), "{name}");
        }
    }
}
