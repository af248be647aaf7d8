//! Where a parameter of a set lives, and what it is called in files.

use std::borrow::Cow;

use burn::module::ParamId;

use crate::host::Host;
use crate::method::any::AnyMethod;
use crate::method::codec::Format;
use crate::site::SiteInfo;

/// What a parameter of a set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamShape {
    /// The sizes of its axes.
    pub dims: Vec<usize>,
    /// Whether its elements are integers, which are indices and never train.
    pub integers: bool,
}

/// Where a parameter of a set lives.
#[derive(Clone, Debug)]
pub struct ParamPlace<'a> {
    /// Name of the adapter.
    pub adapter: &'a str,
    /// Its method.
    pub method: &'a AnyMethod,
    /// The site; `None` for what the layers share.
    pub info: Option<&'a SiteInfo>,
    /// The method's name of the parameter.
    pub param: Cow<'static, str>,
    /// Burn's id of the parameter.
    pub id: ParamId,
    /// Whether it is stored and never trained.
    pub fixed: bool,
    /// How many things a parameter of integers points into: one number, or one for each of its rows.
    pub limits: Vec<usize>,
}

impl ParamPlace<'_> {
    /// The key of the parameter in a storage format, for an adapter of `host` stored as `name`.
    pub fn key(&self, format: Format, name: &str, host: &dyn Host) -> String {
        let [own, _] = self.keys(format, name, host);
        own
    }

    /// The keys a file may have for it: that of the model's own class, and that of a class around or inside it.
    pub fn keys(&self, format: Format, name: &str, host: &dyn Host) -> [String; 2] {
        let prefix = host.base_prefix();
        let (key, at_a_path) = match self.info {
            Some(info) => {
                let key = self.method.key(format, info, name, &self.param);
                let at_a_path = key.starts_with(&info.path);
                (key, at_a_path)
            }
            None => (self.method.shared_key(format, name, &self.param), false),
        };
        if self.info.is_none() && format == Format::Peft {
            return [key.clone(), key];
        }
        let [own, other] = match (host.is_larger_class(), at_a_path) {
            (false, _) => [key.clone(), format!("{prefix}{key}")],
            // What is at no site's path lives in the model inside.
            (true, false) => [format!("{prefix}{key}"), key],
            (true, true) => [key.clone(), key.strip_prefix(prefix).unwrap_or(&key).to_owned()],
        };
        let of_format = match self.info {
            Some(_) => format.key_prefix(),
            None => "",
        };
        [own, other].map(|key| format!("{of_format}{key}"))
    }

    /// Its shape in a storage format, from its own.
    pub fn stored_shape(&self, format: Format, shape: Vec<usize>) -> Vec<usize> {
        match self.info {
            Some(info) => self.method.stored_shape(format, info, &self.param, shape),
            None => shape,
        }
    }

    /// Path of the module it belongs to in the published checkpoint, or `shared`.
    pub fn path(&self) -> &str {
        self.info.map_or("shared", |info| &info.path)
    }
}
