//! A method whose type is known at run time only.

use std::any::Any;
use std::fmt::{self, Debug, Display};
use std::ops::Deref;
use std::sync::Arc;

use burn::tensor::Tensor;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::host::Host;
use crate::method::Method;
use crate::method::build::Build;
use crate::method::capability::Encode;
use crate::method::codec::{AdapterHub, Codec, Format, Peft, Tensors};
use crate::method::layer::SiteLayer;
use crate::method::preset;
use crate::method::schedule::TrainingSchedule;
use crate::method::shared::Shared;
use crate::method::target::Target;
use crate::pass::state::Inserted;
use crate::set::Attached;
use crate::site::SiteInfo;

/// A checked, type-erased method. Displayed, it is the config string that makes it again.
///
/// It dereferences to [`ErasedMethod`], which has every function.
#[derive(Clone)]
pub struct AnyMethod(Arc<dyn ErasedMethod>);

impl AnyMethod {
    /// Checks a configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming the first field outside its range.
    pub fn new<M: Method>(config: M) -> Result<Self, Error> {
        Error::in_config(M::NAME, config.check())?;
        Ok(Self::erased(config))
    }

    /// What implements the object-safe trait itself and is checked already: a union, a fusion.
    pub fn erased(method: impl ErasedMethod) -> Self {
        Self(Arc::new(method))
    }

    /// The method, if its type is `M`.
    pub fn downcast_ref<M: Any>(&self) -> Option<&M> {
        let method: &dyn Any = &*self.0;
        method.downcast_ref()
    }
}

impl Deref for AnyMethod {
    type Target = dyn ErasedMethod;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Debug for AnyMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

impl Display for AnyMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.config_string())
    }
}

/// The object-safe trait behind [`AnyMethod`]: every function of [`Method`], of its codecs and of its capabilities.
/// Implemented for every [`Method`]; only what is made of other methods implements it itself.
pub trait ErasedMethod: Any + Debug + Send + Sync {
    /// See [`Method::NAME`].
    fn name(&self) -> &'static str;

    /// The config string that makes the method again.
    fn config_string(&self) -> String;

    /// See [`Method::target`].
    fn target(&self) -> Target;

    /// See [`Method::build`].
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`].
    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error>;

    /// See [`Codec::write`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where the format cannot express it.
    fn write(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error>;

    /// See [`Codec::key`].
    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String;

    /// See [`Codec::shared_key`].
    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        format.shared_key(adapter, param)
    }

    /// See [`Codec::is_duplicate`].
    fn is_duplicate(&self, _format: Format, _key: &str) -> bool {
        false
    }

    /// See [`Codec::adjusted_to`].
    fn adjusted_to(&self, _format: Format, _tensors: &Tensors) -> Option<AnyMethod> {
        None
    }

    /// See [`Codec::write_nested`].
    fn write_nested(&self, _format: Format, _outer: &Map<String, Value>) -> Option<Map<String, Value>> {
        None
    }

    /// See [`Codec::nested_key`].
    fn nested_key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        self.key(format, site, adapter, param)
    }

    /// See [`SharedParameters::build_shared`](crate::SharedParameters::build_shared); nothing for most methods.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`].
    fn build_shared(&self, _build: &Build<'_>) -> Result<Shared, Error> {
        Ok(Shared::new())
    }

    /// See [`SharedParameters::owns`](crate::SharedParameters::owns).
    fn owns(&self, _param: &str) -> bool {
        false
    }

    /// See [`Scheduled::schedule`](crate::Scheduled::schedule); none for most methods.
    fn schedule(&self, _steps: u64) -> Option<Box<dyn TrainingSchedule>> {
        None
    }

    /// See [`Penalized::penalty`](crate::Penalized::penalty); none for most methods.
    fn penalty(&self, _adapter: &Attached) -> Option<Tensor<1>> {
        None
    }

    /// See [`LearnsFaster::learns_faster`](crate::LearnsFaster::learns_faster).
    fn learns_faster(&self, _param: &str) -> bool {
        false
    }

    /// See [`EditsEmbeddings::inserts`](crate::EditsEmbeddings::inserts).
    fn inserts(&self) -> Option<Inserted> {
        None
    }

    /// See [`EditsEmbeddings::first_position`](crate::EditsEmbeddings::first_position).
    fn first_position(&self) -> usize {
        0
    }

    /// See [`EditsEmbeddings::positions`](crate::EditsEmbeddings::positions).
    fn positions(&self) -> usize {
        0
    }

    /// See [`NeedsTokenizer::with_tokens`](crate::NeedsTokenizer::with_tokens).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a text without a token, or what `encode` returns.
    fn with_tokens(&self, _encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        Ok(None)
    }

    /// See [`ConvertsForStorage::to_storage`](crate::ConvertsForStorage::to_storage).
    ///
    /// # Errors
    ///
    /// Those of building the adapter that is stored.
    fn to_storage(&self, _format: Format, _adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        Ok(None)
    }

    /// See [`ConvertsForStorage::restored`](crate::ConvertsForStorage::restored).
    fn restored(&self, _adapter: &Attached) -> Option<Attached> {
        None
    }
}

