//! Saving and loading the adapters of a model.

use std::path::Path;

use adapters_adapted::Adapted;
use adapters_core::{Attached, Format, Host};
use adapters_methods::Registry;
use adapters_store::{
    LoadOptions, LoadReport, Manifest, SavedFiles, StoreError, expressible, load_adapter, save_adapter,
};
use burn::module::Module;

use crate::METHODS;

/// What is saved, and how.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// The adapter; without a name the only one, or else the only one that is active.
    pub adapter: Option<String>,
    /// The format; without it that of AdapterHub where it can express the adapter, and else that of PEFT.
    pub format: Option<Format>,
}

impl From<Format> for SaveOptions {
    fn from(format: Format) -> Self {
        Self {
            format: Some(format),
            ..Self::default()
        }
    }
}

/// Saves and loads the adapters of an [`Adapted`] model.
pub trait AdapterFiles {
    /// Saves the adapter into the folder `dir`: the only one, or else the only one that is active, in the first format that
    /// can express it.
    ///
    /// # Errors
    ///
    /// As [`save_with`](Self::save_with).
    fn save(&self, dir: impl AsRef<Path>) -> Result<SavedFiles, StoreError> {
        self.save_with(dir, SaveOptions::default())
    }

    /// Saves an adapter into the folder `dir`. A [`Format`] is an option too.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoAdapter`], [`StoreError::WhichAdapter`] if none is named and there is not one to be meant; as
    /// [`save_adapter`].
    fn save_with(&self, dir: impl AsRef<Path>, options: impl Into<SaveOptions>) -> Result<SavedFiles, StoreError>;

    /// Loads the adapter in the folder `dir`, of either format, trainable and not active, under the name it was saved with.
    ///
    /// # Errors
    ///
    /// As [`load_adapter`]; the model is unchanged then.
    fn load(&mut self, dir: impl AsRef<Path>) -> Result<LoadReport, StoreError> {
        self.load_with(dir, &METHODS, &LoadOptions::default())
    }

    /// Loads the adapter in the folder `dir` by the methods of a registry.
    ///
    /// # Errors
    ///
    /// As [`load_adapter`]; the model is unchanged then.
    fn load_with(
        &mut self,
        dir: impl AsRef<Path>,
        methods: &Registry,
        options: &LoadOptions,
    ) -> Result<LoadReport, StoreError>;
}

impl<M: Host + Module + Sync> AdapterFiles for Adapted<M> {
    fn save_with(&self, dir: impl AsRef<Path>, options: impl Into<SaveOptions>) -> Result<SavedFiles, StoreError> {
        let options = options.into();
        let name = match &options.adapter {
            Some(name) => name,
            None => meant(self)?,
        };
        let format = match options.format {
            Some(format) => format,
            None => expressible(&self.set, name, self.base())?,
        };
        save_adapter(dir.as_ref(), format, &self.set, name, self.base())
    }

    fn load_with(
        &mut self,
        dir: impl AsRef<Path>,
        methods: &Registry,
        options: &LoadOptions,
    ) -> Result<LoadReport, StoreError> {
        let dir = dir.as_ref();
        let mut options = options.clone();
        if options.name.is_none() {
            options.name = Manifest::name_in(dir)?;
        }
        let device = self.device();
        let (base, set) = self.base_and_set_mut();
        load_adapter(dir, set, base, methods, &options, &device)
    }
}

/// The only adapter, or else the only one that is active.
fn meant<M: Host + Module + Sync>(model: &Adapted<M>) -> Result<&str, StoreError> {
    let attached: Vec<&str> = model.set.iter().map(Attached::name).collect();
    let active = model.set.active().into_iter().flat_map(|active| active.adapters());
    match (&attached[..], &active.collect::<Vec<_>>()[..]) {
        ([name], _) | (_, [name]) => Ok(name),
        ([], _) => Err(StoreError::NoAdapter),
        _ => Err(StoreError::WhichAdapter {
            attached: attached.join(", "),
        }),
    }
}
