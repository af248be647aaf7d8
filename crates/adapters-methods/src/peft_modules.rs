//! Methods that peft alone has, at modules that its configuration names: one codec for all of them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use adapters_core::config::{from_fields, to_fields};
use adapters_core::target::{ModuleTarget, Target};
use adapters_core::{BaseField, ConfigError, Format, Host, Role, SiteInfo, StoredConfig};

use crate::module_fields::ModuleFields;

/// The fields of a configuration object.
pub type Fields = Map<String, Value>;

/// A configuration that is, field for field, the `adapter_config.json` of a method which only peft has. Implemented, with
/// both codecs, by [`peft_modules!`](crate::peft_modules!).
pub trait PeftModules: Clone + Serialize + DeserializeOwned {
    /// Peft's name, e.g. `"LOHA"`.
    const PEFT_TYPE: &'static str;

    /// See [`Codec::base_fields`](adapters_core::Codec::base_fields).
    const BASE_FIELDS: &'static [BaseField] = &[BaseField::ModulesToSave];

    /// Which modules are adapted.
    fn modules(&self) -> &ModuleFields;

    /// Which modules are adapted.
    fn modules_mut(&mut self) -> &mut ModuleFields;

    /// The key of a parameter below its module's path.
    fn param_key(param: &str) -> String {
        param.to_owned()
    }

    /// The key of a parameter that layers share.
    fn shared_param_key(param: &str) -> String {
        Format::Peft.shared_key("", param)
    }

    /// The shape of a parameter in files; see [`Codec::stored_shape`](adapters_core::Codec::stored_shape).
    fn param_shape(_site: &SiteInfo, _param: &str, shape: Vec<usize>) -> Vec<usize> {
        shape
    }

    /// Whether a key of a file is a tensor that is computed here instead of read.
    fn is_computed(_key: &str) -> bool {
        false
    }

    /// The modules named; query and value where none are.
    fn modules_or_query_and_value(&self) -> Target {
        self.modules().target_or(Target::roles([Role::Query, Role::Value]))
    }

    /// The configuration object of a file.
    fn written(&self, sites: &[&SiteInfo], host: &dyn Host) -> Fields {
        let mut config = self.clone();
        name_modules(Self::PEFT_TYPE, config.modules_mut(), sites, host);
        to_fields(&config, &[])
    }
}

/// Fields of peft's configurations that change what is computed or stored, once they hold a value.
const REFUSED: &[&str] = &["bias", "modules_to_save", "rank_pattern", "alpha_pattern"];

/// Reads an object whose `peft_type` is `name`.
pub fn read_modules<T: DeserializeOwned>(
    name: &str,
    stored: &StoredConfig<'_>,
    modules: impl Fn(&T) -> &ModuleFields,
) -> Option<Result<T, ConfigError>> {
    stored.is_peft(name).then(|| {
        let config: T = from_fields(stored.fields.clone())?;
        modules(&config).refuse(REFUSED)?;
        Ok(config)
    })
}

/// Fills in what peft's object needs beyond the fields of a method: its type, and the modules by name.
pub fn name_modules(name: &str, modules: &mut ModuleFields, sites: &[&SiteInfo], host: &dyn Host) {
    modules
        .target_modules
        .get_or_insert_with(|| ModuleTarget::naming(sites, host));
    modules.extra.insert("peft_type".to_owned(), name.into());
    for (field, value) in [("task_type", Value::Null), ("inference_mode", Value::Bool(true))] {
        modules.extra.entry(field).or_insert(value);
    }
}

/// Implements [`PeftModules`](crate::PeftModules) and both codecs for a configuration with a field `targets` of
/// [`ModuleFields`](crate::ModuleFields): `peft_modules!(Loha: "LOHA");`. What has a default in the
/// trait may follow in braces.
#[macro_export]
macro_rules! peft_modules {
    ($config:ty: $peft_type:literal $({ $($override:tt)* })?) => {
        impl $crate::PeftModules for $config {
            const PEFT_TYPE: &'static str = $peft_type;

            fn modules(&self) -> &$crate::ModuleFields {
                &self.targets
            }

            fn modules_mut(&mut self) -> &mut $crate::ModuleFields {
                &mut self.targets
            }

            $($($override)*)?
        }

        impl $crate::core::Codec<$crate::core::AdapterHub> for $config {}

        impl $crate::core::Codec<$crate::core::Peft> for $config {
            fn read(
                stored: &$crate::core::StoredConfig<'_>,
            ) -> ::std::option::Option<::std::result::Result<Self, $crate::core::ConfigError>> {
                $crate::read_modules(<Self as $crate::PeftModules>::PEFT_TYPE, stored, $crate::PeftModules::modules)
            }

            fn base_fields() -> &'static [$crate::core::BaseField] {
                <Self as $crate::PeftModules>::BASE_FIELDS
            }

            fn write(
                &self,
                sites: &[&$crate::core::SiteInfo],
                host: &dyn $crate::core::Host,
            ) -> ::std::result::Result<$crate::Fields, $crate::core::ConfigError> {
                Ok($crate::PeftModules::written(self, sites, host))
            }

            fn key(&self, site: &$crate::core::SiteInfo, _adapter: &str, param: &str) -> ::std::string::String {
                format!("{}.{}", site.path, <Self as $crate::PeftModules>::param_key(param))
            }

            fn shared_key(&self, _adapter: &str, param: &str) -> ::std::string::String {
                <Self as $crate::PeftModules>::shared_param_key(param)
            }

            fn stored_shape(
                &self,
                site: &$crate::core::SiteInfo,
                param: &str,
                shape: ::std::vec::Vec<usize>,
            ) -> ::std::vec::Vec<usize> {
                <Self as $crate::PeftModules>::param_shape(site, param, shape)
            }

            fn is_duplicate(&self, key: &str) -> bool {
                <Self as $crate::PeftModules>::is_computed(key)
            }
        }
    };
}
