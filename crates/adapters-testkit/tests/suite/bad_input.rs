//! Bad files and configurations: each is refused by an error of its own that names the file and the key.

use std::error::Error as StdError;
use std::fs;
use std::path::{Path, PathBuf};

use adapters::core::ConfigError;
use adapters::core::Tensors;
use adapters::models::{Model, ModelError, Pretrained};
use adapters::module::values;
use adapters::nn::UnknownName;
use adapters::store::{LoadOptions, StoreError, TensorProblem, load_adapter, read_safetensors, write_safetensors};
use adapters::{AdapterSet, Error, METHODS, method};
use adapters_testkit::contract::relative_error;
use burn::tensor::{Device, TensorData};
use serde_json::Value;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/bert")
}

/// A copy of the base checkpoint and of one case's adapter, to be damaged.
struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self::with("lora")
    }

    fn with(case: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (from, to) in [
            (golden().join("base"), "base"),
            (golden().join("cases").join(case).join("adapters/a"), "a"),
        ] {
            let to = dir.path().join(to);
            fs::create_dir(&to).unwrap();
            for entry in fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        Self { dir }
    }

    fn path(&self, rest: &str) -> PathBuf {
        self.dir.path().join(rest)
    }

    fn model(&self) -> Result<Model, ModelError> {
        Pretrained::open(self.path("base"))?.encoder(&Device::flex())
    }

    /// Loads the adapter into a set that already has one; on error the set must be as it was.
    fn adapter(&self, allow_bin: bool) -> Result<AdapterSet, StoreError> {
        let device = Device::flex();
        let model = self.model().unwrap();
        let mut set = AdapterSet::new();
        set.attach("first", method("lora").unwrap(), &model, 0, &device)
            .unwrap();
        let before = (set.to_string(), values(&set));
        let options = LoadOptions {
            allow_bin,
            ..LoadOptions::default()
        };
        match load_adapter(&self.path("a"), &mut set, &model, &METHODS, &options, &device) {
            Ok(_) => Ok(set),
            Err(error) => {
                assert!(
                    before == (set.to_string(), values(&set)),
                    "a refused adapter changed the set"
                );
                Err(error)
            }
        }
    }

    fn edit_tensors(&self, file: &str, change: impl FnOnce(&mut Tensors)) {
        let (mut tensors, _) = read_safetensors(&self.path(file)).unwrap();
        change(&mut tensors);
        write_safetensors(&self.path(file), &tensors, []).unwrap();
    }

    fn edit_json(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let mut json: Value = serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap();
        change(&mut json);
        fs::write(self.path(file), json.to_string()).unwrap();
    }
}

/// An error with its causes.
fn message(error: &dyn StdError) -> String {
    let source = error
        .source()
        .map(|source| format!(": {}", message(source)))
        .unwrap_or_default();
    format!("{error}{source}")
}

