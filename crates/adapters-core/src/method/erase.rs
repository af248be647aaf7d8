//! Every [`Method`] as an [`AnyMethod`].

use burn::tensor::Tensor;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::host::Host;
use crate::method::Method;
use crate::method::any::{AnyMethod, Encode, ErasedMethod};
use crate::method::build::Build;
use crate::method::codec::{AdapterHub, Codec, Format, Peft, Tensors};
use crate::method::preset;
use crate::method::schedule::TrainingSchedule;
use crate::method::shared::Shared;
use crate::method::site_layer::SiteLayer;
use crate::method::target::Target;
use crate::pass::state::Inserted;
use crate::set::attached::Attached;
use crate::site::SiteInfo;

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
        preset::config_string(M::NAME, M::presets(), self)
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
        let faster = self.capabilities().faster;
        faster.is_some_and(|method| method.learns_faster(param))
    }

    fn patterns(&self) -> Vec<(&'static str, &str)> {
        self.capabilities()
            .patterns
            .map(|method| method.patterns())
            .unwrap_or_default()
    }

    fn update_scale(&self, site: &SiteInfo, param: &str) -> Result<Option<f64>, Error> {
        let scaled = self.capabilities().scaled;
        scaled.map_or(Ok(None), |method| method.update_scale(site, param))
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

    fn tasks(&self) -> Option<usize> {
        self.capabilities().tasks.map(|known| known.tasks())
    }

    fn on_tied_head(&self, table: &SiteLayer) -> Option<SiteLayer> {
        self.capabilities().tied?.on_tied_head(table)
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
