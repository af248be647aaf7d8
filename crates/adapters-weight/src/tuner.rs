//! The shape every method of this crate has: a configuration as peft writes it, that builds layers.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;

use adapters_core::target::{ModuleFields, ModulePattern, Target};
use adapters_core::{
    Attached, Build, ConfigError, ConfigPart, Error, Format, Host, Method, MethodFamily, Regime, Role, Shared,
    SiteInfo, SiteLayer, StoredConfig, config,
};
use burn::tensor::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A method's configuration, field for field as peft's `adapter_config.json` has it, and what it builds.
pub trait Tuner: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name of the family and of the config string, e.g. `"loha"`.
    const NAME: &'static str;
    /// Peft's name, e.g. `"LOHA"`.
    const PEFT_TYPE: &'static str;
    /// Roles of those modules.
    const ROLES: &'static [Role] = &[Role::Query, Role::Value];

    /// The modules adapted when none are named.
    fn default_target() -> Target {
        Target::Roles {
            roles: Self::ROLES.to_vec(),
            leave_out: Vec::new(),
        }
    }

    /// Which modules are adapted.
    fn targets(&self) -> &ModuleFields;

    /// Which modules are adapted.
    fn targets_mut(&mut self) -> &mut ModuleFields;

    /// Checks the fields against their ranges and against each other.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] naming the first field outside its range, [`ConfigError::Unsupported`] for an option
    /// that is not computed.
    fn check(&self) -> Result<(), ConfigError>;

    /// Builds the layer for one module.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] for a module this method has no layer for.
    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error>;

    /// Builds what the layers share.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    fn build_shared(&self, _build: &Build<'_>) -> Result<Shared, Error> {
        Ok(Shared::new())
    }

    /// A schedule for a training run of `steps` steps.
    fn regime(&self, _steps: u64) -> Option<Box<dyn Regime>> {
        None
    }

    /// What training adds to the loss.
    fn penalty(&self, _adapter: &Attached) -> Option<Tensor<1>> {
        None
    }

    /// The key of a parameter below its module's path.
    fn key(param: &str) -> String {
        param.to_owned()
    }

    /// The fields that say it inside the configuration of another method, if there is a place for it.
    fn inside(&self, _outer: &Map<String, Value>) -> Option<Map<String, Value>> {
        None
    }

    /// Those fields of another method's configuration, each with the configuration it stands for.
    fn read_inside(_outer: &Map<String, Value>) -> Vec<(&'static str, Map<String, Value>)> {
        Vec::new()
    }

    /// The key of a parameter below its module's path, in a union.
    fn key_inside(param: &str) -> String {
        Self::key(param)
    }

    /// Whether a key of a file is a tensor that is computed here instead of read.
    fn is_alias(_key: &str) -> bool {
        false
    }

    /// Input and output features of a linear module.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] for a module of another kind.
    fn linear_dims(site: &SiteInfo) -> Result<(usize, usize), Error> {
        site.linear_dims()
            .ok_or_else(|| Self::refuse(site, "it adapts linear layers only"))
    }

    /// The refusal to build at a module.
    fn refuse(site: &SiteInfo, reason: impl Into<String>) -> Error {
        Error::CannotBuild {
            method: Self::NAME,
            path: site.path.clone(),
            reason: reason.into(),
        }
    }

    /// The checked form, which can be attached.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    fn into_method(self) -> Result<Tuned<Self>, ConfigError> {
        self.targets().refuse(REFUSED)?;
        self.check()?;
        Ok(Tuned(self))
    }
}

/// Fields peft's configurations may have that change what is computed or stored, once they say something.
const REFUSED: &[&str] = &[
    "bias",
    "modules_to_save",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
];

/// Implements the access to a configuration's field `targets`.
macro_rules! has_targets {
    () => {
        fn targets(&self) -> &adapters_core::target::ModuleFields {
            &self.targets
        }

        fn targets_mut(&mut self) -> &mut adapters_core::target::ModuleFields {
            &mut self.targets
        }
    };
}

