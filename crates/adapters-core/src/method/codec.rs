//! How a method is stored: the codec it has for each of the two published file formats.

use std::collections::BTreeMap;

use adapters_sites::SiteInfo;
use burn::tensor::TensorData;
use serde_json::{Map, Value};

use adapters_config::{ConfigError, FileFormat, StoredConfig};

use crate::host::Host;

/// Tensors of a file by key.
pub type Tensors = BTreeMap<String, TensorData>;

/// A configuration field that trains parameters of the base model next to the layers of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseField {
    /// `bias`: those of linear layers and normalizations.
    Bias,
    /// `modules_to_save`: whole modules, in copies.
    ModulesToSave,
}

impl BaseField {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Bias, Self::ModulesToSave];
}

/// How a method is stored in one file format: its configuration object, and the keys of its parameters.
///
/// Every function has a default, so that a method which a format does not have writes
/// `impl Codec<AdapterHub> for Mine {}`: nothing is read, and writing is refused by name.
pub trait Codec<F: FileFormat>: Sized {
    /// Reads a configuration object. `None` if it belongs to another method.
    fn read(_stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        None
    }

    /// Fields that have another name in files of the format: the name of the field in the configuration, and the one in the file. Errors
    /// about a file use the latter.
    fn names() -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Which of these fields the format has for this method, if the method does not read them itself.
    fn base_fields() -> &'static [BaseField] {
        &[]
    }

    /// The configuration object for an adapter that has layers at `sites` of `host`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NotExpressible`] where the format has no field for an option.
    fn write(&self, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        Err(ConfigError::NotExpressible {
            format: F::FORMAT,
            what: "this method",
        })
    }

    /// The key of a parameter, without the prefix of the saving class.
    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        format!("{}.{param}", site.path)
    }

    /// The shape of a parameter in files, of as many elements as its own: those of convolutions have more axes there.
    fn stored_shape(&self, _site: &SiteInfo, _param: &str, shape: Vec<usize>) -> Vec<usize> {
        shape
    }

    /// The key of a parameter that the layers share.
    fn shared_key(&self, adapter: &str, param: &str) -> String {
        F::FORMAT.shared_key(adapter, param)
    }

    /// Whether a key of a file is a second name of a tensor, or of one that is computed instead of read: Python saves a
    /// module that two others hold twice.
    fn is_duplicate(&self, _key: &str) -> bool {
        false
    }

    /// Whether files may leave out a parameter, which then keeps the value it was built with: one that follows from the
    /// frozen weights.
    fn may_lack(&self, _param: &str) -> bool {
        false
    }

    /// The variant of this configuration that matches the tensors of a file, where that is not this one: a file may hold
    /// what a network computed, or the network.
    fn adjusted_to(&self, _tensors: &Tensors) -> Option<Self> {
        None
    }

    /// Configurations of this method that the configuration object `outer` of another method contains, each with the field
    /// that holds it.
    fn read_nested(_outer: &Map<String, Value>) -> Vec<(&'static str, Map<String, Value>)> {
        Vec::new()
    }

    /// The fields that hold this configuration inside the object `outer` of another method; `None` where the format has no
    /// field for it there.
    fn write_nested(&self, _outer: &Map<String, Value>) -> Option<Map<String, Value>> {
        None
    }

    /// The key of a parameter of a nested configuration.
    fn nested_key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        self.key(site, adapter, param)
    }
}
