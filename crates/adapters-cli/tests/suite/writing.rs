//! Training models that write: prompts and completions, for a causal language model and for an encoder-decoder.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use adapters::METHODS;
use adapters::store::{read_json, read_safetensors};
use adapters::train::{Event, MetricsLog, Outcome, Recipe, Run, TrainError, train};
use burn::tensor::{Device, TensorData};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Writes what is said behind `w9`, which begins an answer; `w3` ends it, as the model's configuration says.
const CHAT: &str = "{% for m in messages %}{{ ('w4 ' if m.role == 'user' else ' w9 ') ~ m.content }}\
                    {{ '' if m.role == 'user' else ' w3' }}{% endfor %}{{ ' w9' if add_generation_prompt }}";

const RECIPE: &str = r#"
[model]
path = "model"
max_length = 24

[data]
train = "data/train.jsonl"
validation = "data/validation.jsonl"
test = "data/test.jsonl"

[adapter]
name = "answers"
config = "lora[r=8,alpha=16,intermediate_lora=true,output_lora=true]"

[train]
epochs = 8
batch_size = 8
learning_rate = 1e-2
clip_norm = 1.0
checkpoint_every = 7
keep = "last"
"#;

/// A folder with `model/`, `data/` and `recipe.toml`.
struct Task {
    dir: TempDir,
    kind: &'static str,
}

impl Task {
    /// For the golden model of a family, with a chat template where `chat`.
    fn new(family: &str, kind: &'static str, chat: bool) -> Self {
        let task = Self {
            dir: tempfile::tempdir().unwrap(),
            kind,
        };
        for folder in ["model", "data"] {
            fs::create_dir(task.path(folder)).unwrap();
        }
        let config = match chat {
            true => json!({"chat_template": CHAT}),
            false => json!({}),
        };
        crate::words::model(family, &task.path("model"), &config);
        for (split, rows) in [("train", 0..96), ("validation", 96..104), ("test", 104..112)] {
            fs::write(
                task.path(&format!("data/{split}.jsonl")),
                rows.map(line).collect::<String>(),
            )
            .unwrap();
        }
        fs::write(task.path("recipe.toml"), RECIPE).unwrap();
        task
    }

    fn llama() -> Self {
        Self::new("llama", "causal_lm", false)
    }

    fn path(&self, rest: &str) -> PathBuf {
        self.dir.path().join(rest)
    }

    fn recipe(&self, overrides: &[&str]) -> Result<Recipe, TrainError> {
        let kind = format!("head.kind={}", self.kind);
        let overrides = [kind.as_str()].into_iter().chain(overrides.iter().copied());
        Recipe::read(
            &self.path("recipe.toml"),
            &overrides.map(str::to_owned).collect::<Vec<_>>(),
        )
    }

    fn run(&self, out: &str, overrides: &[&str]) -> Run {
        let recipe = self.recipe(overrides).unwrap();
        Run {
            model_dir: recipe.model.path.clone().into(),
            dir: self.path(out),
            registry: METHODS,
            device: Device::flex(),
            recipe,
        }
    }

    /// What `adapters generate` says of prompts, one a line, with the adapter of a run.
    fn generate(&self, out: &str, args: &[&str]) -> String {
        self.say(&self.path(out).join("adapter"), args)
    }

