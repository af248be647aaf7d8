//! What a method crate implements: a family that reads configurations, and a method that builds layers.

pub mod codec;
pub mod config;
pub(crate) mod config_string;
pub mod copies;
pub(crate) mod layer;
pub(crate) mod regime;
pub(crate) mod shared;
pub mod target;
pub(crate) mod union;

use std::any::Any;
use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Map, Value};

use crate::method::config_string::{ConfigPart, ConfigString};
use adapters_nn::UnknownName;

use crate::error::Error;
use crate::host::Host;
use crate::method::codec::{Format, Tensors};
use crate::method::layer::SiteLayer;
use crate::method::regime::Regime;
use crate::method::shared::Shared;
use crate::method::target::Target;
use crate::method::union::Union;
use crate::pass::state::Inserted;
use crate::set::Attached;
use crate::site::{Site, SiteInfo};

/// From a text to the ids of its tokens, special ones included: what a model's tokenizer does.
pub type Encode<'a> = dyn Fn(&str) -> Result<Vec<u32>, Box<dyn StdError + Send + Sync>> + 'a;

/// A checked configuration of one method. Displayed, it is the config string that makes it again.
pub trait Method: Any + Debug + Display + Send + Sync {
    /// The family's name, e.g. `"lora"`.
    fn family(&self) -> &'static str;

    /// The sites it is aimed at.
    fn target(&self) -> Target;

    /// Builds the layer for one selected site.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] for a kind of site the method has no layer for.
    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error>;

    /// Builds what the layers of an adapter share; nothing, for most methods.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] where the model has no sizes for it.
    fn build_shared(&self, _build: &Build<'_>) -> Result<Shared, Error> {
        Ok(Shared::new())
    }

    /// Whether a shared parameter of that name is one of its own: what a union of methods asks before it asks for a key.
    fn shares(&self, _param: &str) -> bool {
        false
    }

    /// The key of a shared parameter in a storage format.
    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        plain_shared_key(format, adapter, param)
    }

    /// The key of a parameter in a storage format, without the prefix of the saving class.
    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String;

    /// The fields that say this method inside the configuration `outer` of another part of a union; `None` where the format
    /// has no place for it there.
    fn inside(&self, _format: Format, _outer: &Map<String, Value>) -> Option<Map<String, Value>> {
        None
    }

    /// The key of a parameter as a part of a union.
    fn key_inside(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        self.key(format, site, adapter, param)
    }

    /// Whether a key of a file is a second name of a tensor: Python saves a module that two others hold twice.
    fn is_alias(&self, _key: &str) -> bool {
        false
    }

    /// A schedule for a training run of `steps` steps; none, for most methods.
    fn regime(&self, _steps: u64) -> Option<Box<dyn Regime>> {
        None
    }

    /// What training adds to the loss; nothing, for most methods.
    fn penalty(&self, _adapter: &Attached) -> Option<Tensor<1>> {
        None
    }

    /// The adapter as the files of a format hold it, where that is not how it trains; `None` where it is.
    ///
    /// # Errors
    ///
    /// Those of building the adapter that is stored.
    fn stored(&self, _format: Format, _adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        Ok(None)
    }

    /// The adapter as it trains, from what files hold, where that is not the same; the other way of
    /// [`stored`](Self::stored). What is computed from the values of files, as averages are, goes this way too.
    fn loaded(&self, _adapter: &Attached) -> Option<Attached> {
        None
    }

    /// The form of this configuration that the tensors of a file are for, where that is not the form it has: a file may
    /// hold what a network computed, or that network.
    fn fitting(&self, _tensors: &Tensors) -> Option<Arc<dyn Method>> {
        None
    }

    /// This configuration with its texts as token ids of the model, which `encode` gives; `None` where it has no text.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a text without a token, or what `encode` says.
    fn with_tokens(&self, _encode: &Encode<'_>) -> Result<Option<Arc<dyn Method>>, Error> {
        Ok(None)
    }

    /// How many of the model's positions an adapter takes from the text, where those are limited.
    fn positions(&self) -> usize {
        0
    }

    /// What an adapter puts in among the embedded tokens of every row; nothing, for most methods.
    fn inserts(&self) -> Option<Inserted> {
        None
    }

    /// The position of the first token: how many positions count as taken before it although nothing of the sequence is
    /// there.
    fn first_position(&self) -> usize {
        0
    }

    /// The configuration object of a storage format, for an adapter that has layers at `sites` of `host`.
    ///
    /// # Errors
    ///
    /// An [`Error::Config`] where the format cannot express it.
    fn wire(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error>;
}

/// The key of a shared parameter where a method has none of its own.
pub(crate) fn plain_shared_key(format: Format, adapter: &str, param: &str) -> String {
    match format {
        Format::AdapterHub => format!("shared_parameters.{adapter}.{param}"),
        Format::Peft => format!("base_model.{param}"),
    }
}

/// What a method may use to build a layer.
pub struct Build<'a> {
    /// Seed of the initialization.
    pub seed: u64,
    /// Where the parameters live.
    pub device: &'a Device,
    /// The model.
    pub host: &'a dyn Host,
}

