//! Faults of the world around a run: other processes, other files, numbers that leave their range, outputs that are in the way.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use adapters::METHODS;
use adapters::train::{Event, Recipe, Run, TrainError, train};
use burn::tensor::Device;

use crate::common::Task;

fn run(task: &Task, out: &str, overrides: &[&str]) -> Run {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let recipe = Recipe::read(&task.recipe(), &overrides).unwrap();
    Run {
        model_dir: recipe.model.path.clone().into(),
        dir: task.path(out),
        registry: METHODS,
        device: Device::flex(),
        recipe,
    }
}

fn stop_at(run: &Run, at: u64) {
    let outcome = train(run, &mut |event| match event {
        Event::Step { step, .. } if step == at => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(!outcome.unwrap().finished);
}

fn command(task: &Task) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
    command.current_dir(task.path("")).stdin(Stdio::null());
    command
}

#[test]
fn a_run_folder_takes_one_run_at_a_time() {
    let task = Task::new();
    let first = run(&task, "run", &[]);
    // What a killed run left.
    fs::create_dir_all(task.path("run/adapter/.writing-1")).unwrap();
    fs::write(task.path("run/.writing-2"), "half").unwrap();
    let mut second = None;
    train(&first, &mut |event| {
        if let Event::Step { step: 2, .. } = event {
            second = Some(train(&run(&task, "run", &["train.seed=1"]), &mut |_| {
                ControlFlow::Continue(())
            }));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(
        matches!(second, Some(Err(TrainError::InUse { .. }))),
        "a second run was let in"
    );
    assert!(!task.path("run/adapter/.writing-1").exists() && !task.path("run/.writing-2").exists());
    // The lock goes with the run.
    assert!(train(&first, &mut |_| ControlFlow::Continue(())).is_ok());
}

#[test]
fn a_run_is_not_resumed_on_other_weights_or_other_data() {
    for (file, field) in [
        ("model/model.safetensors", "model"),
        ("model/tokenizer.json", "model"),
        ("data/train.jsonl", "data.train"),
        ("data/validation.jsonl", "data.validation"),
        ("data/test.jsonl", "data.test"),
    ] {
        let task = Task::new();
        let run = run(&task, "run", &[]);
        stop_at(&run, 9);
        let mut bytes = fs::read(task.path(file)).unwrap();
        // The last byte of a weight; in a text a blank at its end, which changes no value.
        match file.ends_with("safetensors") {
            true => *bytes.last_mut().unwrap() ^= 1,
            false => bytes.push(b' '),
        }
        fs::write(task.path(file), bytes).unwrap();
        let error = train(&run, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(
            error.contains(field) && error.contains("changed since it was stopped"),
            "{file}: {error}"
        );
    }
}

#[test]
fn a_checkpoint_without_rows_in_a_batch_is_refused() {
    let task = Task::new();
    let run = run(&task, "run", &[]);
    stop_at(&run, 9);
    let path = task.path("run/checkpoint.safetensors");
    let (tensors, mut metadata) = adapters::store::read_safetensors(&path).unwrap();
    let header = metadata.get_mut("adapters.checkpoint").unwrap();
    let mut position: serde_json::Value = serde_json::from_str(header).unwrap();
    position["batch_size"] = 0.into();
    *header = position.to_string();
    adapters::store::write_safetensors(&path, &tensors, metadata).unwrap();
    let error = train(&run, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(
        error.contains("checkpoint.safetensors") && error.contains("`batch_size` is 0"),
        "{error}"
    );
}

#[test]
fn numbers_that_leave_their_range_are_never_saved() {
    let task = Task::new();
    for (out, overrides) in [
        // In the middle, with a checkpoint after every step.
        ("middle", &["train.checkpoint_every=1"][..]),
        // In the last update, which no loss sees.
        ("last", &["train.epochs=1", "train.batch_size=40"]),
    ] {
        let overrides = [overrides, &["train.learning_rate=1e38", "train.warmup=0.0"]].concat();
        let run = run(&task, out, &overrides);
        let error = train(&run, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(
            matches!(
                error,
                TrainError::Diverged { .. } | TrainError::NotFinite { .. } | TrainError::Unusable { .. }
            ),
            "{out}: {error}"
        );
        assert!(error.to_string().contains("train.learning_rate"), "{error}");
        assert!(!run.dir.join("adapter").exists(), "{out}: an adapter was written");
    }
}

#[test]
fn an_adapter_that_would_never_train_is_refused() {
    let task = Task::new();
    let below = run(&task, "below", &["train.epochs=1"]);
    train(&below, &mut |_| ControlFlow::Continue(())).unwrap();
    let on = format!("adapter.stack_on='{}'", below.dir.join("adapter").display());
    for config in ["loreft[r=2]", "prompt_tuning[prompt_length=2]", "ln_tuning"] {
        let config = format!("adapter.config='{config}'");
        let trained = train(&run(&task, "top", &[&on, &config]), &mut |_| ControlFlow::Continue(()));
        let refused = trained
            .as_ref()
            .is_err_and(|error| error.to_string().contains("never train"));
        assert!(refused, "{config}: {trained:?}");
    }
}

/// Trains the task and returns the arguments that score its test data.
fn scored(task: &Task) -> [&'static str; 5] {
    train(&run(task, "run", &["train.epochs=1"]), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    ["eval", "--adapter", "run/adapter", "--data", "data/test.jsonl"]
}

#[cfg(unix)]
#[test]
fn an_output_replaces_a_regular_file_and_nothing_else() {
    let task = Task::new();
    let eval = scored(&task);
    let write = |path: &str| command(&task).args(eval).args(["--logits", path]).output().unwrap();
    fs::write(task.path("other"), "kept").unwrap();
    std::os::unix::fs::symlink("other", task.path("link")).unwrap();
    fs::create_dir(task.path("folder")).unwrap();
    let whole = [
        "data/test.jsonl",
        "model/model.safetensors",
        "run/adapter/adapter_config.json",
    ];
    let before = whole.map(|path| fs::read(task.path(path)).unwrap());
    for path in ["link", "folder", "/dev/null"].into_iter().chain(whole) {
        let refused = write(path);
        assert_eq!(refused.status.code(), Some(1), "{path}");
        assert!(refused.stdout.is_empty(), "{path} is refused before the evaluation");
    }
    fs::write(task.path("other.png"), "kept").unwrap();
    let refused = command(&task)
        .args(eval)
        .args(["--confusion", "other"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(fs::read(task.path("other.png")).unwrap(), b"kept");
    assert!(whole.map(|path| fs::read(task.path(path)).unwrap()) == before);
    assert_eq!(fs::read(task.path("other")).unwrap(), b"kept");
    assert!(fs::symlink_metadata(task.path("link")).unwrap().is_symlink());
    assert!(Path::new("/dev/null").exists() && !Path::new("/dev/null").is_file());
    for _ in 0..2 {
        assert!(write("scores.safetensors").status.success());
    }
}

/// Paths of the files in a folder and what they hold, without what is hidden.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap());
    let shown = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    shown
        .map(|entry| (entry.file_name().into(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn what_a_killed_command_leaves_is_not_taken_for_whole() {
    const KILLS: u32 = 8;
    let task = Task::new();
    scored(&task);
    fs::write(task.path("model/tokenizer_config.json"), "{}").unwrap();
    fs::write(task.path("run/adapter/tokenizer_config.json"), "{\"a\": 1}").unwrap();
    for (line, known_by) in [
        ("merge --adapter run/adapter", "config.json"),
        ("convert --adapter run/adapter --to peft", "adapter_config.json"),
        ("combine run/adapter run/adapter", "adapter_config.json"),
    ] {
        // The last part of the path is the name of an adapter.
        let out = |kill: u32| task.path(&format!("{}-{kill}/out", &line[..5]));
        let writing = |kill: u32| {
            let mut child = command(&task)
                .args(line.split(' '))
                .arg("--out")
                .arg(out(kill))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            while !out(kill).exists() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(50));
            }
            (child, Instant::now())
        };
        let (mut left_alone, begun) = writing(KILLS);
        assert!(left_alone.wait().unwrap().success(), "{line}");
        let (length, whole) = (begun.elapsed(), files(&out(KILLS)));
        assert!(
            whole.len() > 2 && whole.contains_key(Path::new(known_by)),
            "{line}: {whole:?}"
        );
        for kill in 0..KILLS {
            let (mut child, _) = writing(kill);
            std::thread::sleep(length * kill / KILLS);
            child.kill().unwrap();
            child.wait().unwrap();
            let left = files(&out(kill));
            assert!(
                !left.contains_key(Path::new(known_by)) || left == whole,
                "{line}: {:?}",
                left.keys()
            );
        }
    }
}

#[test]
fn blank_lines_keep_their_place() {
    let task = Task::new();
    scored(&task);
    fs::write(task.path("lines"), "good film\n\n  \nbad plot\n").unwrap();
    let output = command(&task)
        .args(["predict", "--adapter", "run/adapter"])
        .stdin(fs::File::open(task.path("lines")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines[0].ends_with("good film") && lines[3].ends_with("bad plot"),
        "{lines:?}"
    );
    assert!(
        lines[1..3]
            .iter()
            .all(|line| !line.contains("good") && !line.contains("bad")),
        "{lines:?}"
    );
}

/// Tokenizing it whole takes two hundred bytes for a byte.
#[cfg(target_os = "linux")]
#[test]
fn a_long_text_is_cut_before_it_is_tokenized_whole() {
    let task = Task::new();
    scored(&task);
    fs::write(task.path("long"), "good film ".repeat(4_000_000)).unwrap();
    let program = env!("CARGO_BIN_EXE_adapters");
    // Four GiB of addresses, of forty million characters.
    let line = format!("ulimit -v 4194304; exec '{program}' predict --adapter run/adapter --threads 1 < long");
    let output = Command::new("sh")
        .current_dir(task.path(""))
        .args(["-c", &line])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Weights that are finite can be so large that what they compute is not: no answer is printed then.
#[test]
fn answers_that_are_no_numbers_are_errors() {
    let task = Task::new();
    let eval = scored(&task);
    let path = task.path("run/adapter/adapter.safetensors");
    let (mut tensors, _) = adapters::store::read_safetensors(&path).unwrap();
    for data in tensors.values_mut() {
        let huge = vec![3e38f32; data.num_elements()];
        *data = burn::tensor::TensorData::new(huge, data.shape().clone());
    }
    adapters::store::write_safetensors(&path, &tensors, []).unwrap();
    let predict = ["predict", "--adapter", "run/adapter", "--text", "good film"];
    for arguments in [&predict[..], &eval[..]] {
        let output = command(&task).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(output.stdout.is_empty() && said.contains("beyond the range"), "{said}");
    }
    // Nor is it merged into a model that nothing reads, or written in a type that is too small; where it would be is said.
    let to_16_bits = [
        "convert",
        "--adapter",
        "run/adapter",
        "--dtype",
        "float16",
        "--out",
        "merged",
    ];
    for arguments in [
        &["merge", "--adapter", "run/adapter", "--out", "merged"][..],
        &to_16_bits,
    ] {
        let output = command(&task).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("not finite"), "{said}");
        assert!(said.contains("merged") && !said.contains(".writing-"), "{said}");
    }
}

/// Runs the command, which fails, and returns what it said without the layout of lines.
fn refusal(task: &Task, arguments: &[&str]) -> String {
    let output = command(task).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A file that seems to be absent would be left out without a word, or be asked for although it is there.
#[cfg(unix)]
#[test]
fn a_link_to_nothing_is_no_absent_file() {
    let task = Task::new();
    let eval = scored(&task);
    fs::write(task.path("model/generation_config.json"), "{}").unwrap();
    let recipe = ["train", "recipe.toml", "--out", "other"];
    for (file, arguments) in [
        ("model/config.json", &eval[..]),
        ("model/tokenizer.json", &eval),
        ("model/model.safetensors", &eval),
        ("run/adapter/manifest.json", &eval),
        ("run/adapter/adapter_config.json", &eval),
        ("run/adapter/adapter.safetensors", &eval),
        ("data/test.jsonl", &eval),
        ("recipe.toml", &recipe),
    ] {
        let (path, aside) = (task.path(file), task.path("aside"));
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        let said = refusal(&task, arguments);
        let name = file.rsplit('/').next().unwrap();
        assert!(
            said.contains(name) && said.contains("a link to elsewhere, which does not exist"),
            "{file}: {said}"
        );
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn a_name_of_any_length_leaves_what_is_said() {
    let task = Task::new();
    let label = "l".repeat(1_000_000);
    let recipe = fs::read_to_string(task.recipe()).unwrap();
    let recipe = recipe.replace(r#"["bad", "good"]"#, &format!(r#"["bad", "good", "{label}"]"#));
    fs::write(task.recipe(), recipe).unwrap();
    let output = command(&task)
        .args(["train", "recipe.toml", "--out", "run"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.len() < 10_000 && said.contains("lll..(999800 characters more)..lll"),
        "{said}"
    );
    // The classes that no example has are counted.
    let names: Vec<String> = (0..1000).map(|class| format!("\"c{class}\"")).collect();
    let labels = format!("data.labels=[\"bad\", \"good\", {}]", names.join(", "));
    let train = ["train", "recipe.toml", "--out", "many", "--set", &labels];
    let output = command(&task).args(train).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("988 more classes"), "{said}");
    assert!(said.lines().count() < 60, "{said}");
    let said = refusal(
        &task,
        &[
            "train",
            "recipe.toml",
            "--out",
            "named",
            "--set",
            "adapter.name=\"a.b\"",
        ],
    );
    assert!(said.contains("`adapter.name` is `a.b`"), "{said}");
}

/// A tokenizer that adds two tokens to each text, and says which token ends one.
#[test]
fn a_merge_asks_the_tokenizer_for_the_end_of_a_text() {
    let task = Task::new();
    fs::write(task.path("model/tokenizer_config.json"), r#"{"eos_token": "[SEP]"}"#).unwrap();
    scored(&task);
    let merge = ["merge", "--adapter", "run/adapter", "--out", "merged"];
    let output = command(&task).args(merge).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What is wrong with a file is said with the field and in words.
#[test]
fn a_wrong_value_in_a_file_is_named_by_its_field() {
    let task = Task::new();
    let eval = scored(&task);
    for (file, field, value, expected) in [
        (
            "model/config.json",
            "hidden_size",
            "-1",
            "expected a whole number, not below 0",
        ),
        ("model/config.json", "hidden_dropout_prob", "\"a\"", "expected a number"),
        (
            "run/adapter/manifest.json",
            "max_length",
            "-1",
            "expected a whole number, not below 0",
        ),
        ("run/adapter/manifest.json", "max_length", "0", "expected 1 to "),
        (
            "run/adapter/manifest.json",
            "base_fingerprint",
            "[]",
            "expected an object",
        ),
        (
            "run/adapter/adapter_config.json",
            "config",
            "{\"architecture\": \"lora\", \"alpha\": 1e300}",
            "`alpha` is",
        ),
        (
            "run/adapter/adapter_config.json",
            "config",
            "{\"architecture\": \"lora\", \"r\": \"a\"}",
            "`r`",
        ),
    ] {
        let path = task.path(file);
        let whole = fs::read(&path).unwrap();
        let mut fields: serde_json::Map<_, _> = serde_json::from_slice(&whole).unwrap();
        fields.insert(field.to_owned(), serde_json::from_str(value).unwrap());
        fs::write(&path, serde_json::to_vec(&fields).unwrap()).unwrap();
        let said = refusal(&task, &eval);
        let named = said.contains(file.rsplit('/').next().unwrap()) && (field == "config" || said.contains(field));
        assert!(named && said.contains(expected), "{file}, {field}: {said}");
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn a_terminal_gets_the_colors_of_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_adapters"))
        .args(["info", "absent"])
        .env("FORCE_COLOR", "1")
        .env_remove("NO_COLOR")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("\u{1b}[") && !text.contains("\\u{1b}"), "{text}");
}

#[test]
fn bench_refuses_what_no_machine_measures() {
    let task = Task::new();
    let llama = concat!(env!("CARGO_MANIFEST_DIR"), "/../adapters-testkit/golden/llama/base");
    for (args, code, named) in [
        (&["--model", llama, "--seq", "1"][..], 1, "--seq is 1"),
        (&["--model", "model", "--batch", "9223372036854775807"], 2, "1 to 65536"),
        (
            &["--model", "model", "--batch", "65536", "--seq", "1048576"],
            1,
            "--batch x --seq",
        ),
        (
            &["--model", "model", "--repeats", "18446744073709551615"],
            2,
            "1 to 1000000",
        ),
        (&["--model", "model", "--dropout", "nan"], 2, "at least 0 and below 1"),
    ] {
        let args = [&["bench"], args].concat();
        let output = command(&task).args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
    }
}

#[test]
fn a_recipe_that_is_no_text_is_named_with_its_line() {
    let task = Task::new();
    let mut bytes = fs::read(task.recipe()).unwrap();
    bytes.extend(b"\n# Gr\xFC\xDFe\n");
    let line = bytes.iter().filter(|byte| **byte == b'\n').count();
    fs::write(task.recipe(), &bytes).unwrap();
    let said = refusal(&task, &["train", "recipe.toml", "--out", "run"]);
    assert!(said.contains(&format!("recipe.toml:{line} is not utf-8")), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_answer_that_cannot_be_written_is_said_to_be_incomplete() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [&["--help"][..], &["--version"], &["train", "--help"], &["methods"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_adapters"))
            .args(args)
            .stdout(full())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("cannot write to standard output"), "{args:?}: {said}");
    }
}

#[test]
fn a_combination_refuses_options_that_it_has_no_use_for() {
    let task = Task::new();
    scored(&task);
    let combine = |rest: &[&str]| {
        let output = command(&task).arg("combine").args(rest).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    fs::create_dir(task.path("n=1")).unwrap();
    fs::rename(task.path("run/adapter"), task.path("n=1/a")).unwrap();
    // The sign in the name of a folder is none in front of a weight.
    let (done, said) = combine(&["n=1/a", "n=1/a=2", "--out", "mean"]);
    assert!(done, "{said}");
    for (combination, option, value) in [("linear", "--rank", "2"), ("svd", "--density", "0.5")] {
        let needed: &[&str] = if combination == "svd" { &["--rank", "2"] } else { &[] };
        let options = ["n=1/a", "--out", "x", "--combination", combination, option, value];
        let (done, said) = combine(&[&options, needed].concat());
        assert!(
            !done && said.contains(&format!("--combination {combination} has no use for {option}")),
            "{said}"
        );
    }
}
