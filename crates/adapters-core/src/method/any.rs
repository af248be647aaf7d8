//! A method whose type is known at run time only.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::ops::Deref;
use std::sync::Arc;

use adapters_sites::SiteInfo;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::host::Host;
use crate::method::build::Build;
use crate::method::capability::Capabilities;
use crate::method::codec::{BaseField, Tensors};
use crate::method::shared::Shared;
use crate::method::site_layer::SiteLayer;
use crate::method::target::Target;
use adapters_config::Format;

/// From a text to the ids of its tokens, special ones included: what a model's tokenizer does.
pub type Encode<'a> = dyn Fn(&str) -> Result<Vec<u32>, Box<dyn StdError + Send + Sync>> + 'a;

/// A checked, type-erased method. Displayed, it is the config string that makes it again.
///
/// It dereferences to [`ErasedMethod`], which has every function.
#[derive(Clone)]
pub struct AnyMethod(Arc<dyn ErasedMethod>);

impl AnyMethod {
    /// What implements the object-safe trait itself and is checked already: a union, a fusion.
    pub fn erased(method: impl ErasedMethod) -> Self {
        Self(Arc::new(method))
    }

    /// What the layers of an adapter share: what the method's [`SharedParameters`](crate::SharedParameters) builds.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] where the model has no sizes for it.
    pub fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        match self.capabilities().shared {
            Some(shared) => shared.build_shared(build),
            None => Ok(Shared::new()),
        }
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

/// The object-safe trait behind [`AnyMethod`]: every function of [`Method`](crate::Method) and of its codecs.
/// Implemented for every [`Method`](crate::Method); only what is made of other methods implements it itself.
pub trait ErasedMethod: Any + Debug + Send + Sync {
    /// See [`Method::NAME`](crate::Method::NAME).
    fn name(&self) -> &'static str;

    /// The config string that makes the method again.
    fn config_string(&self) -> String;

    /// See [`Method::target`](crate::Method::target).
    fn target(&self) -> Target;

    /// See [`Method::build`](crate::Method::build).
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`].
    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error>;

    /// See [`Method::capabilities`](crate::Method::capabilities).
    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities::default()
    }

    /// See [`Codec::write`](crate::Codec::write).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where the format cannot express it.
    fn write(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error>;

    /// See [`Codec::base_fields`](crate::Codec::base_fields).
    fn base_fields(&self, _format: Format) -> &'static [BaseField] {
        &[]
    }

    /// See [`Codec::key`](crate::Codec::key).
    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String;

    /// See [`Codec::stored_shape`](crate::Codec::stored_shape).
    fn stored_shape(&self, _format: Format, _site: &SiteInfo, _param: &str, shape: Vec<usize>) -> Vec<usize> {
        shape
    }

    /// See [`Codec::shared_key`](crate::Codec::shared_key).
    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        format.shared_key(adapter, param)
    }

    /// Whether files hold the parameters that a layer at a tied head has in common with the one at the table under both
    /// names, or under that of the table alone.
    fn stores_tied_twice(&self) -> bool {
        true
    }

    /// See [`Codec::is_duplicate`](crate::Codec::is_duplicate).
    fn is_duplicate(&self, _format: Format, _key: &str) -> bool {
        false
    }

    /// See [`Codec::may_lack`](crate::Codec::may_lack).
    fn may_lack(&self, _format: Format, _param: &str) -> bool {
        false
    }

    /// See [`Codec::adjusted_to`](crate::Codec::adjusted_to).
    fn adjusted_to(&self, _format: Format, _tensors: &Tensors) -> Option<AnyMethod> {
        None
    }

    /// See [`Codec::write_nested`](crate::Codec::write_nested).
    fn write_nested(&self, _format: Format, _outer: &Map<String, Value>) -> Option<Map<String, Value>> {
        None
    }

    /// See [`Codec::nested_key`](crate::Codec::nested_key).
    fn nested_key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        self.key(format, site, adapter, param)
    }
}
