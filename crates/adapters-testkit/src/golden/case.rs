//! `case.json`: what a case loads, activates and compares.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::golden::compare::Tolerance;
use crate::golden::verdict::Stop;

/// The library that computed a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framework {
    /// AdapterHub's `adapters`.
    Adapters,
    /// Hugging Face `peft`.
    Peft,
}

/// An operation after loading.
#[derive(Clone, Debug, Deserialize)]
pub struct Op {
    /// Name of the Python method.
    pub op: String,
    /// The adapter, where the method takes one.
    #[serde(default)]
    pub name: Option<String>,
    /// Adapters to combine.
    #[serde(default)]
    pub adapters: Vec<String>,
    /// Their weights.
    #[serde(default)]
    pub weights: Vec<f64>,
    /// AdapterHub's way to combine them.
    #[serde(default)]
    pub combine_strategy: Option<String>,
    /// Peft's way to combine them.
    #[serde(default)]
    pub combination_type: Option<String>,
    /// Whether AdapterHub divides the weights by their sum.
    #[serde(default = "yes")]
    pub normalize_weights: bool,
    /// Rank of what is combined.
    #[serde(default)]
    pub svd_rank: Option<usize>,
    /// Fraction of elements kept.
    #[serde(default)]
    pub density: Option<f64>,
    /// How a sign is elected.
    #[serde(default)]
    pub majority_sign_method: Option<String>,
    /// Adapters that Arrow routes to.
    #[serde(default)]
    pub task: Vec<String>,
    /// Adapters whose mean is taken out of those.
    #[serde(default)]
    pub general: Vec<String>,
    /// How many of them act on a token.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// What Arrow divides its scores by.
    #[serde(default)]
    pub router_temperature: Option<f64>,
    /// Whether the mean is taken out.
    #[serde(default)]
    pub use_gks: bool,
    /// Seed of the power iteration.
    #[serde(default)]
    pub rng_seed: u32,
}

/// One case. Keys that only inform (notes, versions, what the library measured) are not read.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// The library that computed it.
    pub framework: Framework,
    /// Class built from `base/`.
    pub model_class: String,
    /// Field of the model's output that is compared.
    pub output: String,
    /// Name to folder, in loading order.
    pub adapters: Map<String, Value>,
    /// Composition as a dictionary, peft's adapter name or names, or null.
    #[serde(default)]
    pub active: Value,
    /// Operations after loading.
    #[serde(default)]
    pub ops: Vec<Op>,
    /// A file of the case's folder with the arguments of its model call, in place of the model's `inputs.safetensors`.
    #[serde(default)]
    pub inputs: Option<String>,
    /// Whether the model sees the attention mask.
    #[serde(default = "yes")]
    pub use_attention_mask: bool,
    /// Relative tolerance of the output.
    pub rtol: f64,
    /// Absolute tolerance of the output.
    pub atol: f64,
    /// Relative tolerance of gradients.
    pub grad_rtol: f64,
    /// Absolute tolerance of gradients.
    pub grad_atol: f64,
    /// Name to folder of fusions, loaded after the adapters.
    #[serde(default)]
    pub fusion_dirs: Map<String, Value>,
    /// Layers adapters skip.
    #[serde(default)]
    pub skip_layers: Option<Vec<usize>>,
    /// Task of each row.
    #[serde(default)]
    pub task_ids: Option<Vec<usize>>,
    /// Adapters with common parameters.
    #[serde(default)]
    pub shared_parameters: Option<Vec<String>>,
    /// Adapter of each row.
    #[serde(default)]
    pub adapter_names: Option<Vec<String>>,
    /// Tensors next to the adapter files.
    #[serde(default)]
    pub extra_weights: Map<String, Value>,
    /// Configuration values next to the adapter files, by adapter.
    #[serde(default)]
    pub config_overrides: Map<String, Value>,
    /// The attention kernel of the library.
    #[serde(default)]
    pub attn_implementation: Option<String>,
    /// Prediction head.
    #[serde(default)]
    pub head: Option<String>,
    /// Adapters an operation must produce.
    #[serde(default)]
    pub expected_adapters: Map<String, Value>,
}

/// Operations that can run.
const OPS: &[&str] = &[MERGE, RESET, AVERAGE, WEIGHTED, EJECT, ARROW];
/// Routes each token to some of several LoRAs.
pub(crate) const ARROW: &str = "create_arrow_model";
/// Makes an adapter from others, as AdapterHub does.
pub(crate) const AVERAGE: &str = "average_adapter";
/// Makes an adapter from others, as peft does.
pub(crate) const WEIGHTED: &str = "add_weighted_adapter";
/// Leaves the vectors of a prefix in place of what makes them.
pub(crate) const EJECT: &str = "eject_prefix_tuning";
/// Peft's name for a row without an adapter.
const BASE: &str = "__base__";
/// Folds an adapter into the weights.
pub(crate) const MERGE: &str = "merge_adapter";
/// Takes it out again.
pub(crate) const RESET: &str = "reset_adapter";

