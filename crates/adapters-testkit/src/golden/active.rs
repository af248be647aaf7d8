//! The composition that a case has active.

use adapters::Composition;
use adapters::store::CompositionDict;
use serde::Deserialize;
use serde_json::Value;

use crate::golden::case::{Case, Framework};
use crate::golden::verdict::Stop;

/// The active composition: a dictionary, or peft's name of one adapter.
pub(super) fn composition(case: &Case) -> Result<Option<Composition>, Stop> {
    if let Some(names) = case.row_adapters() {
        return Ok(Some(Composition::multi_task(names)));
    }
    match (&case.active, case.framework) {
        (Value::Null, _) => Ok(None),
        (Value::String(name), Framework::Peft) => Ok(Some(Composition::adapter(name))),
        // The updates of several active adapters add up.
        (Value::Array(names), Framework::Peft) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            Ok(Some(Composition::sum(names)))
        }
        (dict, _) => match CompositionDict::deserialize(dict) {
            Ok(dict) => Ok(Some(dict.into())),
            Err(error) => Err(Stop::unsupported(error.to_string())),
        },
    }
}

/// A composition without one adapter; `None` if nothing is left.
pub(super) fn without(composition: &Composition, name: &str) -> Result<Option<Composition>, Stop> {
    match composition {
        Composition::Adapter(adapter) if adapter == name => Ok(None),
        other if !other.contains(name) => Ok(Some(other.clone())),
        Composition::Stack(children) => {
            let rest: Vec<Composition> = children
                .iter()
                .filter_map(|child| without(child, name).transpose())
                .collect::<Result<_, _>>()?;
            Ok((!rest.is_empty()).then_some(Composition::Stack(rest)))
        }
        other => Err(Stop::unsupported(format!("merging `{name}` out of {other}"))),
    }
}
