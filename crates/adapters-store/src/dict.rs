//! Compositions as the reference's files hold them.
//!
//! ```json
//! {"type": "Stack", "children": [
//!     {"type": "single", "children": ["a"]},
//!     {"type": "Split", "children": [{"type": "single", "children": ["b"]}, {"type": "single", "children": ["c"]}],
//!      "kwargs": {"splits": [2, 5]}}
//! ]}
//! ```
//!
//! It is what `AdapterCompositionBlock.to_dict()` gives. Two lines differ from the reference, both on purpose:
//!
//! - A `Fuse` with a name of its own is written with `"kwargs": {"name": ..}`. The reference loses the name, and then
//!   looks for the fusion layer under another one; its `from_dict()` reads ours.
//! - `weights` are read as they are. They were normalized, or meant not to be, before they were written; the reference's
//!   `from_dict()` normalizes them again.

use adapters_core::Composition;
use adapters_methods::OneOrMany;
use serde::{Deserialize, Serialize};

/// A composition, or a node of one, in its file form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum CompositionDict {
    /// [`Composition::Adapter`].
    #[serde(rename = "single")]
    Single {
        /// Its name.
        children: [String; 1],
    },
    /// [`Composition::Stack`].
    Stack {
        /// The children.
        children: Vec<Self>,
    },
    /// [`Composition::Fuse`].
    Fuse {
        /// The children.
        children: Vec<Self>,
        /// The name, where it has one of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kwargs: Option<FuseArguments>,
    },
    /// [`Composition::Split`].
    Split {
        /// The children.
        children: Vec<Self>,
        /// The positions.
        kwargs: SplitArguments,
    },
    /// [`Composition::BatchSplit`].
    BatchSplit {
        /// The children.
        children: Vec<Self>,
        /// The rows.
        kwargs: BatchSplitArguments,
    },
    /// [`Composition::Parallel`].
    Parallel {
        /// The children.
        children: Vec<Self>,
    },
    /// [`Composition::Average`].
    Average {
        /// The children.
        children: Vec<Self>,
        /// The weights.
        #[serde(default)]
        kwargs: AverageArguments,
    },
    /// [`Composition::MultiTask`].
    MultiTask {
        /// The children.
        children: Vec<Self>,
    },
}

/// The keyword arguments of a `Fuse`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuseArguments {
    /// Name of the fusion layer.
    #[serde(default)]
    pub name: Option<String>,
}

/// The keyword arguments of a `Split`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitArguments {
    /// Positions of each child, or of all alike.
    pub splits: OneOrMany,
}

/// The keyword arguments of a `BatchSplit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSplitArguments {
    /// Rows of each child, or of all alike.
    pub batch_sizes: OneOrMany,
}

/// The keyword arguments of an `Average`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AverageArguments {
    /// The weights; `1 / n` each where there are none.
    pub weights: Option<Vec<f64>>,
    /// Whether they are to be divided by their sum.
    #[serde(skip_serializing)]
    pub normalize_weights: bool,
}

impl From<CompositionDict> for Composition {
    /// Nesting rules are left to [`Composition::validate`].
    fn from(dict: CompositionDict) -> Self {
        use CompositionDict as D;
        let all = |children: Vec<D>| children.into_iter().map(Self::from).collect::<Vec<_>>();
        let each = |sizes, children: &[Self]| match sizes {
            OneOrMany::One(size) => vec![size; children.len()],
            OneOrMany::Many(sizes) => sizes,
        };
        match dict {
            D::Single { children: [name] } => Self::Adapter(name),
            D::Stack { children } => Self::Stack(all(children)),
            D::Parallel { children } => Self::Parallel(all(children)),
            D::MultiTask { children } => Self::MultiTask(all(children)),
            D::Fuse { children, kwargs } => Self::Fuse {
                children: all(children),
                name: kwargs.and_then(|kwargs| kwargs.name),
            },
            D::Split { children, kwargs } => {
                let children = all(children);
                let splits = each(kwargs.splits, &children);
                Self::Split { children, splits }
            }
            D::BatchSplit { children, kwargs } => {
                let children = all(children);
                let batch_sizes = each(kwargs.batch_sizes, &children);
                Self::BatchSplit { children, batch_sizes }
            }
            D::Average { children, kwargs } => match (kwargs.weights, kwargs.normalize_weights) {
                (None, _) => Self::average(all(children)),
                (Some(weights), true) => Self::weighted_average(all(children), weights),
                (Some(weights), false) => Self::unnormalized_average(all(children), weights),
            },
        }
    }
}

