//! The reference's dictionary form, and serde.
//!
//! ```json
//! {"type": "Stack", "children": [
//!     {"type": "single", "children": ["a"]},
//!     {"type": "Split", "children": [{"type": "single", "children": ["b"]}, {"type": "single", "children": ["c"]}],
//!      "kwargs": {"splits": [2, 5]}}
//! ]}
//! ```
//!
//! It is what `AdapterCompositionBlock.to_dict()` gives, and what lies under `adapter_setup` in `adapter_setup.json`.
//! Two lines differ from the reference, both on purpose:
//!
//! - A `Fuse` with a name of its own is written with `"kwargs": {"name": ..}`. The reference loses the name, and then
//!   looks for the fusion layer under another one; its `from_dict()` reads ours.
//! - `weights` are read as they are. They were normalized, or meant not to be, before they were written; the reference's
//!   `from_dict()` normalizes them again.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{BlockKind, Composition, CompositionError, Location, MAX_NESTING, equal_weights, normalized};
use adapters_nn::nearest;

impl Composition {
    /// The dictionary form. Weights that are not finite, which [`Composition::validate`] refuses, become null.
    pub fn to_dict(&self) -> Value {
        let kwargs = match self {
            Self::Adapter(name) => return json!({"type": "single", "children": [name]}),
            Self::Split { splits, .. } => json!({"splits": splits}),
            Self::BatchSplit { batch_sizes, .. } => json!({"batch_sizes": batch_sizes}),
            Self::Average { weights, .. } => json!({"weights": weights}),
            Self::Fuse { name: Some(name), .. } => json!({"name": name}),
            _ => Value::Null,
        };
        let children: Vec<Value> = self.children().iter().map(Self::to_dict).collect();
        let mut dict = Map::new();
        dict.insert("type".to_owned(), self.kind().name().into());
        dict.insert("children".to_owned(), children.into());
        if !kwargs.is_null() {
            dict.insert("kwargs".to_owned(), kwargs);
        }
        dict.into()
    }

    /// Reads the dictionary form. Nesting rules are left to [`Composition::validate`].
    ///
    /// # Errors
    /// What was expected and what was found, with the path to it; unknown keys and keyword arguments are errors too.
    pub fn from_dict(dict: &Value) -> Result<Self, CompositionError> {
        read(dict, &mut Vec::new())
    }
}

type Read<T> = Result<T, CompositionError>;

/// The path to a dictionary, by child indices, and to a key in it.
fn at(path: &[usize], key: &str) -> Location {
    let mut text = "$".to_owned();
    for index in path {
        text.push_str(&format!(".children[{index}]"));
    }
    Location::Dict(text + key)
}

fn unexpected(path: &[usize], key: &str, expected: &str, found: Option<&Value>) -> CompositionError {
    let found = match found {
        None => "nothing".to_owned(),
        Some(Value::Object(_)) => "a dictionary".to_owned(),
        Some(Value::Array(values)) => format!("a list of {}", values.len()),
        Some(value) => format!("`{value}`"),
    };
    CompositionError::Unexpected {
        at: at(path, key),
        expected: expected.to_owned(),
        found,
    }
}

fn read(dict: &Value, path: &mut Vec<usize>) -> Read<Composition> {
    if path.len() >= MAX_NESTING {
        return Err(CompositionError::TooNested {
            at: at(path, ""),
            limit: MAX_NESTING,
        });
    }
    let Value::Object(dict) = dict else {
        return Err(unexpected(
            path,
            "",
            "a dictionary with `type` and `children`",
            Some(dict),
        ));
    };
    if let Some(key) = dict
        .keys()
        .find(|key| !["type", "children", "kwargs"].contains(&key.as_str()))
    {
        let expected = "the keys `type`, `children` and `kwargs` only";
        return Err(unexpected(path, "", expected, Some(&Value::String(key.clone()))));
    }
    let kind = match dict.get("type") {
        Some(Value::String(name)) if name == "single" => BlockKind::Adapter,
        Some(Value::String(name)) => BlockKind::block(name).ok_or_else(|| CompositionError::UnknownBlock {
            at: at(path, ".type"),
            found: name.clone(),
            nearest: nearest(
                name,
                BlockKind::BLOCKS.map(BlockKind::name).into_iter().chain(["single"]),
            ),
        })?,
        other => {
            return Err(unexpected(path, ".type", "the name of a block, or `single`", other));
        }
    };
    let values = match dict.get("children") {
        Some(Value::Array(values)) => values.as_slice(),
        other => return Err(unexpected(path, ".children", "a list", other)),
    };
    if kind == BlockKind::Adapter {
        return match (values, dict.get("kwargs")) {
            ([Value::String(name)], None) => Ok(Composition::Adapter(name.clone())),
            (_, Some(kwargs)) => Err(unexpected(path, ".kwargs", "nothing", Some(kwargs))),
            _ => Err(unexpected(path, ".children", "one adapter name", dict.get("children"))),
        };
    }
    let mut children = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        path.push(index);
        children.push(read(value, path)?);
        path.pop();
    }
    let kwargs = Kwargs::new(kind, dict.get("kwargs"), path)?;
    let count = children.len();
    Ok(match kind {
        // A single adapter has returned above.
        BlockKind::Adapter | BlockKind::Stack => Composition::Stack(children),
        BlockKind::Parallel => Composition::Parallel(children),
        BlockKind::MultiTask => Composition::MultiTask(children),
        BlockKind::Fuse => Composition::Fuse {
            children,
            name: kwargs.name()?,
        },
        BlockKind::Split => Composition::Split {
            children,
            splits: kwargs.sizes("splits", count)?,
        },
        BlockKind::BatchSplit => Composition::BatchSplit {
            children,
            batch_sizes: kwargs.sizes("batch_sizes", count)?,
        },
        BlockKind::Average => Composition::Average {
            children,
            weights: kwargs.weights(count)?,
        },
    })
}

