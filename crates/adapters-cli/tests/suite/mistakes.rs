//! Typical mistakes, and what the command answers to them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Task, json_of};
use serde_json::json;

fn adapters(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
    command
        .args(args)
        .current_dir(dir)
        .env_remove("CARGO_PKG_NAME")
        .output()
        .unwrap()
}

/// Without the frame and the line breaks of the terminal.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace(['│', '×', '╰', '├', '─', '▶'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn ok(dir: &Path, args: &[&str]) -> (String, String) {
    let output = adapters(dir, args);
    assert!(output.status.success(), "{args:?}: {}", plain(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), plain(&output.stderr))
}

/// Trains the recipe of a [`Task`] for one epoch into the folder `out`; what it prints, and its warnings.
fn train(dir: &Path, overrides: &[&str], out: &str) -> (String, String) {
    let mut args = vec!["train", "recipe.toml", "--set", "train.epochs=1", "--out", out];
    args.extend(overrides.iter().flat_map(|value| ["--set", value]));
    ok(dir, &args)
}

fn check(dir: &Path, args: &[&str], parts: &[&str]) {
    let output = adapters(dir, args);
    let said = plain(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{args:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{args:?}: no `{part}` in: {said}");
    }
}

#[test]
fn mistakes_in_a_recipe() {
    let task = Task::new();
    let dir = task.path("");
    let set = |key_values: &[&str], parts: &[&str]| {
        let overrides = key_values.iter().flat_map(|value| ["--set", value]);
        let args: Vec<&str> = ["train", "recipe.toml"].into_iter().chain(overrides).collect();
        check(&dir, &args, parts);
    };
    check(
        &dir,
        &["train", "recipie.toml"],
        &["there is no recipe recipie.toml", "did you mean recipe.toml?"],
    );
    set(
        &["data.train=data/trian.jsonl"],
        &["there is no data file", "did you mean train.jsonl?"],
    );
    set(&["train.epoch=3"], &["did you mean `epochs`?"]);
    set(&["train.lr=1e-3"], &["did you mean `learning_rate`?"]);
    // Names of other programs.
    for (theirs, ours) in [
        ("train.num_train_epochs=3", "epochs"),
        ("train.per_device_train_batch_size=3", "batch_size"),
        ("train.gradient_accumulation_steps=2", "accumulate"),
        ("train.lr_scheduler_type=cosine", "schedule"),
        ("train.optim=sgd", "optimizer"),
        ("train.max_grad_norm=1.0", "clip_norm"),
        ("model.model_name_or_path=model", "path"),
        ("model.load_in_8bit=true", "precision"),
        ("model.sequence_len=64", "max_length"),
        ("data.sample_packing=true", "pack"),
        ("data.val_set_size=0.1", "validation_fraction"),
        ("output.output_dir=runs", "dir"),
    ] {
        set(&[theirs], &[&format!("did you mean `{ours}`?")]);
    }
    set(
        &["adapter.config=lora[rank=8]"],
        &["unknown field `rank`; did you mean `r`?", "known: ", "lora_bias"],
    );
    // The fields of LoRA, and not those of its variants.
    let output = adapters(&dir, &["train", "recipe.toml", "--set", "adapter.config=lora[rank=8]"]);
    let said = plain(&output.stderr);
    for other in ["vera_d", "d_initial", "task_ids", "n_up_projection"] {
        assert!(!said.contains(other), "{said}");
    }
    set(
        &["adapter.config=lora[lora_alpha=8]"],
        &["unknown field `lora_alpha`; did you mean `alpha`?"],
    );
    set(
        &["adapter.config=lora[target_modules=all]"],
        &["matches nothing", "did you mean `all-linear`?"],
    );
    set(
        &["adapter.config=qlora"],
        &["did you mean `lora`?", "QLoRA is `lora`", "model.precision"],
    );
    set(
        &["adapter.r=8"],
        &["either `config`", "`method` with its fields, not both"],
    );
    set(
        &["head.kind=causal_lm"],
        &[
            "`head.kind` is `causal_lm`",
            "`classification`",
            "`bert` model, which cannot write text",
        ],
    );
    set(
        &["adapter.stack_on=../runs/../language"],
        &["there is no adapter folder", "/language", "train that adapter first"],
    );
    let output = adapters(
        &dir,
        &["train", "recipe.toml", "--set", "adapter.stack_on=../runs/../language"],
    );
    assert!(!plain(&output.stderr).contains(".."), "{}", plain(&output.stderr));
    // The classes are those of the data.
    let without_labels = fs::read_to_string(task.recipe())
        .unwrap()
        .replace("labels = [\"bad\", \"good\"]", "");
    fs::write(task.path("unlabeled.toml"), without_labels).unwrap();
    ok(&dir, &["train", "unlabeled.toml", "--set", "train.epochs=1"]);
}

#[test]
fn mistakes_in_what_is_named() {
    let task = Task::new();
    let dir = task.path("");
    let (said, _) = train(&dir, &[], "run");
    // The next command has a text of the data, and works as it is printed.
    let next = said.lines().last().unwrap().trim().strip_prefix("adapters ").unwrap();
    let (start, text) = next.split_once(" --text ").unwrap();
    let mut args: Vec<&str> = start.split(' ').collect();
    args.extend(["--text", text.trim_matches('"')]);
    assert_eq!(ok(&dir, &args).0.lines().count(), 1);
    // Under Cargo it is the one that was typed.
    let mut under_cargo = Command::new(env!("CARGO_BIN_EXE_adapters"));
    under_cargo.args(["train", "recipe.toml", "--set", "train.epochs=1", "--out", "again"]);
    let output = under_cargo
        .current_dir(&dir)
        .env("CARGO_PKG_NAME", "adapters-cli")
        .output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    let commands: Vec<&str> = said.lines().skip_while(|line| *line != "next:").skip(1).collect();
    assert_eq!(commands.len(), 2, "{said}");
    for command in commands {
        assert!(
            command.starts_with("  cargo run --release --bin adapters -- "),
            "{said}"
        );
    }

    // A run folder is one of its adapter.
    ok(&dir, &["predict", "--adapter", "run", "--text", "good film"]);
    assert!(ok(&dir, &["info", "run"]).0.contains("test score"));
    check(&dir, &["info", "nowhere"], &["there is no folder nowhere"]);
    check(
        &dir,
        &["predict", "--adapter", "ru", "--text", "good"],
        &["there is no adapter folder ru", "did you mean"],
    );
    check(
        &dir,
        &["predict", "--adapter", "owner/name", "--text", "good"],
        &[
            "there is no adapter folder owner/name",
            "`adapters pull owner/name` downloads it from the Hub",
        ],
    );
    check(&dir, &["train", "recipe.toml", "--threads", "0"], &["from 1 to 1024"]);
    let output = adapters(&dir, &["train", "recipe.toml", "--threads", "0"]);
    assert!(!plain(&output.stderr).contains("fewer"));
    check(
        &dir,
        &["generate", "--prompt", "x"],
        &["no model is named", "--model", "--adapter"],
    );
    check(&dir, &["chat"], &["no model is named"]);
    check(
        &dir,
        &["bench", "--model", "model", "--seq", "9999"],
        &["--seq is 9999, expected at most"],
    );
    check(
        &dir,
        &["merge", "--adapter", "run", "--out", "model"],
        &[
            "is the base model itself, which is never overwritten",
            "choose another folder",
        ],
    );
    check(
        &dir,
        &["merge", "--adapter", "run", "--out", "run"],
        &["is not empty", "choose another folder"],
    );
    let (said, _) = ok(&dir, &["merge", "--adapter", "run", "--out", "merged"]);
    assert!(said.contains("the head is not part of the merged model"), "{said}");
    let (said, warned) = ok(&dir, &["combine", "run", "run/adapter", "--out", "twice"]);
    assert!(said.contains("the head is the weighted sum"), "{said}");
    assert!(warned.contains("warning: run/adapter is named twice"), "{warned}");
    check(
        &dir,
        &["eject", "--adapter", "run", "--out", "small"],
        &["this adapter is `lora", "eject is for prefix tuning"],
    );
    fs::rename(task.path("model"), task.path("moved")).unwrap();
    check(
        &dir,
        &["predict", "--adapter", "run", "--text", "good"],
        &["manifest.json of the adapter names the base model", "--model"],
    );
    ok(
        &dir,
        &["predict", "--adapter", "run", "--model", "moved", "--text", "good"],
    );
}

#[test]
fn runs_that_cannot_succeed_are_warned_of() {
    let task = Task::new();
    let dir = task.path("");
    let (_, said) = train(&dir, &["data.labels=['bad', 'good', 'neutral']"], "three");
    assert!(
        said.contains("warning: no training example has the class neutral"),
        "{said}"
    );
    let (_, said) = train(&dir, &["train.learning_rate=1e-9"], "idle");
    assert!(
        said.contains("warning: this is no better than always predicting"),
        "{said}"
    );
    let (_, said) = train(&dir, &["train.learning_rate=100"], "wild");
    assert!(
        said.contains("warning: ") && said.contains("a lower `train.learning_rate`"),
        "{said}"
    );
}

#[test]
fn results_are_json_where_asked() {
    let task = Task::new();
    let dir = task.path("");
    train(&dir, &[], "run");
    let json = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&ok(&dir, args).0).unwrap() };
    let eval = json(&["eval", "--adapter", "run", "--data", "data/test.jsonl", "--json"]);
    assert_eq!((&eval["metric"], &eval["examples"]), (&json!("accuracy"), &json!(12)));
    assert_eq!(eval["confusion"]["labels"], json!(["bad", "good"]));
    assert!(eval["f1_of_labels"].is_object());
    let predicted = json(&["predict", "--adapter", "run", "--text", "good film", "--json"]);
    assert_eq!(predicted["input"], "good film");
    assert!(["good", "bad"].contains(&predicted["prediction"].as_str().unwrap()));
    assert_eq!(predicted["scores"].as_array().unwrap().len(), 2);
    assert_eq!(json(&["info", "run", "--json"])["architecture"], "bert");
    assert_eq!(json(&["recipe", "--schema"])["properties"]["train"]["type"], "object");
}

