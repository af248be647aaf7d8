//! The binary as a user runs it: exit codes, what goes where, and that every output can be read back.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Task, json_of};

fn adapters(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adapters"))
        .current_dir(dir)
        .args(args)
        // As a user runs it: Cargo sets this for tests.
        .env_remove("CARGO_PKG_NAME")
        .output()
        .unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let output = adapters(dir, args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn fails(dir: &Path, args: &[&str], code: i32) -> String {
    let output = adapters(dir, args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stdout.is_empty(), "only results go to standard output");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn methods_that_edit_or_lengthen_rows_train_and_load() {
    let task = Task::new();
    let dir = task.path("");
    for (name, config) in [
        ("loreft", "loreft[r=2]"),
        ("noreft", "noreft[r=2,prefix_positions=2,suffix_positions=1]"),
        ("direft", "direft[r=2,layers=[0],tied_weights=true]"),
        ("prompt", "prompt_tuning[prompt_length=3]"),
        ("bos", "prompt_tuning[prompt_length=2,combine=prefix_after_bos]"),
        (
            "text",
            "prompt_tuning[prompt_length=3,prompt_init=from_string,prompt_init_text='good film']",
        ),
        ("union", "prompt_tuning[prompt_length=2]|loreft[r=2]"),
        ("peft_prompt", "peft_prompt_tuning[num_virtual_tokens=3]"),
        ("p_tuning", "p_tuning[num_virtual_tokens=3,encoder_hidden_size=12]"),
    ] {
        let (config, out) = (format!("adapter.config={config}"), format!("runs/{name}"));
        let train = [
            "train",
            "recipe.toml",
            "--threads",
            "1",
            "--out",
            &out,
            "--set",
            &config,
            "--set",
            "model.max_length=5",
            "--set",
            "train.epochs=8",
        ];
        let pooled = [&train[..], &["--set", "head.pooling=first"]].concat();
        ok(&dir, if name == "bos" { &pooled } else { &train });
        let summary = json_of(&task.path(&format!("{out}/summary.json")));
        let accuracy = summary["test_accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.9, "{name}: {accuracy}");
        let adapter = format!("{out}/adapter");
        let scored = ok(&dir, &["eval", "--adapter", &adapter, "--data", "data/test.jsonl"]);
        assert!(scored.contains(&format!("accuracy {accuracy:.4}")), "{name}: {scored}");
    }
    // The rows of a prompt before the embeddings take positions.
    let config = "adapter.config=peft_prompt_tuning[num_virtual_tokens=3]";
    let refused = fails(
        &dir,
        &["train", "recipe.toml", "--out", "runs/long", "--set", config],
        1,
    );
    assert!(
        refused.contains("at most 5") && refused.contains("takes 3"),
        "{refused}"
    );
}

#[test]
fn an_adapter_on_another_base_is_refused_unless_any_is_accepted() {
    let task = Task::new();
    let dir = task.path("");
    ok(
        &dir,
        &["train", "recipe.toml", "--out", "run", "--set", "train.epochs=1"],
    );
    std::fs::create_dir(task.path("other")).unwrap();
    adapters_testkit::random_bert::write_checkpoint(&task.path("other"), 2, 8, 2);
    std::fs::copy(task.path("model/tokenizer.json"), task.path("other/tokenizer.json")).unwrap();
    let eval = ["eval", "--adapter", "run", "--data", "data/test.jsonl"];
    ok(&dir, &[&eval[..], &["--model", "model"]].concat());
    let refused = fails(&dir, &[&eval[..], &["--model", "other"]].concat(), 1);
    let said = |refused: &str| refused.replace("\n  │ ", " ");
    for part in ["was trained on", "model, and other has", "other values", "--any-base"] {
        assert!(said(&refused).contains(part), "{part}: {refused}");
    }
    ok(&dir, &[&eval[..], &["--model", "other", "--any-base"]].concat());
    let further = [
        "train",
        "recipe.toml",
        "--out",
        "further",
        "--set",
        "adapter.from=run/adapter",
    ];
    let refused = fails(&dir, &[&further[..], &["--set", "model.path=other"]].concat(), 1);
    assert!(
        said(&refused).contains("`model.path` is") && said(&refused).contains("was trained on"),
        "{refused}"
    );
    ok(&dir, &further);
}

#[test]
fn train_eval_predict_info_merge() {
    let task = Task::new();
    let dir = task.path("");
    let said = ok(&dir, &["train", "recipe.toml", "--threads", "1"]);
    assert!(
        said.contains("test accuracy") && said.contains("adapters predict"),
        "{said}"
    );
    let summary = json_of(&task.path("runs/recipe/summary.json"));
    for field in [
        "test_accuracy",
        "trainable_params",
        "total_params",
        "steps",
        "seconds",
        "peak_rss_bytes",
    ] {
        assert!(summary[field].is_number(), "{field}: {summary}");
    }

    // The two commands it names, as it names them.
    for line in said.lines().filter_map(|line| line.trim().strip_prefix("adapters ")) {
        let args: Vec<String> = line
            .split('"')
            .enumerate()
            .flat_map(|(i, part)| match i % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            .collect();
        ok(&dir, &args.iter().map(String::as_str).collect::<Vec<_>>());
    }

    let both = |format: &str| {
        ok(
            &dir,
            &[
                "eval",
                "--adapter",
                &format!("runs/recipe/{format}"),
                "--data",
                "data/test.jsonl",
            ],
        )
    };
    assert_eq!(both("adapter"), both("adapter-peft"), "both formats score alike");
    let accuracy = format!("accuracy {:.4}", summary["test_accuracy"].as_f64().unwrap());
    assert!(
        both("adapter").contains(&accuracy),
        "a loaded adapter scores as the trained one did"
    );

    let labeled = ok(
        &dir,
        &[
            "predict",
            "--adapter",
            "runs/recipe/adapter",
            "--text",
            "good film",
            "--text",
            "bad film",
        ],
    );
    let labels: Vec<&str> = labeled.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(labels, ["good", "bad"]);

    let info = ok(&dir, &["info", "runs/recipe/adapter", "--sites"]);
    assert!(
        info.contains("lora[r=4") && info.contains("encoder.layer.1.attention.self.value"),
        "{info}"
    );
    assert!(ok(&dir, &["info", "model"]).contains("architecture   bert"));

    ok(&dir, &["merge", "--adapter", "runs/recipe/adapter", "--out", "merged"]);
    assert!(ok(&dir, &["info", "merged"]).contains("architecture   bert"));
    let into_itself = fails(
        &dir,
        &["merge", "--adapter", "runs/recipe/adapter", "--out", "model"],
        1,
    );
    assert!(into_itself.contains("never overwritten"), "{into_itself}");

    // The folder of the run does for the one of its adapter, and describes itself.
    let of_run = ok(&dir, &["predict", "--adapter", "runs/recipe", "--text", "good film"]);
    assert!(
        of_run.starts_with("good\t") && of_run.ends_with("\tgood film\n"),
        "{of_run}"
    );
    let described: serde_json::Value = serde_json::from_str(&ok(&dir, &["info", "runs/recipe", "--json"])).unwrap();
    assert_eq!(described["run"], "runs/recipe");
    assert!(described["base"].as_str().unwrap().ends_with("model"), "{described}");
    assert!(described["parameters"].as_u64().unwrap() > 0, "{described}");
    assert!(
        described["rank"].is_u64() && described["alpha"].is_number(),
        "{described}"
    );

    // Fields of a later version.
    let fields = ["unknown_fields", "recipe"].map(|field| described.get(field));
    assert_eq!(fields, [None, None], "{described}");
    let edit = |file: &str, from: &str, to: &str| {
        let path = task.path("runs/recipe").join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    };
    edit("adapter/adapter_config.json", "\"r\":", "\"later\": [1], \"r\":");
    edit("recipe.toml", "epochs", "epoch");
    let described = ok(&dir, &["info", "runs/recipe"]);
    assert!(described.contains("unknown fields later (kept"), "{described}");
    assert!(described.contains("unknown field `epoch`"), "{described}");

    // A folder that does not exist, and a base that was moved.
    let misspelt = fails(&dir, &["predict", "--adapter", "runs/recipes", "--text", "x"], 1);
    assert!(misspelt.contains("did you mean runs/recipe?"), "{misspelt}");
    fs::rename(task.path("model"), task.path("moved")).unwrap();
    let moved = fails(&dir, &["predict", "--adapter", "runs/recipe", "--text", "x"], 1);
    assert!(
        moved.contains("names the base model") && moved.contains("--model"),
        "{moved}"
    );
    ok(
        &dir,
        &["predict", "--adapter", "runs/recipe", "--model", "moved", "--text", "x"],
    );
    fs::rename(task.path("moved"), task.path("model")).unwrap();

    // A second run does not touch the first.
    ok(&dir, &["train", "recipe.toml"]);
    assert!(task.path("runs/recipe-2/summary.json").exists());
    let again = fails(&dir, &["train", "recipe.toml", "--out", "runs/recipe"], 1);
    assert!(again.contains("finished run"), "{again}");
}

#[test]
fn a_trained_prefix_is_ejected() {
    let task = Task::new();
    let dir = task.path("");
    let config = "adapter.config=prefix_tuning[prefix_length=3,bottleneck_size=40]";
    ok(&dir, &["train", "recipe.toml", "--set", config, "--threads", "1"]);
    let said = ok(&dir, &["eject", "--adapter", "runs/recipe/adapter", "--out", "small"]);
    assert!(said.starts_with("tiny: prefix_tuning_flat[prefix_length=3]"), "{said}");
    let numbers = |line: &str| -> Vec<u64> {
        let line = said.lines().find(|l| l.starts_with(line)).unwrap();
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    // Three vectors of width 16 for keys and for values of two layers.
    let (before, after) = (numbers("before:"), numbers("after:"));
    assert_eq!(after[0], 3 * 2 * 2 * 16);
    assert!(before[0] > after[0] && before[1] > after[1], "{said}");
    assert_eq!(json_of(&task.path("small/adapter_config.json"))["config"]["flat"], true);
    let score = |adapter: &str| ok(&dir, &["eval", "--adapter", adapter, "--data", "data/test.jsonl"]);
    assert_eq!(score("small"), score("runs/recipe/adapter"));
    let again = fails(&dir, &["eject", "--adapter", "small", "--out", "smaller"], 1);
    assert!(again.contains("no prefix that an MLP computes"), "{again}");
    let taken = fails(
        &dir,
        &["eject", "--adapter", "runs/recipe/adapter", "--out", "small"],
        1,
    );
    assert!(taken.contains("holds an adapter already"), "{taken}");
}

#[test]
fn numbers_and_several_labels_are_learned_scored_and_predicted() {
    let task = Task::new();
    let dir = task.path("");
    for split in ["train", "validation", "test"] {
        let path = task.path(&format!("data/{split}.jsonl"));
        let lines = fs::read_to_string(&path).unwrap();
        let rewritten = lines.lines().map(|line| {
            let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
            let good = row["label"] == 1;
            row["score"] = (if good { 2.0 } else { -1.0 }).into();
            row["kinds"] = if good {
                serde_json::json!(["good", "any"])
            } else {
                serde_json::json!(["any"])
            };
            row.to_string() + "\n"
        });
        fs::write(&path, rewritten.collect::<String>()).unwrap();
    }
    for (kind, label, figure) in [
        ("regression", "score", "explained"),
        ("multi_label", "kinds", "accuracy"),
    ] {
        let out = format!("runs/{kind}");
        let (kind, label_set) = (format!("head.kind={kind}"), format!("data.fields.label={label}"));
        let set = [
            &kind,
            &label_set,
            "data.labels=[\"any\", \"good\"]",
            "train.epochs=6",
            "head.dropout=0",
        ];
        let mut args = vec!["train", "recipe.toml", "--out", &out];
        args.extend(set.iter().flat_map(|set| ["--set", *set]));
        ok(&dir, &args);
        let summary = json_of(&task.path(&format!("{out}/summary.json")));
        let trained = summary[&format!("test_{figure}")].as_f64().unwrap();
        assert!(trained > 0.9, "{figure} {trained}");
        let adapter = format!("{out}/adapter");
        let model = ["--adapter", &adapter];
        let eval = ok(
            &dir,
            &[
                &["eval", "--data", "data/test.jsonl", "--label-field", label],
                &model[..],
            ]
            .concat(),
        );
        assert!(eval.contains(&format!("{figure} {trained:.4}")), "{eval}");
        let texts = ["--text", "good film", "--text", "bad film"];
        let said = ok(&dir, &[&["predict"], &model[..], &texts[..]].concat());
        let said: Vec<&str> = said.lines().filter_map(|line| line.split('\t').next()).collect();
        match figure {
            "explained" => {
                let numbers: Vec<f64> = said.iter().map(|said| said.parse().unwrap()).collect();
                assert!(numbers[0] > 1.0 && numbers[1] < 0.0, "{numbers:?}");
            }
            _ => assert_eq!(said, ["any|good", "any"]),
        }
    }
}

#[test]
fn mistakes_exit_with_one_and_usage_with_two() {
    let task = Task::new();
    let dir = task.path("");
    fails(&dir, &["nonsense"], 2);
    fails(&dir, &["eval"], 2);
    let tees = fails(&dir, &["combine", "a", "--out", "x", "--combination", "tees"], 2);
    assert!(tees.contains("a similar value exists: 'ties'"), "{tees}");
    for (args, part) in [
        (&["train", "none.toml"][..], "none.toml"),
        (&["train", "recipe.toml", "--set", "train.epoch=1"], "epoch"),
        (
            &["train", "recipe.toml", "--set", "adapter.config=lorra"],
            "did you mean `lora`?",
        ),
        (&["train", "recipe.toml", "--device", "tpu"], "unknown device `tpu`"),
        (
            &["train", "recipe.toml", "--out", "recipe.toml/x"],
            "cannot make the folder",
        ),
        (&["info", "data"], "config.json"),
        (&["info", "nowhere"], "nowhere"),
        (
            &[
                "eval",
                "--adapter",
                "model",
                "--model",
                "model",
                "--data",
                "data/test.jsonl",
            ],
            "is the folder of a model, not of an adapter",
        ),
    ] {
        let said = fails(&dir, args, 1);
        assert!(said.contains(part), "{args:?}: {said}");
    }
}

#[test]
fn bench_prints_json() {
    let task = Task::new();
    let golden = |family| {
        format!(
            "{}/../adapters-testkit/golden/{family}/base",
            env!("CARGO_MANIFEST_DIR")
        )
    };
    let (encoder, causal, seq2seq) = ("model".to_owned(), golden("llama"), golden("t5"));
    assert!(ok(&task.path(""), &["info", &seq2seq]).contains("longest input  no limit"));
    for (model, adapter, more, writes) in [
        (&encoder, "lora[r=4]", &[][..], false),
        // Only peft's format has it.
        (&encoder, "hira[r=2]", &["--precision", "int8"], false),
        (&causal, "lora[r=2]", &["--precision", "bf16"], true),
        (&causal, "prompt_tuning[prompt_length=3]", &[], true),
        (&seq2seq, "lora[r=2]", &[], true),
    ] {
        let shape = "--batch 2 --seq 5 --new-tokens 3 --repeats 2 --json";
        let mut args = vec!["bench", "--model", model, "--adapter", adapter];
        args.extend(shape.split(' ').chain(more.iter().copied()));
        let report: serde_json::Value = serde_json::from_str(&ok(&task.path(""), &args)).unwrap();
        let times = report["times"].as_array().unwrap();
        let operations: Vec<&str> = times.iter().filter_map(|t| t["operation"].as_str()).collect();
        let mut expected = vec![
            "attach",
            "save",
            "load",
            "forward",
            "prompt",
            "decoding",
            "training step",
        ];
        expected.retain(|operation| writes || !["prompt", "decoding"].contains(operation));
        if !adapter.starts_with("prompt") {
            expected.push("merged forward");
        }
        assert_eq!(operations, expected, "{adapter}");
        for time in times {
            let operation = time["operation"].as_str().unwrap();
            assert!(time["median_s"].as_f64().unwrap() > 0.0);
            assert_eq!(time["cpu_median_s"].is_f64(), cfg!(target_os = "linux"));
            let counts_tokens = ["forward", "prompt", "decoding", "training step"].contains(&operation);
            assert_eq!(time["tokens_per_s"].is_f64(), counts_tokens, "{operation}");
        }
    }
}

#[test]
fn methods_and_the_machine_are_described() {
    let dir = Path::new(".");
    let methods = ok(dir, &["methods"]);
    assert!(
        methods.contains("double_seq_bn") && methods.contains("loreft"),
        "{methods}"
    );
    assert!(methods.contains("ia3 "), "{methods}");
    for line in methods
        .lines()
        .filter(|line| !line.starts_with(' '))
        .take_while(|line| !line.is_empty())
    {
        assert!(line.ends_with('.'), "{line}");
    }
    let fields = ok(dir, &["methods", "lora"]);
    assert!(fields.starts_with("A low-rank update"), "{fields}");
    let rank = fields.lines().find(|line| line.starts_with("r ")).unwrap();
    assert_eq!(rank.split_whitespace().nth(1), Some("8"));
    let union = ok(dir, &["methods", "mam"]);
    assert!(union.contains("prefix_tuning") && union.contains("par_bn"), "{union}");
    assert!(fails(dir, &["methods", "lorra"], 1).contains("did you mean `lora`?"));
    let machine: serde_json::Value = serde_json::from_str(&ok(dir, &["doctor", "--json"])).unwrap();
    assert!(machine["threads"].as_u64().unwrap() > 0, "{machine}");
    let device = &machine["devices"][0];
    assert!(device["name"] == "flex" && device["hardware"].is_null(), "{machine}");
    assert_eq!(device["memory_bytes"], machine["memory_bytes"]);
}

/// Every template trains as it is written, but for the tasks whose models the tiny encoder is not.
#[test]
fn a_new_folder_trains() {
    let task = Task::new();
    let dir = task.path("");
    for kind in [
        "classification",
        "multi_label",
        "regression",
        "tagging",
        "question_answering",
        "multiple_choice",
    ] {
        let said = ok(&dir, &["new", kind, "--task", kind, "--model", "model"]);
        let next = said.lines().last().unwrap().trim().strip_prefix("adapters ").unwrap();
        let recipe = next.strip_prefix("train ").unwrap();
        let short = ["--set", "model.max_length=8", "--set", "train.epochs=1", "--out", kind];
        let out = format!("{kind}/run");
        let short = [&short[..5], &[out.as_str()]].concat();
        ok(&dir, &[&["train", recipe], &short[..]].concat());
    }
    for kind in ["masked_lm", "causal_lm", "seq2seq_lm"] {
        let said = ok(&dir, &["new", kind, "--task", kind]);
        assert!(said.contains("set `model.path`"), "{said}");
        let recipe = format!("{kind}/recipe.toml");
        let refused = fails(&dir, &["train", &recipe], 1);
        assert!(refused.contains("MODEL"), "{refused}");
    }
    let again = fails(&dir, &["new", "tagging"], 1);
    assert!(again.contains("is not empty"), "{again}");
}

#[test]
fn completions_are_printed() {
    assert!(ok(Path::new("."), &["completions", "bash"]).contains("adapters"));
}

#[test]
fn combine_writes_the_weighted_sum() {
    let task = Task::new();
    let dir = task.path("");
    for (seed, out) in [("train.seed=0", "a"), ("train.seed=1", "b")] {
        let epochs = "train.epochs=1";
        ok(
            &dir,
            &[
                "train",
                "recipe.toml",
                "--set",
                seed,
                "--set",
                epochs,
                "--out",
                out,
                "--threads",
                "1",
            ],
        );
    }
    let said = ok(&dir, &["combine", "a/adapter=3", "b/adapter=1", "--out", "avg"]);
    assert!(said.contains("the head is the weighted sum of the heads"), "{said}");
    let head = |folder: &str| {
        let (tensors, _) = adapters::store::read_safetensors(&task.path(folder).join("head.safetensors")).unwrap();
        tensors["weight"].iter::<f32>().collect::<Vec<_>>()
    };
    for ((a, b), got) in head("a/adapter").iter().zip(head("b/adapter")).zip(head("avg")) {
        assert!((0.75 * a + 0.25 * b - got).abs() < 1e-6);
    }
    let scores = ok(&dir, &["eval", "--adapter", "avg", "--data", "data/test.jsonl"]);
    assert!(scores.contains("examples 12"), "{scores}");
    let manifest = task.path("b/adapter-peft/manifest.json");
    let mut without_head = json_of(&manifest);
    without_head.as_object_mut().unwrap().remove("head");
    fs::write(&manifest, without_head.to_string()).unwrap();
    let said = ok(&dir, &["combine", "a/adapter-peft", "b/adapter-peft", "--out", "half"]);
    assert!(
        said.contains("no head was written: 1 of the 2 adapters have none"),
        "{said}"
    );
    let read = |folder: &str| {
        let (tensors, _) = adapters::store::read_safetensors(&task.path(folder).join("adapter.safetensors")).unwrap();
        tensors
    };
    let (a, b, average) = (read("a/adapter"), read("b/adapter"), read("avg"));
    assert_eq!(a.len(), average.len());
    for ((key, a), b) in a.iter().zip(b.values()) {
        let data = average
            .iter()
            .find(|(k, _)| k.replace(".avg.", ".") == key.replace(".tiny.", "."))
            .map_or_else(|| panic!("{key} is not among {:?}", average.keys()), |(_, data)| data);
        for ((a, b), got) in a.iter::<f32>().zip(b.iter::<f32>()).zip(data.iter::<f32>()) {
            assert!((0.75 * a + 0.25 * b - got).abs() < 1e-6, "{key}");
        }
    }
    let said = ok(
        &dir,
        &[
            "combine",
            "a/adapter=0.7",
            "b/adapter=0.3",
            "--out",
            "svd",
            "--combination",
            "svd",
            "--rank",
            "2",
        ],
    );
    assert!(said.contains("lora[r=2,alpha=2"), "{said}");
    for (args, named) in [
        (&["combine", "a/adapter=much", "--out", "x"][..], "`much`"),
        (&["combine", "a/adapter", "--out", "svd"], "holds an adapter already"),
        (&["combine", "a/adapter=1", "b/adapter=-1", "--out", "x"], "add up to 0"),
        (
            &["combine", "a/adapter", "--out", "x", "--combination", "ties"],
            "needs --density",
        ),
    ] {
        let error = fails(&dir, args, 1).replace('\n', " ");
        let error = error.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(error.contains(named), "{args:?}: {error}");
    }
}