/// The keyword arguments of the block at `path`; all of them are ones that it takes.
struct Kwargs<'a> {
    kind: BlockKind,
    map: Option<&'a Map<String, Value>>,
    path: &'a [usize],
}

impl<'a> Kwargs<'a> {
    fn new(kind: BlockKind, kwargs: Option<&'a Value>, path: &'a [usize]) -> Read<Self> {
        let map = match kwargs {
            None => None,
            Some(Value::Object(map)) => Some(map),
            other => return Err(unexpected(path, ".kwargs", "a dictionary", other)),
        };
        let takes = |key: &str| match kind {
            BlockKind::Average => ["weights", "normalize_weights"].contains(&key),
            _ => kind.arguments().contains(&key),
        };
        match map.and_then(|map| map.keys().find(|key| !takes(key))) {
            None => Ok(Self { kind, map, path }),
            Some(key) => Err(CompositionError::UnknownArgument {
                at: at(path, ".kwargs"),
                block: kind,
                found: key.clone(),
                nearest: nearest(key, kind.arguments().iter().copied()),
            }),
        }
    }

    fn get(&self, argument: &str) -> Option<&'a Value> {
        self.map.and_then(|map| map.get(argument))
    }

    fn unexpected(&self, argument: &str, expected: &str) -> CompositionError {
        unexpected(self.path, &format!(".kwargs.{argument}"), expected, self.get(argument))
    }

    fn name(&self) -> Read<Option<String>> {
        match self.get("name") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(_) => Err(self.unexpected("name", "a name")),
        }
    }

    fn sizes(&self, argument: &'static str, children: usize) -> Read<Vec<usize>> {
        let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        let sizes = match self.get(argument) {
            None => {
                let (at, block) = (at(self.path, ""), self.kind);
                return Err(CompositionError::MissingArgument { at, block, argument });
            }
            Some(Value::Array(values)) => values.iter().map(size).collect(),
            Some(value) => size(value).map(|size| vec![size; children]),
        };
        sizes.ok_or_else(|| self.unexpected(argument, "whole numbers"))
    }

    fn weights(&self, children: usize) -> Read<Vec<f64>> {
        let weights: Vec<f64> = match self.get("weights") {
            None | Some(Value::Null) => return Ok(equal_weights(children)),
            Some(Value::Array(values)) => values.iter().map(Value::as_f64).collect(),
            Some(_) => None,
        }
        .ok_or_else(|| self.unexpected("weights", "a list of numbers"))?;
        match self.get("normalize_weights") {
            None | Some(Value::Bool(false)) => Ok(weights),
            Some(Value::Bool(true)) => Ok(normalized(&weights)),
            Some(_) => Err(self.unexpected("normalize_weights", "true or false")),
        }
    }
}