#[test]
fn an_adapter_is_converted_and_scores_alike() {
    let task = Task::new();
    let dir = task.path("");
    train(&dir, &["head.pooling=pooler"], "run");
    let score = |folder: &str| ok(&dir, &["eval", "--adapter", folder, "--data", "data/test.jsonl"]).0;
    let trained = score("run");
    for (from, to, out) in [("run/adapter", "peft", "a"), ("a", "adapterhub", "b")] {
        ok(&dir, &["convert", "--adapter", from, "--to", to, "--out", out]);
        assert_eq!(score(out), trained, "{out}");
    }
    assert_eq!(json_of(&task.path("a/adapter_config.json"))["task_type"], "SEQ_CLS");
    assert!(task.path("b/head_config.json").exists());
    ok(
        &dir,
        &["convert", "--adapter", "a", "--dtype", "float16", "--out", "half"],
    );
    let size = |folder: &str| {
        fs::metadata(task.path(folder).join("adapter_model.safetensors"))
            .unwrap()
            .len()
    };
    assert!(size("half") < size("a"));
    let (tensors, _) = adapters::store::read_safetensors(&task.path("half/adapter_model.safetensors")).unwrap();
    assert!(tensors.values().all(|data| data.dtype() == burn::tensor::DType::F16));
    assert_eq!(score("half").lines().next(), trained.lines().next());
    check(
        &dir,
        &["convert", "--adapter", "a", "--to", "peft", "--out", "c"],
        &["is in PEFT format already"],
    );
    train(&dir, &["adapter.config=seq_bn"], "bn");
    check(
        &dir,
        &["convert", "--adapter", "bn", "--to", "peft", "--out", "c"],
        &["PEFT"],
    );
}