fn yes() -> bool {
    true
}

impl Case {
    /// The case with more tolerance, for its output and for its gradients.
    pub(crate) fn with_added(mut self, added: Tolerance) -> Self {
        self.rtol += added.relative;
        self.grad_rtol += added.relative;
        self.atol += added.absolute;
        self.grad_atol += added.absolute;
        self
    }

    /// Tolerance of each element of the output.
    pub(crate) fn output_tolerance(&self) -> Tolerance {
        Tolerance {
            relative: self.rtol,
            absolute: self.atol,
        }
    }

    /// Tolerance of each gradient as a whole.
    pub(crate) fn grad_tolerance(&self) -> Tolerance {
        Tolerance {
            relative: self.grad_rtol,
            absolute: self.grad_atol,
        }
    }

    /// Adapter names and folders, in loading order.
    ///
    /// # Errors
    ///
    /// [`Stop::Fail`] for a folder that is not a string.
    pub(crate) fn adapter_dirs(&self) -> Result<Vec<(&str, &str)>, Stop> {
        dirs(&self.adapters)
    }

    /// Names and folders of fusions.
    ///
    /// # Errors
    ///
    /// As [`adapter_dirs`](Self::adapter_dirs).
    pub(crate) fn fusion_dirs(&self) -> Result<Vec<(&str, &str)>, Stop> {
        dirs(&self.fusion_dirs)
    }

    /// The adapters that rows name, each once, where each row names its own.
    pub(crate) fn row_adapters(&self) -> Option<Vec<&str>> {
        let mut names = Vec::new();
        for name in self.adapter_names.as_ref()?.iter().filter(|name| *name != BASE) {
            if !names.contains(&name.as_str()) {
                names.push(name.as_str());
            }
        }
        Some(names)
    }

    /// The task of each row: given, or the index of the adapter it names.
    pub fn tasks(&self) -> Vec<Option<usize>> {
        match (&self.task_ids, &self.adapter_names, self.row_adapters()) {
            (Some(tasks), ..) => tasks.iter().copied().map(Some).collect(),
            (None, Some(rows), Some(names)) => rows
                .iter()
                .map(|row| names.iter().position(|name| name == row))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// What the case asks for that no part of this tool does yet.
    ///
    /// # Errors
    ///
    /// [`Stop::Unsupported`] naming the first such operation, or the first such key and its value.
    pub(crate) fn check_features(&self) -> Result<(), Stop> {
        if let Some(op) = self.ops.iter().find(|op| !OPS.contains(&op.op.as_str())) {
            return Err(Stop::unsupported(format!("op = {}", op.op)));
        }
        Ok(())
    }
}

fn dirs(folders: &Map<String, Value>) -> Result<Vec<(&str, &str)>, Stop> {
    let folder = |(name, dir)| match Value::as_str(dir) {
        Some(dir) => Ok((String::as_str(name), dir)),
        None => Err(Stop::fail(format!("case.json: the folder of `{name}` is {dir}"))),
    };
    folders.iter().map(folder).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn minimal(extra: Value) -> Case {
        let mut case = json!({
            "framework": "peft", "model_class": "M", "output": "o", "adapters": {"z": "adapters/z", "a": "adapters/a"},
            "rtol": 1e-4, "atol": 1e-5, "grad_rtol": 1e-3, "grad_atol": 1e-5, "note": "not read",
        });
        let (Value::Object(fields), Value::Object(more)) = (&mut case, extra) else {
            unreachable!()
        };
        fields.extend(more);
        serde_json::from_value(case).unwrap()
    }

    #[test]
    fn defaults_ask_for_nothing_and_order_is_kept() {
        let case = minimal(json!({"fusion_dirs": {}, "extra_weights": {}, "head": null}));
        assert!(case.check_features().is_ok() && case.use_attention_mask && case.ops.is_empty());
        assert_eq!(case.adapter_dirs().unwrap(), [("z", "adapters/z"), ("a", "adapters/a")]);
    }

    #[test]
    fn a_feature_is_named() {
        let stop = minimal(json!({"ops": [{"op": "merge_adapter"}, {"op": "x", "k": 1}]}))
            .check_features()
            .unwrap_err();
        assert_eq!(stop, Stop::unsupported("op = x"));
    }
}