    fn say(&self, adapter: &Path, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_adapters"))
            .args(["generate", "--max-tokens", "6", "--adapter"])
            .arg(adapter)
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The question about one of four words, with zero to three others around it.
fn question(row: usize) -> String {
    let filler = |k: usize| (0..k).map(move |k| format!("w{}", 60 + (row / 3 + row / 24 + k) % 4));
    let asked = format!("w{}", 10 + row % 4);
    let all = filler(row / 4 % 2).chain([asked]).chain(filler(row / 8 % 3));
    all.collect::<Vec<_>>().join(" ")
}

/// One word is the answer to `w10` and `w11`, two to the others.
fn answer(row: usize) -> String {
    match row % 4 {
        word @ (0 | 1) => format!("w{}", 40 + word),
        word => format!("w{} w{}", 40 + word, 50 + word),
    }
}

fn line(row: usize) -> String {
    json!({"prompt": question(row), "completion": answer(row)}).to_string() + "\n"
}

fn finish(run: &Run) -> Outcome {
    let outcome = train(run, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(outcome.finished);
    outcome
}

fn weights(run: &Run) -> BTreeMap<String, TensorData> {
    let (tensors, _) = read_safetensors(&run.dir.join("adapter/adapter.safetensors")).unwrap();
    tensors.into_iter().collect()
}

fn bytes(run: &Run) -> Vec<u8> {
    fs::read(run.dir.join("adapter/adapter.safetensors")).unwrap()
}

/// The largest difference of any two values.
fn apart(a: &BTreeMap<String, TensorData>, b: &BTreeMap<String, TensorData>) -> f32 {
    assert!(!a.is_empty() && a.keys().eq(b.keys()));
    let values = a
        .iter()
        .flat_map(|(key, data)| data.iter::<f32>().zip(b[key].iter::<f32>()).collect::<Vec<_>>());
    values.fold(0.0, |worst, (x, y)| worst.max((x - y).abs()))
}

/// The metrics, without what depends on the clock.
fn metrics(dir: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    MetricsLog::records(dir.join("metrics.jsonl")).unwrap()
}

fn series(dir: &Path, key: &str) -> Vec<f64> {
    metrics(dir)
        .iter()
        .filter_map(|record| record.get(key)?.as_f64())
        .collect()
}

/// That the run went from guessing to answering, and that its adapter answers questions of the test.
fn check_learned(task: &Task, out: &str, overrides: &[&str], generate: &[&str]) {
    let run = task.run(out, overrides);
    let outcome = finish(&run);
    let (train_loss, test) = (series(&run.dir, "train_loss"), outcome.summary.test_score().unwrap());
    // A hundred words: guessing is `ln 100 = 4.6` at best.
    assert!(train_loss[0] > 3.0, "{train_loss:?}");
    assert!(
        *train_loss.last().unwrap() < train_loss[0] / 2.0 && test > 0.9,
        "{test}: {train_loss:?}"
    );
    let asked = [105, 106].map(question);
    let args = ["--prompt", asked[0].as_str(), "--prompt", asked[1].as_str()];
    let said = task.generate(out, &[&args[..], generate].concat());
    assert_eq!(said.lines().collect::<Vec<_>>(), [answer(105), answer(106)]);
}

#[test]
fn a_llama_learns_to_answer() {
    let task = Task::llama();
    // What it says without an adapter is none of the answers.
    finish(&task.run("untrained", &["train.epochs=1", "train.learning_rate=1e-9"]));
    let untrained = series(&task.path("untrained"), "eval_accuracy")[0];
    assert!(untrained < 0.2, "{untrained}");

    check_learned(&task, "plain", &["data.template=plain"], &[]);
    check_learned(&task, "packed", &["data.pack=true", "train.batch_size=2"], &[]);
    let steps = |out: &str| series(&task.path(out), "train_loss").len();
    // 96 rows in batches of 8, and rows of 24 tokens in batches of 2.
    assert_eq!(steps("plain"), 8 * 12);
    assert!((8 * 6..=8 * 24).contains(&steps("packed")), "{}", steps("packed"));
}

#[test]
fn a_packed_recipe_is_the_plain_one_where_a_step_has_the_same_texts() {
    let task = Task::llama();
    let with = |pack: bool| {
        // All texts in each step, so that the steps differ in rows and padding alone.
        let overrides = [
            &format!("data.pack={pack}"),
            "train.batch_size=96",
            "train.epochs=3",
            "train.learning_rate=1e-3",
        ];
        let run = task.run(&format!("pack_{pack}"), &overrides);
        finish(&run);
        (weights(&run), series(&run.dir, "train_loss"))
    };
    let ((plain, plain_losses), (packed, packed_losses)) = (with(false), with(true));
    assert_eq!(plain_losses.len(), 3);
    assert!(plain_losses[0] - plain_losses[2] > 1e-3, "{plain_losses:?}");
    assert_eq!(packed_losses.len(), 3);
    for (a, b) in plain_losses.iter().zip(&packed_losses) {
        assert!((a - b).abs() < 1e-5, "{plain_losses:?} {packed_losses:?}");
    }
    assert!(apart(&plain, &packed) < 1e-4, "{}", apart(&plain, &packed));
}

#[test]
fn a_chat_is_learned_through_the_template_of_the_model() {
    let task = Task::new("llama", "causal_lm", true);
    check_learned(&task, "chat", &["data.template=chat"], &["--chat"]);
    // The manifest says that it was a chat.
    let asked = question(105);
    let answer = task.generate("chat", &["--prompt", &asked]);
    assert_eq!(answer, task.generate("chat", &["--chat", "--prompt", &asked]));
    assert_ne!(answer, task.generate("chat", &["--plain", "--prompt", &asked]));
    // Where there is one it is used unless told otherwise.
    finish(&task.run("default", &[]));
    assert_eq!(metrics(&task.path("default")), metrics(&task.path("chat")));
    check_learned(&task, "plain", &["data.template=plain"], &[]);
    assert_ne!(metrics(&task.path("plain")), metrics(&task.path("chat")));
}

#[test]
fn a_t5_learns_to_answer() {
    let task = Task::new("t5", "seq2seq_lm", false);
    check_learned(&task, "run", &["train.learning_rate=3e-2"], &[]);
    let asked = question(105);
    let cached = task.generate("run", &["--prompt", &asked]);
    assert_eq!(cached, task.generate("run", &["--prompt", &asked, "--no-cache"]));
}

/// `SEQ_2_SEQ_LM` is `BartForConditionalGeneration`, in which the modules of `BartModel` are below `model`.
#[test]
fn a_bart_is_written_for_peft_with_the_names_of_the_class_of_its_task() {
    let task = Task::new("bart", "seq2seq_lm", false);
    finish(&task.run("run", &["train.epochs=1", "adapter.config=lora[r=2]"]));
    let peft = task.path("run/adapter-peft");
    let config: Value = read_json(&peft.join("adapter_config.json")).unwrap();
    assert_eq!(config["task_type"], "SEQ_2_SEQ_LM");
    let (tensors, _) = read_safetensors(&peft.join("adapter_model.safetensors")).unwrap();
    assert!(!tensors.is_empty());
    for key in tensors.keys() {
        assert!(key.starts_with("base_model.model.model."), "{key}");
    }
    let asked = question(105);
    let answer = task.generate("run", &["--prompt", &asked]);
    assert_eq!(answer, task.say(&peft, &["--prompt", &asked]));
}

#[test]
fn a_prompt_before_the_text_is_learned_too() {
    for (family, kind) in [("llama", "causal_lm"), ("t5", "seq2seq_lm")] {
        let task = Task::new(family, kind, false);
        for config in [
            "prompt_tuning[prompt_length=3]",
            "prefix_tuning[prefix_length=3,bottleneck_size=8]",
        ] {
            let run = task.run(
                &config[..6],
                &[
                    &format!("adapter.config={config}"),
                    "train.epochs=4",
                    "train.learning_rate=0.1",
                ],
            );
            finish(&run);
            let (before, after) = (series(&run.dir, "train_loss")[0], series(&run.dir, "eval_loss"));
            assert!(
                *after.last().unwrap() < before * 0.95,
                "{family}, {config}: {before}, {after:?}"
            );
            if config.starts_with("prefix") {
                let out = task.path("ejected");
                let ejected = Command::new(env!("CARGO_BIN_EXE_adapters"))
                    .args(["eject", "--adapter"])
                    .arg(run.dir.join("adapter"))
                    .arg("--out")
                    .arg(&out)
                    .output()
                    .unwrap();
                assert!(ejected.status.success(), "{}", String::from_utf8_lossy(&ejected.stderr));
                let asked = question(105);
                let said = |adapter: &Path| task.say(adapter, &["--prompt", &asked, "--ids"]);
                assert_eq!(said(&out), said(&run.dir.join("adapter")), "{family}");
            }
        }
    }
}

#[test]
fn a_killed_run_ends_like_one_that_was_not() {
    for (family, kind) in [("llama", "causal_lm"), ("t5", "seq2seq_lm")] {
        let task = Task::new(family, kind, false);
        let overrides = &["adapter.config=lora[r=4,dropout=0.1]", "train.epochs=2"];
        let (whole, killed) = (task.run("whole", overrides), task.run("killed", overrides));
        finish(&whole);
        for kill_at in [3, 10, 16] {
            let outcome = train(&killed, &mut |event| match event {
                Event::Step { step, .. } if step == kill_at => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            });
            assert!(!outcome.unwrap().finished);
        }
        let mut resumed_after = None;
        train(&killed, &mut |event| {
            if let Event::Resumed { step } = event {
                resumed_after = Some(step);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(resumed_after, Some(14));
        assert_eq!(bytes(&killed), bytes(&whole), "{family}");
        assert_eq!(metrics(&killed.dir), metrics(&whole.dir), "{family}");
    }
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    // Halves of a batch hold completions of other lengths: a step must weigh tokens, not batches.
    for (family, kind) in [("llama", "causal_lm"), ("t5", "seq2seq_lm")] {
        let task = Task::new(family, kind, false);
        let with = |out: &str, more: &[&str]| {
            let overrides = [
                &[
                    "train.batching=random",
                    "train.epochs=1",
                    "data.shard={index = 0, of = 3}",
                    "train.learning_rate=1e-3",
                ],
                more,
            ]
            .concat();
            let run = task.run(out, &overrides);
            finish(&run);
            (weights(&run), series(&run.dir, "train_loss"))
        };
        let (large, large_loss) = with("large", &["train.batch_size=8"]);
        let (small, small_loss) = with("small", &["train.batch_size=4", "train.accumulate=2"]);
        for (a, b) in large_loss.iter().zip(&small_loss) {
            assert!((a - b).abs() < 1e-5, "{family}: {large_loss:?} {small_loss:?}");
        }
        assert!(apart(&large, &small) < 1e-4, "{family}: {}", apart(&large, &small));
        let (other, _) = with("other", &["train.batch_size=4"]);
        assert!(apart(&large, &other) > 1e-3, "{family}");
    }
}

#[test]
fn gradient_checkpointing_ends_where_the_whole_graph_does() {
    for (family, kind) in [("llama", "causal_lm"), ("t5", "seq2seq_lm")] {
        let task = Task::new(family, kind, false);
        let with = |checkpointing: bool| {
            let run = task.run(
                &format!("checkpointing_{checkpointing}"),
                &[
                    "adapter.config=lora[r=4,alpha=8,dropout=0.1]",
                    "train.base_dropout=0.1",
                    "train.epochs=1",
                    &format!("train.gradient_checkpointing={checkpointing}"),
                ],
            );
            finish(&run);
            weights(&run)
        };
        let worst = apart(&with(false), &with(true));
        assert!(worst < 1e-4, "{family}: {worst}");
    }
}

#[test]
fn mistakes_are_named() {
    let (llama, t5) = (Task::llama(), Task::new("t5", "seq2seq_lm", false));
    for (task, text) in [
        (&llama, "{\"prompt\": \"w5\", \"answer\": \"w6\"}\n"),
        (&t5, "{\"prompt\": \"\", \"completion\": \"w6\"}\n"),
    ] {
        fs::write(task.path("data/wrong.jsonl"), text).unwrap();
    }
    fs::write(
        llama.path("data/empty.jsonl"),
        "{\"prompt\": \"\", \"completion\": \"\"}\n",
    )
    .unwrap();
    let chat =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"w5\"}, {\"role\": \"assistant\", \"content\": \"w6\"}]}\n";
    fs::write(t5.path("data/chat.jsonl"), chat).unwrap();
    let bert = Task::new("bert", "causal_lm", false);
    let failing = |task: &Task, overrides: &[&str]| {
        let run = task.recipe(overrides).map(|recipe| Run {
            model_dir: recipe.model.path.clone().into(),
            dir: task.path("bad"),
            registry: METHODS,
            device: Device::flex(),
            recipe,
        });
        let trained = run.and_then(|run| train(&run, &mut |_| ControlFlow::Continue(())));
        trained.unwrap_err().to_string()
    };
    for (task, overrides, parts) in [
        (
            &llama,
            &["model.max_length=3"][..],
            &[
                "`model.max_length` is 3, expected more",
                "train.jsonl:13 is left",
                "its prompt alone has 3",
            ][..],
        ),
        (
            &llama,
            &["data.train=data/wrong.jsonl"],
            &["no field `completion`", "wrong.jsonl:1", "`answer`"],
        ),
        (
            &llama,
            &["data.train=data/empty.jsonl"],
            &["`data` is ", "empty.jsonl:1", "at least one token before"],
        ),
        (
            &t5,
            &["data.train=data/wrong.jsonl"],
            &["at least one token", "wrong.jsonl:1"],
        ),
        (
            &t5,
            &["data.train=data/chat.jsonl"],
            &[
                "expected `prompt` and `completion`, two texts, for the task `seq2seq_lm`; chats are data of `causal_lm`",
                "messages at ",
                "chat.jsonl:1",
            ],
        ),
        (
            &llama,
            &["head.kind=classification"],
            &["no field `label` at ", "`completion`"],
        ),
        (
            &llama,
            &["head.kind=masked_lm"],
            &[
                "`head.kind` is `masked_lm`, expected one of `classification`",
                "`causal_lm`",
                "`llama`",
            ],
        ),
        (
            &llama,
            &["head.kind=seq2seq_lm"],
            &[
                "`head.kind` is `seq2seq_lm`, expected one of `classification`",
                "`causal_lm`",
            ],
        ),
        (
            &t5,
            &["head.kind=causal_lm"],
            &[
                "`head.kind` is `causal_lm`, expected one of `classification`",
                "`seq2seq_lm`",
                "`t5`",
            ],
        ),
        (
            &bert,
            &[],
            &[
                "`head.kind` is `causal_lm`, expected one of `classification`",
                "`masked_lm`",
                "`bert`",
            ],
        ),
        (&llama, &["data.template=chat"], &["no chat_template"]),
        (&t5, &["data.pack=true"], &["`data.pack` is true", "`causal_lm`"]),
        (
            &bert,
            &["head.kind=masked_lm", "data.template=plain"],
            &["`data.template`", "`masked_lm`"],
        ),
    ] {
        let text = failing(task, overrides);
        for part in parts {
            assert!(text.contains(part), "{overrides:?}: {text}");
        }
    }
}

#[test]
fn answers_are_written_and_compared_with_those_of_the_data() {
    for (family, kind) in [("llama", "causal_lm"), ("t5", "seq2seq_lm")] {
        let task = Task::new(family, kind, false);
        // Seldom, as every evaluation writes.
        let overrides = [
            "train.metric=exact_match",
            "train.epochs=2",
            "train.evaluate_every=1000",
        ];
        let outcome = finish(&task.run("out", &overrides));
        let figures = &outcome.summary.test_figures;
        let rows: Vec<usize> = (104..112).collect();
        let prompts: Vec<String> = rows.iter().map(|row| question(*row)).collect();
        let args: Vec<&str> = prompts.iter().flat_map(|prompt| ["--prompt", prompt]).collect();
        let said = task.generate("out", &args);
        // An answer is at most as long as the longest of the file with its end: three tokens.
        let said = said
            .lines()
            .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "));
        let right = said.zip(&rows).filter(|(said, row)| *said == answer(**row)).count();
        assert_eq!(figures["exact_match"], right as f64 / rows.len() as f64, "{family}");
        let rouge = figures["rouge_l"];
        assert!(rouge >= figures["exact_match"] && rouge <= 1.0, "{family}: {rouge}");

        let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
        command
            .args(["eval", "--json", "--generate", "--adapter"])
            .arg(task.path("out/adapter"));
        let output = command
            .arg("--data")
            .arg(task.path("data/test.jsonl"))
            .output()
            .unwrap();
        let evaluated: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for name in ["exact_match", "rouge_l"] {
            assert_eq!(evaluated["figures"][name], figures[name], "{family}: {name}");
        }
        assert_eq!(evaluated["truncated"], 0);
    }
}

#[test]
fn a_run_that_is_resumed_later_has_the_texts_it_began_with() {
    let task = Task::llama();
    // The second of the minute is a word.
    let config = json!({"chat_template": CHAT.replacen("'w4 '", "'w' ~ (strftime_now('%S') | int) ~ ' '", 1)});
    crate::words::model("llama", &task.path("model"), &config);
    let overrides = ["train.epochs=1", "train.checkpoint_every=2"];
    let run = task.run("one", &overrides);
    train(&run, &mut |event| match event {
        Event::Step { step: 3, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    fs::create_dir(task.path("two")).unwrap();
    for file in ["checkpoint.safetensors", "recipe.toml", "metrics.jsonl"] {
        fs::copy(run.dir.join(file), task.path("two").join(file)).unwrap();
    }
    let weights = |run: &Run| {
        finish(run);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        fs::read(run.dir.join("adapter/adapter.safetensors")).unwrap()
    };
    assert!(weights(&run) == weights(&task.run("two", &overrides)));
    assert!(
        weights(&task.run("three", &overrides)) != weights(&run),
        "the words have no effect"
    );
}