impl Build<'_> {
    /// A generator for what the layers share.
    pub fn shared_rng(&self, seed: Option<u64>) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.unwrap_or(self.seed));
        rng.set_stream(u64::MAX);
        rng
    }

    /// A generator for the layer at `site`: its own stream of the seed, whatever order layers are built in.
    pub fn rng(&self, seed: Option<u64>, site: Site) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.unwrap_or(self.seed));
        let layer = site.layer.map_or(0, |l| l as u64 + 1);
        rng.set_stream(layer << 16 | (site.stack as u64) << 8 | site.role as u64);
        rng
    }
}

/// Reads the configurations of one method.
pub trait MethodFamily: Sync {
    /// The family's name, e.g. `"lora"`.
    fn name(&self) -> &'static str;

    /// Identifiers a config string may start with, the reference's names included.
    fn identifiers(&self) -> &'static [&'static str];

    /// A method from an identifier and the fields a user wrote. Unknown fields are errors.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming the field.
    fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<Arc<dyn Method>, Error>;

    /// A method from the configuration object of a file, `None` if it belongs to another family. Unknown fields
    /// are kept and written back.
    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<Arc<dyn Method>, Error>>;

    /// Configurations of this family that the configuration of another one holds inside, each with the field that says it:
    /// the counterpart of [`Method::inside`].
    fn inside(&self, _stored: &StoredConfig<'_>) -> Vec<(&'static str, Map<String, Value>)> {
        Vec::new()
    }
}

/// The configuration object of a file, with what the file says around it.
#[derive(Clone, Copy, Debug)]
pub struct StoredConfig<'a> {
    /// The format of the file.
    pub format: Format,
    /// The object.
    pub fields: &'a Map<String, Value>,
    /// Version of the library that wrote it, as `(major, minor)`; `None` in old files.
    pub version: Option<(u32, u32)>,
    /// Whether the file names any version, that of a predecessor included.
    pub versioned: bool,
}

/// The families a program knows, crate by crate. The facade has the full list.
#[derive(Clone, Copy)]
pub struct Registry(pub &'static [&'static [&'static dyn MethodFamily]]);

impl Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.families().map(|m| m.name())).finish()
    }
}

impl Registry {
    /// The families.
    pub fn families(&self) -> impl Iterator<Item = &'static dyn MethodFamily> {
        self.0.iter().flat_map(|families| families.iter().copied())
    }

    /// All identifiers, in the order of the families.
    pub fn identifiers(&self) -> impl Iterator<Item = &'static str> {
        self.families().flat_map(|m| m.identifiers().iter().copied())
    }

    /// A method from an identifier and fields.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownName`] for an identifier no family has, and the family's own errors.
    pub fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<Arc<dyn Method>, Error> {
        match self.families().find(|m| m.identifiers().contains(&identifier)) {
            Some(family) => family.configure(identifier, fields),
            None => Err(UnknownName::new("adapter configuration", identifier, self.identifiers()).into()),
        }
    }

    /// A method from a config string such as `lora[r=8,alpha=16]`.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure), [`Error::ConfigString`] if it does not parse, [`Error::UnionConflict`] for
    /// parts of a union that want the same place.
    pub fn parse(&self, config: &str) -> Result<Arc<dyn Method>, Error> {
        let ConfigString { parts } = config.parse()?;
        let configure = |part: ConfigPart| self.configure(&part.identifier, part.fields);
        Union::method(parts.into_iter().map(configure).collect::<Result<_, _>>()?)
    }

    /// A method from the configuration object of a file.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownName`] if no family claims it, and the family's own errors.
    pub fn read(&self, stored: &StoredConfig<'_>) -> Result<Arc<dyn Method>, Error> {
        if let Some(parts) = Union::stored(stored) {
            return Union::method(parts.iter().map(|part| self.read(part)).collect::<Result<_, _>>()?);
        }
        let inside: Vec<_> = self.families().flat_map(|family| family.inside(stored)).collect();
        if !inside.is_empty() {
            let mut outer = stored.fields.clone();
            outer.retain(|key, _| inside.iter().all(|(field, _)| field != key));
            let configs = [&outer].into_iter().chain(inside.iter().map(|(_, fields)| fields));
            let parts = configs.map(|fields| self.read(&StoredConfig { fields, ..*stored }));
            return Union::method(parts.collect::<Result<_, _>>()?);
        }
        self.families()
            .find_map(|family| family.read(stored))
            .unwrap_or_else(|| {
                let key = match stored.format {
                    Format::AdapterHub => "architecture",
                    Format::Peft => "peft_type",
                };
                let found = stored
                    .fields
                    .get(key)
                    .map_or_else(|| format!("(no `{key}`)"), Value::to_string);
                Err(UnknownName {
                    nearest: None,
                    ..UnknownName::new("adapter method", found, self.families().map(|m| m.name()))
                }
                .into())
            })
    }
}
