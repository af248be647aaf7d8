//! Modules by name in peft's configurations.

use adapters_core::ConfigError;
use adapters_core::target::{ModuleNames, ModulePattern, ModuleTarget, Target};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How peft's configurations name modules, with every field that is not read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredFields")]
pub struct ModuleFields {
    /// Names, a regular expression, or `all-linear`.
    pub target_modules: Option<ModulePattern>,
    /// Modules to leave alone.
    pub exclude_modules: Option<ModulePattern>,
    /// Only these layers.
    pub layers_to_transform: Option<OneOrMany>,
    /// The components of a path before the number of a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_pattern: Option<ModuleNames>,
    /// Every other field, kept and written back.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The fields as they are read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredFields {
    target_modules: Option<ModulePattern>,
    exclude_modules: Option<ModulePattern>,
    layers_to_transform: Option<OneOrMany>,
    layers_pattern: Option<ModuleNames>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl TryFrom<StoredFields> for ModuleFields {
    type Error = String;

    fn try_from(stored: StoredFields) -> Result<Self, String> {
        let layers = stored.layers_to_transform.as_ref();
        let layers = layers.filter(|layers| **layers != OneOrMany::Many(Vec::new()));
        let none = ModulePattern::Names(Vec::new());
        let chosen = [
            (
                "exclude_modules",
                stored.exclude_modules.as_ref().is_some_and(|pattern| *pattern != none),
            ),
            ("layers_to_transform", layers.is_some()),
        ];
        match chosen
            .iter()
            .find(|(_, is_set)| *is_set && stored.target_modules.is_none())
        {
            Some((field, _)) => Err(chooses_among_none(field)),
            None => Ok(Self {
                target_modules: stored.target_modules,
                exclude_modules: stored.exclude_modules,
                layers_to_transform: stored.layers_to_transform,
                layers_pattern: stored.layers_pattern,
                extra: stored.extra,
            }),
        }
    }
}

/// The refusal of a field that chooses among modules where none are named: it would have no effect.
pub fn chooses_among_none(field: &str) -> String {
    format!("`{field}` chooses among the modules of `target_modules`, expected that field too, found none")
}

/// One number or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a whole number that is not below 0, or a list of them"
)]
pub enum OneOrMany {
    /// One.
    One(usize),
    /// A list.
    Many(Vec<usize>),
}

impl ModuleFields {
    /// The modules named; `otherwise` if none are.
    pub fn target_or(&self, otherwise: Target) -> Target {
        self.target().map_or(otherwise, Target::Modules)
    }

    /// The modules named; `None` if none are.
    pub fn target(&self) -> Option<ModuleTarget> {
        Some(ModuleTarget {
            modules: self.target_modules.clone()?,
            exclude: self.exclude_modules.clone(),
            layers: self.layers_to_transform.clone().map(|layers| match layers {
                OneOrMany::One(layer) => vec![layer],
                OneOrMany::Many(layers) => layers,
            }),
            layers_pattern: self.layers_pattern.clone(),
        })
    }

    /// The fields of a target, with others next to them.
    pub fn of(target: ModuleTarget, extra: Map<String, Value>) -> Self {
        Self {
            target_modules: Some(target.modules),
            exclude_modules: target.exclude,
            layers_to_transform: target.layers.map(OneOrMany::Many),
            layers_pattern: target.layers_pattern,
            extra,
        }
    }

    /// Refuses the first of `fields`, which change what is computed, that has a value other than its default.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unsupported`].
    pub fn refuse(&self, fields: &[&'static str]) -> Result<(), ConfigError> {
        for field in fields {
            if let Some(value) = self.extra.get(*field).filter(|value| !says_nothing(value)) {
                return Err(ConfigError::Unsupported {
                    field,
                    found: value.to_string(),
                });
            }
        }
        Ok(())
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::String(word) => word == "none",
        Value::Bool(true) | Value::Number(_) => false,
    }
}