/// Implements [`NamedParams`](adapters_core::NamedParams) from names and fields.
macro_rules! named {
    ($layer:ty: $($name:literal => $field:ident),* $(; optional $($opt_name:literal => $opt:ident),*)? $(; fixed $($fixed:ident),*)?) => {
        impl adapters_core::NamedParams for $layer {
            fn named_params(&self) -> Vec<(std::borrow::Cow<'static, str>, burn::module::ParamId)> {
                let always: Vec<(std::borrow::Cow<'static, str>, _)> = vec![$(($name.into(), self.$field.id)),*];
                let maybe: Vec<Option<(std::borrow::Cow<'static, str>, _)>> =
                    vec![$($(self.$opt.as_ref().map(|param| ($opt_name.into(), param.id))),*)?];
                always.into_iter().chain(maybe.into_iter().flatten()).collect()
            }

            $(fn fixed_params(&self) -> Vec<burn::module::ParamId> {
                vec![$(self.$fixed.id),*]
            })?
        }
    };
}

pub(crate) use {has_targets, named};

/// A checked configuration of one of this crate's methods.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuned<T>(T);

impl<T: Tuner> Tuned<T> {
    /// The configuration.
    pub fn config(&self) -> &T {
        &self.0
    }
}

impl<T: Tuner> fmt::Display for Tuned<T> {
    /// The config string: only what differs from the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defaults = fields_of(&T::default());
        let mut fields = fields_of(&self.0);
        fields.retain(|key, value| defaults.get(key).is_some_and(|default| default != value));
        let part = ConfigPart {
            identifier: T::NAME.to_owned(),
            fields,
        };
        fmt::Display::fmt(&part, f)
    }
}

fn fields_of(config: &impl Serialize) -> Map<String, Value> {
    config::to_fields(config, &[])
}

impl<T: Tuner> Method for Tuned<T> {
    fn family(&self) -> &'static str {
        T::NAME
    }

    fn target(&self) -> Target {
        match self.0.targets().target() {
            Some(modules) => Target::Modules(modules),
            None => T::default_target(),
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        self.0.build(site, build)
    }

    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        self.0.build_shared(build)
    }

    fn key(&self, _format: Format, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        format!("{}.{}", site.path, T::key(param))
    }

    fn inside(&self, format: Format, outer: &Map<String, Value>) -> Option<Map<String, Value>> {
        match format {
            Format::AdapterHub => None,
            Format::Peft => self.0.inside(outer),
        }
    }

    fn key_inside(&self, _format: Format, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        format!("{}.{}", site.path, T::key_inside(param))
    }

    fn is_alias(&self, key: &str) -> bool {
        T::is_alias(key)
    }

    fn regime(&self, steps: u64) -> Option<Box<dyn Regime>> {
        self.0.regime(steps)
    }

    fn penalty(&self, adapter: &Attached) -> Option<Tensor<1>> {
        self.0.penalty(adapter)
    }

    fn wire(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        if format != Format::Peft {
            let refused = ConfigError::NotExpressible {
                format,
                what: "this method",
            };
            return Err(Error::config(T::NAME, refused));
        }
        let mut config = self.0.clone();
        let targets = config.targets_mut();
        targets
            .target_modules
            .get_or_insert_with(|| ModulePattern::naming(sites, host));
        targets.extra.insert("peft_type".to_owned(), T::PEFT_TYPE.into());
        for (field, value) in [("task_type", Value::Null), ("inference_mode", Value::Bool(true))] {
            targets.extra.entry(field).or_insert(value);
        }
        Ok(fields_of(&config))
    }
}

/// Reads the configurations of one method.
pub struct TunerFamily<T>(PhantomData<fn() -> T>);

impl<T> TunerFamily<T> {
    /// The family.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for TunerFamily<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Tuner> Debug for TunerFamily<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }
}

impl<T: Tuner> MethodFamily for TunerFamily<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn identifiers(&self) -> &'static [&'static str] {
        const { &[T::NAME] }
    }

    fn configure(&self, _identifier: &str, fields: Map<String, Value>) -> Result<Arc<dyn Method>, Error> {
        let known = fields_of(&T::default());
        Error::in_config(T::NAME, config::refuse_unknown(&fields, known.keys()))?;
        method::<T>(fields)
    }

    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<Arc<dyn Method>, Error>> {
        let mine = stored.format == Format::Peft && stored.fields.get("peft_type")? == T::PEFT_TYPE;
        mine.then(|| method::<T>(stored.fields.clone()))
    }

    fn inside(&self, stored: &StoredConfig<'_>) -> Vec<(&'static str, Map<String, Value>)> {
        match stored.format {
            Format::AdapterHub => Vec::new(),
            Format::Peft => T::read_inside(stored.fields),
        }
    }
}

/// From fields to a checked method.
fn method<T: Tuner>(fields: Map<String, Value>) -> Result<Arc<dyn Method>, Error> {
    let checked = config::from_fields::<T>(fields).and_then(T::into_method);
    Ok(Arc::new(Error::in_config(T::NAME, checked)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Fourierft;

    #[test]
    fn how_the_base_is_stored_is_kept_and_what_changes_the_computation_is_refused() {
        let read = |field: &str, value: Value| {
            let fields = json!({"peft_type": "FOURIERFT", "target_modules": ["query"], field: value});
            let stored = StoredConfig {
                format: Format::Peft,
                fields: fields.as_object().unwrap(),
                version: None,
                versioned: false,
            };
            TunerFamily::<Fourierft>::new().read(&stored).unwrap()
        };
        let method: Arc<dyn Method> = read("fan_in_fan_out", json!(true)).unwrap();
        let method: &dyn std::any::Any = &*method;
        let tuned: &Tuned<Fourierft> = method.downcast_ref().unwrap();
        assert_eq!(tuned.config().targets().extra["fan_in_fan_out"], json!(true));
        for (field, value) in [("bias", json!("all")), ("modules_to_save", json!(["key"]))] {
            let error = read(field, value).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(format!("{error}: {source}").contains(field), "{error}: {source}");
        }
    }
}