fn names(error: &dyn StdError, parts: &[&str]) {
    let message = message(error);
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// What is wrong with an adapter's configuration file.
fn in_file(error: &StoreError) -> &Error {
    match error {
        StoreError::ConfigFile { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

const MODEL: &str = "base/model.safetensors";
const ADAPTER: &str = "a/adapter.safetensors";
const MODEL_KEY: &str = "encoder.layer.1.attention.self.query.weight";
const ADAPTER_KEY: &str = "encoder.layer.1.attention.self.query.loras.a.lora_A";

/// Damages the model's and the adapter's file alike and hands over what loading says.
fn both(damage: impl Fn(&Scratch, &str, &str), check: impl Fn(&StoreError, &str)) {
    let scratch = Scratch::new();
    damage(&scratch, MODEL, MODEL_KEY);
    match scratch.model().unwrap_err() {
        ModelError::Store(error) => {
            names(&error, &["model.safetensors"]);
            check(&error, MODEL_KEY);
        }
        other => panic!("{other:?}"),
    }
    let scratch = Scratch::new();
    damage(&scratch, ADAPTER, ADAPTER_KEY);
    let error = scratch.adapter(false).unwrap_err();
    names(&error, &["adapter.safetensors"]);
    check(&error, ADAPTER_KEY);
}

/// The one problem of a file.
fn only_problem(error: &StoreError) -> TensorProblem {
    match error {
        StoreError::Mismatch { problems, .. } if problems.len() == 1 => problems[0].clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn undamaged_files_load() {
    let scratch = Scratch::new();
    assert_eq!(scratch.adapter(false).unwrap().get("a").unwrap().params().count(), 8);
}

#[test]
fn truncated_files() {
    for keep in [0, 7, 100, -1] {
        both(
            |scratch, file, _| {
                let bytes = fs::read(scratch.path(file)).unwrap();
                let keep = usize::try_from(keep).unwrap_or(bytes.len() - 1);
                fs::write(scratch.path(file), &bytes[..keep]).unwrap();
            },
            |error, _| assert!(matches!(error, StoreError::Safetensors { .. }), "{keep}: {error:?}"),
        );
    }
}

#[test]
fn oversized_headers() {
    for length in [u64::MAX, 1 << 40, 200_000_000] {
        both(
            |scratch, file, _| {
                let mut bytes = fs::read(scratch.path(file)).unwrap();
                bytes[..8].copy_from_slice(&length.to_le_bytes());
                fs::write(scratch.path(file), bytes).unwrap();
            },
            |error, _| assert!(matches!(error, StoreError::Safetensors { .. }), "{length}: {error:?}"),
        );
    }
}

#[test]
fn missing_keys() {
    both(
        |scratch, file, key| scratch.edit_tensors(file, |tensors| assert!(tensors.remove(key).is_some())),
        |error, key| {
            assert!(
                matches!(only_problem(error), TensorProblem::Missing { key: found, .. } if found == key),
                "{error:?}"
            );
            names(error, &[&format!("`{key}` is missing")]);
        },
    );
}

#[test]
fn misspelled_keys_are_both_named() {
    both(
        |scratch, file, key| {
            scratch.edit_tensors(file, |tensors| {
                let data = tensors.remove(key).unwrap();
                tensors.insert(key.replace("query", "qurey"), data);
            });
        },
        |error, key| {
            let slip = key.replace("query", "qurey");
            names(
                error,
                &[
                    &format!("`{key}` is missing; the nearest unused key is `{slip}`"),
                    &format!("`{slip}` is not expected"),
                ],
            );
        },
    );
}

#[test]
fn extra_keys() {
    both(
        |scratch, file, _| {
            scratch.edit_tensors(file, |tensors| {
                drop(tensors.insert("odd.weight".to_owned(), TensorData::from([1.0f32])))
            });
        },
        |error, _| {
            assert!(
                matches!(only_problem(error), TensorProblem::Unexpected { key } if key == "odd.weight"),
                "{error:?}"
            );
            names(error, &["`odd.weight` is not expected"]);
        },
    );
}

#[test]
fn wrong_shapes() {
    both(
        |scratch, file, key| {
            scratch.edit_tensors(file, |tensors| {
                drop(tensors.insert(key.to_owned(), TensorData::from([[1.0f32, 2.0]])))
            });
        },
        |error, key| {
            match only_problem(error) {
                TensorProblem::Shape {
                    key: found,
                    found: shape,
                    ..
                } => assert_eq!((found.as_str(), shape), (key, vec![1, 2])),
                other => panic!("{other:?}"),
            }
            names(error, &[&format!("`{key}` has shape [1, 2], expected [")]);
        },
    );
}

#[test]
fn whole_numbers_where_floats_belong() {
    both(
        |scratch, file, key| {
            scratch.edit_tensors(file, |tensors| {
                let shape = tensors[key].shape();
                let data = TensorData::new(vec![1i64; shape.iter().product()], shape);
                tensors.insert(key.to_owned(), data);
            });
        },
        |error, key| {
            assert!(
                matches!(only_problem(error), TensorProblem::DType { key: found, .. } if found == key),
                "{error:?}"
            );
            names(error, &[&format!("`{key}` has element type I64, expected a float")]);
        },
    );
}

#[test]
fn nan_and_infinite_weights() {
    for bad in [f32::NAN, f32::INFINITY] {
        both(
            |scratch, file, key| {
                scratch.edit_tensors(file, |tensors| {
                    let data = &tensors[key];
                    let mut values: Vec<f32> = data.iter().collect();
                    values[3] = bad;
                    let data = TensorData::new(values, data.shape());
                    tensors.insert(key.to_owned(), data);
                });
            },
            |error, key| {
                let expected = TensorProblem::NotFinite {
                    key: key.to_owned(),
                    index: 3,
                };
                assert_eq!(only_problem(error), expected);
                names(error, &[&format!("`{key}` is not finite at element 3")]);
            },
        );
    }
}

#[test]
fn an_unknown_architecture() {
    let scratch = Scratch::new();
    scratch.edit_json("base/config.json", |config| config["model_type"] = "brt".into());
    let error = scratch.model().unwrap_err();
    match &error {
        ModelError::UnknownArchitecture { found, nearest, .. } => {
            assert_eq!((found.as_str(), nearest.as_deref()), ("brt", Some("bert")))
        }
        other => panic!("{other:?}"),
    }
    names(
        &error,
        &[
            "config.json",
            "unknown architecture `brt`; did you mean `bert`?",
            "supported: albert",
        ],
    );
}

#[test]
fn a_model_configuration_that_cannot_be() {
    let scratch = Scratch::new();
    scratch.edit_json("base/config.json", |config| config["num_attention_heads"] = 5.into());
    let error = scratch.model().unwrap_err();
    assert!(
        matches!(
            &error,
            ModelError::Config {
                field: "hidden_size",
                ..
            }
        ),
        "{error:?}"
    );
    names(
        &error,
        &["config.json", "`hidden_size` is 32", "num_attention_heads = 5"],
    );

    scratch.edit_json("base/config.json", |config| {
        config["num_attention_heads"] = "four".into()
    });
    let error = scratch.model().unwrap_err();
    assert!(
        matches!(&error, ModelError::Store(StoreError::Json { .. })),
        "{error:?}"
    );
    names(&error, &["config.json", "four"]);

    fs::write(scratch.path("base/config.json"), "{").unwrap();
    let error = scratch.model().unwrap_err();
    assert!(
        matches!(&error, ModelError::Store(StoreError::Json { .. })),
        "{error:?}"
    );
    names(&error, &["config.json", "line 1"]);
}

#[test]
fn folders_without_their_files() {
    let scratch = Scratch::new();
    fs::remove_file(scratch.path(MODEL)).unwrap();
    let error = scratch.model().unwrap_err();
    assert!(matches!(&error, ModelError::NotACheckpoint { .. }), "{error:?}");
    names(&error, &["base", "model.safetensors"]);
    fs::remove_file(scratch.path("base/config.json")).unwrap();
    names(&scratch.model().unwrap_err(), &["base", "config.json"]);

    for (file, missing) in [
        (ADAPTER, "adapter.safetensors (or pytorch_adapter.bin)"),
        ("a/adapter_config.json", "adapter_config.json"),
    ] {
        let scratch = Scratch::with("lora_all");
        fs::remove_file(scratch.path(file)).unwrap();
        let error = scratch.adapter(true).unwrap_err();
        assert!(matches!(&error, StoreError::NotAnAdapter { .. }), "{error:?}");
        names(&error, &["/a ", missing]);
    }
}

#[test]
fn an_adapter_of_an_unknown_method() {
    for (case, change) in [
        (
            "lora",
            (|config| config["config"]["architecture"] = "lorra".into()) as fn(&mut Value),
        ),
        ("peft_lora", |config| config["peft_type"] = "LORRA".into()),
    ] {
        let scratch = Scratch::with(case);
        scratch.edit_json("a/adapter_config.json", change);
        let error = scratch.adapter(false).unwrap_err();
        assert!(
            matches!(
                in_file(&error),
                Error::UnknownName(UnknownName {
                    what: "adapter method",
                    ..
                })
            ),
            "{error:?}"
        );
        names(
            &error,
            &[
                "a/adapter_config.json",
                "unknown adapter method",
                "known: bottleneck, shadow, adalora",
            ],
        );
    }
}

#[test]
fn an_adapter_configuration_that_cannot_be() {
    for (case, change, expected) in [
        (
            "lora",
            (|config| config["config"]["r"] = 0.into()) as fn(&mut Value),
            "`r` is 0, expected 1 to 65536",
        ),
        (
            "peft_lora",
            |config| config["r"] = 0.into(),
            "`r` is 0, expected 1 to 65536",
        ),
        ("lora", |config| config["config"]["alpha"] = "much".into(), "much"),
        (
            "lora",
            |config| config["config"]["init_weights"] = "gauss".into(),
            "unknown variant `gauss`",
        ),
        (
            "lora",
            |config| {
                config["config"]["use_dora"] = true.into();
                config["config"]["lora_bias"] = true.into();
            },
            "`lora_bias` = true with a variant of LoRA is not supported",
        ),
        (
            "peft_lora",
            |config| config["megatron_config"] = serde_json::json!({"a": 1}),
            "`megatron_config`",
        ),
    ] {
        let scratch = Scratch::with(case);
        scratch.edit_json("a/adapter_config.json", change);
        let error = scratch.adapter(false).unwrap_err();
        match in_file(&error) {
            Error::Config { method, source } => {
                assert!(["lora", "dora"].contains(method), "{method}");
                assert!(source.is::<ConfigError>());
            }
            other => panic!("{other:?}"),
        }
        names(&error, &["a/adapter_config.json", expected]);
    }
}

#[test]
fn an_adapter_for_sites_the_model_lacks() {
    let scratch = Scratch::with("peft_lora");
    scratch.edit_json("a/adapter_config.json", |config| {
        config["target_modules"] = serde_json::json!(["query", "valve"])
    });
    let error = scratch.adapter(false).unwrap_err();
    match &error {
        StoreError::Adapter(Error::NoTarget { target, nearest, .. }) => {
            assert_eq!((target.as_str(), nearest.as_deref()), ("valve", Some("value")))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn slips_in_a_config_string() {
    let error = method("lora[alhpa=4]").unwrap_err();
    match &error {
        Error::Config { source, .. } => match source.downcast_ref() {
            Some(ConfigError::UnknownField { field, nearest, .. }) => {
                assert_eq!((field.as_str(), nearest.as_deref()), ("alhpa", Some("alpha")));
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    names(&error, &["unknown field `alhpa`; did you mean `alpha`?"]);

    let error = method("lora[r=0]").unwrap_err();
    match &error {
        Error::Config { source, .. } => assert!(matches!(
            source.downcast_ref(),
            Some(ConfigError::OutOfRange { field: "r", .. })
        )),
        other => panic!("{other:?}"),
    }
    names(&error, &["`r` is 0, expected 1 to 65536"]);

    assert!(
        matches!(method("lorra"), Err(Error::UnknownName(UnknownName { nearest: Some(near), .. })) if near == "lora")
    );
    assert!(matches!(method("lora[r=4"), Err(Error::ConfigString { .. })));
    assert!(matches!(method("lora|lora"), Err(Error::UnionConflict { .. })));
}

#[test]
fn a_pickle_is_read_only_when_allowed_and_then_gives_the_same_tensors() {
    let scratch = Scratch::new();
    let from_safetensors = scratch.adapter(false).unwrap();
    fs::remove_file(scratch.path(ADAPTER)).unwrap();
    let error = scratch.adapter(false).unwrap_err();
    assert!(matches!(&error, StoreError::PickleNotAllowed { .. }), "{error:?}");
    names(&error, &["pytorch_adapter.bin", "--allow-bin"]);

    let from_pickle = scratch.adapter(true).unwrap();
    let tensors = |set: &AdapterSet| {
        let mut values = values(set);
        let adapter = set.get("a").unwrap();
        adapter
            .params()
            .map(|p| (format!("{} {}", p.path(), p.param), values.remove(&p.id).unwrap()))
            .collect::<Vec<_>>()
    };
    let (one, other) = (tensors(&from_safetensors), tensors(&from_pickle));
    assert_eq!(one.len(), 8);
    assert_eq!(one, other);
    assert!(one.iter().all(|(_, data)| relative_error(data, data) == 0.0));
}

#[test]
fn a_damaged_pickle() {
    let scratch = Scratch::new();
    fs::remove_file(scratch.path(ADAPTER)).unwrap();
    let bin = scratch.path("a/pytorch_adapter.bin");
    let whole = fs::read(&bin).unwrap();
    for bytes in [&whole[..whole.len() / 2], &b"cos\nsystem\n(S'true'\ntR."[..], &[]] {
        fs::write(&bin, bytes).unwrap();
        let error = scratch.adapter(true).unwrap_err();
        assert!(
            matches!(&error, StoreError::Pytorch { .. } | StoreError::Mismatch { .. }),
            "{error:?}"
        );
        names(&error, &["pytorch_adapter.bin"]);
    }
}