impl From<&Composition> for CompositionDict {
    /// Weights that are not finite, which [`Composition::validate`] refuses, become null in JSON.
    fn from(composition: &Composition) -> Self {
        let children = composition.children().iter().map(Self::from).collect();
        match composition {
            Composition::Adapter(name) => Self::Single {
                children: [name.clone()],
            },
            Composition::Stack(_) => Self::Stack { children },
            Composition::Parallel(_) => Self::Parallel { children },
            Composition::MultiTask(_) => Self::MultiTask { children },
            Composition::Fuse { name, .. } => Self::Fuse {
                children,
                kwargs: name.clone().map(|name| FuseArguments { name: Some(name) }),
            },
            Composition::Split { splits, .. } => Self::Split {
                children,
                kwargs: SplitArguments {
                    splits: OneOrMany::Many(splits.clone()),
                },
            },
            Composition::BatchSplit { batch_sizes, .. } => Self::BatchSplit {
                children,
                kwargs: BatchSplitArguments {
                    batch_sizes: OneOrMany::Many(batch_sizes.clone()),
                },
            },
            Composition::Average { weights, .. } => Self::Average {
                children,
                kwargs: AverageArguments {
                    weights: Some(weights.clone()),
                    normalize_weights: false,
                },
            },
        }
    }
}

/// For a field that holds a composition.
pub(crate) mod field {
    use adapters_core::Composition;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::CompositionDict;