#[test]
fn figures_are_written_for_tensorboard() {
    let task = Task::new();
    let dir = task.path("");
    train(&dir, &["train.tensorboard=true"], "run");
    let files: Vec<_> = fs::read_dir(task.path("run/tensorboard")).unwrap().collect();
    let [Ok(file)] = &files[..] else { panic!("{files:?}") };
    let bytes = fs::read(file.path()).unwrap();
    let count = |name: &[u8]| bytes.windows(name.len()).filter(|window| window == &name).count();
    assert_eq!((count(b"train_loss"), count(b"eval_accuracy")), (10, 1));
}

#[test]
fn a_conversation_remembers_what_was_said() {
    use std::io::Write;
    use std::process::Stdio;
    let dir = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{{ 'w4 ' if m.role == 'user' else 'w9 ' }}{{ m.content }} {% endfor %}w9";
    crate::words::model("llama", dir.path(), &json!({"chat_template": template}));
    let chat = |input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_adapters"))
            .args(["chat", "--model", ".", "--max-tokens", "4", "--precision", "f32"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let answers = lines(&chat("w5 w17\nw33\n/reset\nw33\n/exit\nw8\n"));
    let [first, second, anew] = &answers[..] else {
        panic!("{answers:?}")
    };
    let generated = |prompt: &str| {
        let prompt = [
            "generate",
            "--model",
            ".",
            "--max-tokens",
            "4",
            "--plain",
            "--prompt",
            prompt,
        ];
        lines(&ok(dir.path(), &prompt).0).remove(0)
    };
    assert_eq!(*first, generated("w4 w5 w17 w9"));
    assert_eq!(*second, generated(&format!("w4 w5 w17 w9 {first} w4 w33 w9")));
    assert_eq!(*anew, generated("w4 w33 w9"));
}