/// Runs a function of the codec of a format known at run time.
macro_rules! by_format {
    ($format:expr, $method:ident($($argument:expr),*)) => {
        match $format {
            Format::AdapterHub => <M as Codec<AdapterHub>>::$method($($argument),*),
            Format::Peft => <M as Codec<Peft>>::$method($($argument),*),
        }
    };
}

impl<M: Method> ErasedMethod for M {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn config_string(&self) -> String {
        preset::config_string(self)
    }

    fn target(&self) -> Target {
        Method::target(self)
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        Method::build(self, site, build)
    }

    fn write(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        Error::in_config(M::NAME, by_format!(format, write(self, sites, host)))
    }

    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        by_format!(format, key(self, site, adapter, param))
    }

    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        by_format!(format, shared_key(self, adapter, param))
    }

    fn is_duplicate(&self, format: Format, key: &str) -> bool {
        by_format!(format, is_duplicate(self, key))
    }

    fn adjusted_to(&self, format: Format, tensors: &Tensors) -> Option<AnyMethod> {
        by_format!(format, adjusted_to(self, tensors)).map(AnyMethod::erased)
    }

    fn write_nested(&self, format: Format, outer: &Map<String, Value>) -> Option<Map<String, Value>> {
        by_format!(format, write_nested(self, outer))
    }

    fn nested_key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        by_format!(format, nested_key(self, site, adapter, param))
    }

    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        match self.capabilities().shared {
            Some(shared) => shared.build_shared(build),
            None => Ok(Shared::new()),
        }
    }

    fn owns(&self, param: &str) -> bool {
        self.capabilities().shared.is_some_and(|shared| shared.owns(param))
    }

    fn schedule(&self, steps: u64) -> Option<Box<dyn TrainingSchedule>> {
        self.capabilities().schedule.map(|scheduled| scheduled.schedule(steps))
    }

    fn penalty(&self, adapter: &Attached) -> Option<Tensor<1>> {
        self.capabilities().penalty?.penalty(adapter)
    }

    fn learns_faster(&self, param: &str) -> bool {
        self.capabilities()
            .faster
            .is_some_and(|method| method.learns_faster(param))
    }

    fn inserts(&self) -> Option<Inserted> {
        self.capabilities().embeddings?.inserts()
    }

    fn first_position(&self) -> usize {
        self.capabilities().embeddings.map_or(0, |edits| edits.first_position())
    }

    fn positions(&self) -> usize {
        self.capabilities().embeddings.map_or(0, |edits| edits.positions())
    }

    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        match self.capabilities().tokenizer {
            Some(text) => text.with_tokens(encode),
            None => Ok(None),
        }
    }

    fn to_storage(&self, format: Format, adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
        match self.capabilities().storage {
            Some(storage) => storage.to_storage(format, adapter, host),
            None => Ok(None),
        }
    }

    fn restored(&self, adapter: &Attached) -> Option<Attached> {
        self.capabilities().storage?.restored(adapter)
    }
}