    pub(crate) fn serialize<S: Serializer>(composition: &Composition, serializer: S) -> Result<S::Ok, S::Error> {
        CompositionDict::from(composition).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Composition, D::Error> {
        CompositionDict::deserialize(deserializer).map(Composition::from)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::{Value, json};

    use super::*;

    /// Dictionaries that the reference wrote, from `active` of the golden cases of bert, with their text.
    const WRITTEN: [(&str, &str); 8] = [
        (
            r#"{"type": "Stack", "children": [{"type": "single", "children": ["a"]}]}"#,
            "Stack(a)",
        ),
        (
            r#"{"type": "Stack", "children": [{"type": "single", "children": ["a"]}, {"type": "Fuse", "children": [{"type": "single", "children": ["b"]}, {"type": "single", "children": ["c"]}]}]}"#,
            "Stack(a, Fuse(b, c))",
        ),
        (
            r#"{"type": "Stack", "children": [{"type": "single", "children": ["a"]}, {"type": "Split", "children": [{"type": "single", "children": ["b"]}, {"type": "single", "children": ["c"]}], "kwargs": {"splits": [3, 4]}}]}"#,
            "Stack(a, Split(b, c, splits=[3, 4]))",
        ),
        (
            r#"{"type": "BatchSplit", "children": [{"type": "Stack", "children": [{"type": "single", "children": ["a"]}, {"type": "single", "children": ["b"]}]}, {"type": "single", "children": ["c"]}], "kwargs": {"batch_sizes": [1, 2]}}"#,
            "BatchSplit(Stack(a, b), c, batch_sizes=[1, 2])",
        ),
        (
            r#"{"type": "Parallel", "children": [{"type": "Stack", "children": [{"type": "single", "children": ["a"]}, {"type": "single", "children": ["b"]}]}, {"type": "single", "children": ["c"]}]}"#,
            "Parallel(Stack(a, b), c)",
        ),
        (
            r#"{"type": "Average", "children": [{"type": "single", "children": ["a"]}, {"type": "single", "children": ["b"]}, {"type": "single", "children": ["c"]}], "kwargs": {"weights": [0.3333333333333333, 0.3333333333333333, 0.3333333333333333]}}"#,
            "Average(a, b, c)",
        ),
        (
            r#"{"type": "Average", "children": [{"type": "single", "children": ["a"]}, {"type": "single", "children": ["b"]}], "kwargs": {"weights": [2.0, -0.5]}}"#,
            "Average(a, b, weights=[2.0, -0.5], normalize=false)",
        ),
        (
            r#"{"type": "MultiTask", "children": [{"type": "single", "children": ["a"]}, {"type": "single", "children": ["b"]}]}"#,
            "MultiTask(a, b)",
        ),
    ];

    fn to_dict(composition: &Composition) -> Value {
        serde_json::to_value(CompositionDict::from(composition)).unwrap()
    }

    fn read(dict: &Value) -> Result<Composition, serde_json::Error> {
        serde_json::from_value::<CompositionDict>(dict.clone()).map(Composition::from)
    }

    /// Reads, checks and writes a dictionary of the reference.
    fn round_trip(dict: &Value, from: &str) -> Composition {
        let setup = read(dict).unwrap_or_else(|error| panic!("{from}: {error}"));
        assert_eq!(setup.validate(), Ok(()), "{from}");
        assert_eq!(&to_dict(&setup), dict, "{from}");
        assert_eq!(setup.to_string().parse::<Composition>().as_ref(), Ok(&setup), "{from}");
        setup
    }

    #[test]
    fn dictionaries_of_the_reference_reprint_equal() {
        for (dict, text) in WRITTEN {
            let setup = round_trip(&serde_json::from_str(dict).unwrap(), text);
            assert_eq!(setup.to_string(), text);
            let compact = dict.replace(": ", ":").replace(", ", ",");
            assert_eq!(to_dict(&setup).to_string(), compact, "the order of the keys");
        }
    }

    /// All dictionaries of the golden cases in the repository, and of those in `ADAPTERS_GOLDEN_DIR` if that is set.
    #[test]
    fn golden_dictionaries_reprint_equal() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters-testkit/golden");
        let larger = std::env::var_os("ADAPTERS_GOLDEN_DIR").map(PathBuf::from);
        for folder in [own].into_iter().chain(larger) {
            let mut count = 0;
            for case in entries(&folder).iter().flat_map(|model| entries(&model.join("cases"))) {
                let Ok(text) = fs::read_to_string(case.join("case.json")) else {
                    continue;
                };
                let case_json: Value = serde_json::from_str(&text).unwrap();
                let active = &case_json["active"];
                if case_json["framework"] == "adapters" && !active.is_null() {
                    round_trip(active, &case.display().to_string());
                    count += 1;
                }
            }
            assert!(count >= 20, "{count} golden cases in {}", folder.display());
        }
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).map_or_else(|_| Vec::new(), |dir| dir.flatten().map(|entry| entry.path()).collect())
    }

    #[test]
    fn a_fusion_keeps_its_name_and_one_size_stands_for_all() {
        let named = Composition::named_fuse("f", ["a", "b"]);
        assert_eq!(read(&to_dict(&named)).unwrap(), named);
        let mut split = to_dict(&Composition::split(["a", "b"], [4, 4]));
        split["kwargs"]["splits"] = json!(4);
        assert_eq!(read(&split).unwrap(), Composition::split(["a", "b"], [4, 4]));
    }

    #[test]
    fn what_is_no_composition_is_refused_by_name() {
        let single = |name: &str| json!({"type": "single", "children": [name]});
        for (dict, named) in [
            (json!({"children": []}), "missing field `type`"),
            (
                json!({"type": "Stack", "children": [single("a"), {"type": "fuse", "children": []}]}),
                "unknown variant `fuse`, expected one of `single`, `Stack`",
            ),
            (json!({"type": "Stack"}), "missing field `children`"),
            (json!({"type": "Split", "children": []}), "missing field `kwargs`"),
            (
                json!({"type": "Stack", "children": [], "kwargs": {"splits": 1}}),
                "unknown field `kwargs`",
            ),
            (
                json!({"type": "Fuse", "children": [], "kwargs": {"nome": "x"}}),
                "unknown field `nome`, expected `name`",
            ),
        ] {
            let error = read(&dict).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
