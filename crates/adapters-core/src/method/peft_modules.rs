//! Methods that peft alone has, at modules that its configuration names: one codec for all of them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::host::Host;
use crate::method::codec::{AdapterHub, Codec, Peft, StoredConfig};
use crate::method::config::{ConfigError, from_fields, to_fields};
use crate::method::target::{ModuleFields, ModulePattern, Target};
use crate::site::{Role, SiteInfo};

/// A configuration that is, field for field, the `adapter_config.json` of a method which only peft has. It gets both codecs
/// by this.
pub trait PeftModules: Clone + Serialize + DeserializeOwned {
    /// Peft's name, e.g. `"LOHA"`.
    const PEFT_TYPE: &'static str;

    /// Which modules are adapted.
    fn modules(&self) -> &ModuleFields;

    /// Which modules are adapted.
    fn modules_mut(&mut self) -> &mut ModuleFields;

    /// The key of a parameter below its module's path.
    fn param_key(param: &str) -> String {
        param.to_owned()
    }

    /// Whether a key of a file is a tensor that is computed here instead of read.
    fn is_computed(_key: &str) -> bool {
        false
    }

    /// The modules named; query and value where none are.
    fn modules_or_query_and_value(&self) -> Target {
        self.modules().target_or(Target::roles([Role::Query, Role::Value]))
    }
}

impl<T: PeftModules> Codec<AdapterHub> for T {}

impl<T: PeftModules> Codec<Peft> for T {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        read_modules(T::PEFT_TYPE, stored, T::modules)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut config = self.clone();
        name_modules(T::PEFT_TYPE, config.modules_mut(), sites, host);
        Ok(to_fields(&config, &[]))
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        format!("{}.{}", site.path, T::param_key(param))
    }

    fn is_duplicate(&self, key: &str) -> bool {
        T::is_computed(key)
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
    let mine = stored.fields.get("peft_type")? == name;
    mine.then(|| {
        let config: T = from_fields(stored.fields.clone())?;
        modules(&config).refuse(REFUSED)?;
        Ok(config)
    })
}

/// Fills in what peft's object needs beyond the fields of a method: its type, and the modules by name.
pub fn name_modules(name: &str, modules: &mut ModuleFields, sites: &[&SiteInfo], host: &dyn Host) {
    modules
        .target_modules
        .get_or_insert_with(|| ModulePattern::naming(sites, host));
    modules.extra.insert("peft_type".to_owned(), name.into());
    for (field, value) in [("task_type", Value::Null), ("inference_mode", Value::Bool(true))] {
        modules.extra.entry(field).or_insert(value);
    }
}
