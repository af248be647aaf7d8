//! Every [`Method`] as an [`AnyMethod`].

use adapters_config::{AdapterHub, Format, Peft, Preset};
use adapters_sites::SiteInfo;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::host::Host;
use crate::method::Method;
use crate::method::any::{AnyMethod, ErasedMethod};
use crate::method::build::Build;
use crate::method::capability::Capabilities;
use crate::method::codec::{BaseField, Codec, Tensors};
use crate::method::site_layer::SiteLayer;
use crate::method::target::Target;

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
}

/// What an adapter is made of: a typed configuration, or a method that is checked already.
pub trait IntoMethod {
    /// The checked method.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming the first field outside its range.
    fn into_method(self) -> Result<AnyMethod, Error>;
}

impl<M: Method> IntoMethod for M {
    fn into_method(self) -> Result<AnyMethod, Error> {
        AnyMethod::new(self)
    }
}

impl IntoMethod for AnyMethod {
    fn into_method(self) -> Result<AnyMethod, Error> {
        Ok(self)
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
        Preset::config_string(M::presets(), M::NAME, self)
    }

    fn target(&self) -> Target {
        Method::target(self)
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        Method::build(self, site, build)
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Method::capabilities(self)
    }

    fn write(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        Error::in_config(M::NAME, by_format!(format, write(self, sites, host)))
    }

    fn base_fields(&self, format: Format) -> &'static [BaseField] {
        by_format!(format, base_fields())
    }

    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        by_format!(format, key(self, site, adapter, param))
    }

    fn stored_shape(&self, format: Format, site: &SiteInfo, param: &str, shape: Vec<usize>) -> Vec<usize> {
        by_format!(format, stored_shape(self, site, param, shape))
    }

    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        by_format!(format, shared_key(self, adapter, param))
    }

    fn is_duplicate(&self, format: Format, key: &str) -> bool {
        by_format!(format, is_duplicate(self, key))
    }

    fn may_lack(&self, format: Format, param: &str) -> bool {
        by_format!(format, may_lack(self, param))
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
}