impl Serialize for Composition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Composition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrDict;

        impl<'de> Visitor<'de> for TextOrDict {
            type Value = Composition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a composition, as text or as a dictionary")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Composition, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Composition, A::Error> {
                let dict = Value::deserialize(MapAccessDeserializer::new(map))?;
                Composition::from_dict(&dict).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(TextOrDict)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;

    /// Any composition with finite weights, valid or not.
    pub(in crate::composition) fn any_composition() -> impl Strategy<Value = Composition> {
        let name = || {
            prop_oneof![
                "[a-z0-9_./@-]{1,6}",
                any::<String>(),
                Just("Stack".to_owned()),
                Just("1e3".to_owned())
            ]
        };
        let weight = prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL;
        name()
            .prop_map(Composition::Adapter)
            .prop_recursive(4, 24, 4, move |child| {
                let children = || prop::collection::vec(child.clone(), 0..4);
                let sizes = || prop::collection::vec(any::<usize>(), 0..4);
                let weights = prop::collection::vec(weight, 0..4);
                let positive = prop::collection::vec(0.1..1e3, 1..4);
                prop_oneof![
                    children().prop_map(Composition::Stack),
                    (children(), prop::option::of(name()))
                        .prop_map(|(children, name)| Composition::Fuse { children, name }),
                    (children(), sizes()).prop_map(|(children, splits)| Composition::Split { children, splits }),
                    (children(), sizes())
                        .prop_map(|(children, batch_sizes)| { Composition::BatchSplit { children, batch_sizes } }),
                    children().prop_map(Composition::Parallel),
                    children().prop_map(Composition::average),
                    (children(), weights).prop_map(|(children, weights)| Composition::Average { children, weights }),
                    (children(), positive)
                        .prop_map(|(children, weights)| { Composition::weighted_average(children, weights) }),
                    children().prop_map(Composition::MultiTask),
                ]
            })
    }

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

    fn message(dict: Value) -> String {
        Composition::from_dict(&dict).unwrap_err().to_string()
    }

    /// Reads, checks and writes a dictionary of the reference.
    fn round_trip(dict: &Value, from: &str) -> Composition {
        let setup = Composition::from_dict(dict).unwrap_or_else(|error| panic!("{from}: {error}"));
        assert_eq!(setup.validate(), Ok(()), "{from}");
        assert_eq!(&setup.to_dict(), dict, "{from}");
        assert_eq!(setup.to_string().parse::<Composition>().as_ref(), Ok(&setup), "{from}");
        setup
    }

    #[test]
    fn dictionaries_of_the_reference_reprint_equal() {
        for (dict, text) in WRITTEN {
            let setup = round_trip(&serde_json::from_str(dict).unwrap(), text);
            assert_eq!(setup.to_string(), text);
            let compact = dict.replace(": ", ":").replace(", ", ",");
            assert_eq!(setup.to_dict().to_string(), compact, "the order of the keys");
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
    fn errors_say_path_expectation_and_finding() {
        let single = |name: &str| json!({"type": "single", "children": [name]});
        for (dict, expected) in [
            (
                json!("a"),
                "`$`: expected a dictionary with `type` and `children`, found `\"a\"`",
            ),
            (
                json!({"children": []}),
                "`$.type`: expected the name of a block, or `single`, found nothing",
            ),
            (
                json!({"type": "Stack", "children": [single("a"), {"type": "fuse", "children": []}]}),
                "`$.children[1].type`: no block is called `fuse`; did you mean `Fuse`?",
            ),
            (json!({"type": "Stack"}), "`$.children`: expected a list, found nothing"),
            (
                json!({"type": "single", "children": ["a", "b"]}),
                "`$.children`: expected one adapter name, found a list of 2",
            ),
            (
                json!({"type": "Split", "children": [single("a")], "kwargs": {"splits": [-1]}}),
                "`$.kwargs.splits`: expected whole numbers, found a list of 1",
            ),
            (
                json!({"type": "Split", "children": []}),
                "`$`: Split needs the argument `splits`",
            ),
            (
                json!({"type": "Stack", "children": [], "kwargs": {"splits": 1}}),
                "`$.kwargs`: Stack takes no arguments, found `splits`",
            ),
            (
                json!({"type": "Stack", "children": [], "name": "x"}),
                "`$`: expected the keys `type`, `children` and `kwargs` only, found `\"name\"`",
            ),
        ] {
            assert_eq!(message(dict), expected);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut dict = json!({"type": "single", "children": ["a"]});
        for _ in 0..MAX_NESTING {
            dict = json!({"type": "Stack", "children": [dict]});
        }
        assert!(message(dict.clone()).ends_with("nested more than 32 levels deep"));
        assert!(Composition::from_dict(&dict["children"][0]).is_ok());
    }

    #[test]
    fn a_fusion_keeps_its_name_and_one_size_stands_for_all() {
        let named = Composition::named_fuse("f", ["a", "b"]);
        assert_eq!(Composition::from_dict(&named.to_dict()), Ok(named));
        let mut split = Composition::split(["a", "b"], [4, 4]).to_dict();
        split["kwargs"]["splits"] = json!(4);
        assert_eq!(
            Composition::from_dict(&split),
            Ok(Composition::split(["a", "b"], [4, 4]))
        );
    }

    #[test]
    fn serde_writes_text_and_reads_both() {
        let setup = Composition::stack(["a".into(), Composition::fuse(["b", "c"])]);
        assert_eq!(serde_json::to_value(&setup).unwrap(), json!("Stack(a, Fuse(b, c))"));
        assert_eq!(
            serde_json::from_value::<Composition>(json!("Stack(a, Fuse(b, c))")).unwrap(),
            setup
        );
        assert_eq!(
            serde_json::from_str::<Composition>(&setup.to_dict().to_string()).unwrap(),
            setup
        );
        let error = serde_json::from_str::<Composition>("3").unwrap_err().to_string();
        assert!(error.contains("a composition, as text or as a dictionary"), "{error}");
    }

    proptest! {
        #[test]
        fn dictionaries_read_back(setup in any_composition()) {
            prop_assert_eq!(Composition::from_dict(&setup.to_dict()), Ok(setup));
        }
    }
}
