//! Every task with a head, on an encoder, a decoder and an encoder-decoder: the loss falls, and what was saved predicts as what
//! was trained.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use adapters::METHODS;
use adapters::train::{Event, Recipe, Run, Summary, train};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use burn::tensor::Device;
use serde_json::{Value, json};
use tempfile::TempDir;

const RECIPE: &str = r#"
[model]
path = "model"
max_length = 24
[data]
train = "train.jsonl"
validation = "train.jsonl"
test = "test.jsonl"
[adapter]
name = "tiny"
config = "lora[r=4,alpha=8]"
[head]
dropout = 0.0
[train]
batch_size = 8
learning_rate = 1e-2
keep = "last"
base_dropout = 0.0
"#;

/// A word that decides everything, among others.
fn record(task: &str, row: usize) -> Value {
    let key = row % 2;
    let word = format!("w{}", 10 + key);
    let filler = |k: usize| format!("w{}", 60 + (row / 2 + k) % 5);
    let words = vec![filler(0), word.clone(), filler(1), filler(2)];
    let text = words.join(" ");
    match task {
        "classification" => json!({"text": text, "label": key}),
        "regression" => json!({"text": text, "label": key as f64 * 3.0 - 1.0}),
        "multi_label" => json!({"text": text, "label": if key == 0 { json!(["any"]) } else { json!(["any", "odd"]) }}),
        "tagging" => {
            let tags = ["O", if key == 0 { "B-X" } else { "B-Y" }, "O", "O"];
            json!({"words": words, "tags": tags})
        }
        "question_answering" => json!({"question": "w20", "context": text, "answer": word}),
        "multiple_choice" => {
            let choices = if key == 0 {
                ["w10 w60", "w11 w61"]
            } else {
                ["w11 w60", "w10 w61"]
            };
            json!({"question": "w20", "choices": choices, "label": key})
        }
        other => panic!("{other}"),
    }
}

struct Case {
    dir: TempDir,
    task: &'static str,
}

impl Case {
    fn new(family: &str, task: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let case = Self { dir, task };
        fs::create_dir(case.path("model")).unwrap();
        crate::words::model(family, &case.path("model"), &json!({}));
        for (name, rows) in [("train", 0..40), ("test", 40..56)] {
            let lines: String = rows.map(|row| record(task, row).to_string() + "\n").collect();
            fs::write(case.path(&format!("{name}.jsonl")), lines).unwrap();
        }
        fs::write(case.path("recipe.toml"), RECIPE).unwrap();
        case
    }

    fn path(&self, rest: &str) -> PathBuf {
        self.dir.path().join(rest)
    }

    /// Trains; the losses of the first and the last evaluation, and the summary.
    fn train(&self, overrides: &[&str]) -> (f64, f64, Summary) {
        let labels = match self.task {
            "multi_label" => r#"["any","odd"]"#,
            "tagging" => r#"["O","B-X","B-Y"]"#,
            "regression" | "question_answering" => "0",
            _ => "2",
        };
        let own = [format!("head.kind={}", self.task), format!("data.labels={labels}")];
        let overrides: Vec<String> = own
            .into_iter()
            .chain(overrides.iter().map(|s| (*s).to_owned()))
            .collect();
        let recipe = Recipe::read(&self.path("recipe.toml"), &overrides).unwrap();
        let run = Run {
            model_dir: recipe.model.path.clone().into(),
            dir: self.path("run"),
            registry: METHODS,
            device: Device::flex(),
            recipe,
        };
        let mut losses = Vec::new();
        let outcome = train(&run, &mut |event| {
            if let Event::Evaluated { evaluation, .. } = event {
                losses.push(evaluation.loss);
            }
            ControlFlow::Continue(())
        });
        (losses[0], losses[losses.len() - 1], outcome.unwrap().summary)
    }

    fn command(&self, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_adapters"))
            .args(args)
            .current_dir(self.path(""))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// `adapters eval` of a saved folder says what the run measured.
    fn reload(&self, folder: &str, summary: &Summary) {
        let eval = self.command(&["eval", "--adapter", folder, "--data", "test.jsonl"]);
        let expected = [
            format!("{} {:.4}\n", summary.metric, summary.test_score().unwrap()),
            format!("\nloss {:.4}\n", summary.test_loss.unwrap()),
        ];
        for line in expected {
            assert!(eval.contains(&line), "{folder}: {eval} without {line}");
        }
        let metrics = fs::read_to_string(self.path("run/metrics.jsonl")).unwrap();
        assert!(metrics.contains(&format!("\"eval_{}\":", summary.metric)), "{metrics}");
    }
}

fn learns(family: &str, task: &'static str, epochs: usize) -> Case {
    let case = Case::new(family, task);
    let (first, last, summary) = case.train(&[&format!("train.epochs={epochs}")]);
    assert!(last < first, "{family} {task}: {first} to {last}");
    case.reload("run/adapter", &summary);
    case.reload("run/adapter-peft", &summary);
    case
}

#[test]
fn an_encoder_learns_every_task() {
    for (task, args, lines) in [
        (
            "classification",
            &["--text", "w60 w11 w61", "--text", "w60 w10"][..],
            &["1\t", "0\t"][..],
        ),
        (
            "multi_label",
            &["--text", "w60 w11 w61 w62", "--text", "w60 w10 w61 w62"],
            &["any|odd\t", "any\t"],
        ),
        (
            "tagging",
            &["--text", "w60 w11 w61 w62"],
            &["w60/O w11/B-Y w61/O w62/O"],
        ),
        (
            "question_answering",
            &["--question", "w20", "--text", "w60 w11 w61 w62"],
            &["w11"],
        ),
        (
            "multiple_choice",
            &["--question", "w20", "--choice", "w11 w60", "--choice", "w10 w61"],
            &["w10 w61\t"],
        ),
        ("regression", &["--data", "test.jsonl"], &["-", "1"]),
    ] {
        let case = Case::new("bert", task);
        let (first, last, summary) = case.train(&["train.epochs=12"]);
        assert!(last < first * 0.5, "{task}: {first} to {last}");
        let score = summary.test_score().unwrap();
        assert!(score > 0.9, "{task}: {score}");
        case.reload("run/adapter", &summary);
        case.reload("run/adapter-peft", &summary);
        let predicted = case.command(&[&["predict", "--adapter", "run/adapter"], args].concat());
        for (line, start) in predicted.lines().zip(lines) {
            assert!(line.starts_with(start), "{task}: {predicted}");
        }
        assert!(predicted.lines().count() >= lines.len(), "{task}: {predicted}");
        if task == "multiple_choice" {
            let choices = [
                "--question",
                "w20",
                "--choice",
                "w11\tw60",
                "--choice",
                "w10\tw61",
                "--json",
            ];
            let predicted = case.command(&[&["predict", "--adapter", "run/adapter"], &choices[..]].concat());
            let predicted: Value = serde_json::from_str(&predicted).unwrap();
            assert_eq!(predicted["prediction"], "w10\tw61");
        }
    }
}

#[test]
fn a_decoder_reads_the_last_token_of_the_text() {
    for task in [
        "classification",
        "regression",
        "multi_label",
        "tagging",
        "question_answering",
        "multiple_choice",
    ] {
        let case = learns("llama", task, 3);
        if task == "classification" {
            let manifest: Value =
                serde_json::from_slice(&fs::read(case.path("run/adapter/manifest.json")).unwrap()).unwrap();
            // AdapterHub's files hold the default of a decoder, which is the last token.
            assert!(manifest.get("head").is_none(), "{manifest}");
            assert!(case.path("run/adapter/head_config.json").exists());
        }
    }
}

#[test]
fn an_encoder_decoder_reads_its_decoder() {
    for task in ["classification", "tagging", "question_answering", "multiple_choice"] {
        learns("t5", task, 3);
    }
    // With the memory of one block the same comes out.
    let case = Case::new("t5", "classification");
    let whole = case.train(&["train.epochs=2"]);
    fs::remove_dir_all(case.path("run")).unwrap();
    let by_block = case.train(&["train.epochs=2", "train.gradient_checkpointing=true"]);
    assert!((whole.1 - by_block.1).abs() < 1e-3, "{} and {}", whole.1, by_block.1);
}

#[test]
fn a_head_of_a_published_class_is_in_the_files_of_both_libraries() {
    let case = Case::new("bert", "classification");
    let (.., summary) = case.train(&["train.epochs=1", "head.pooling=pooler"]);
    let config: Value = read(&case.path("run/adapter-peft/adapter_config.json"));
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"], json!(["classifier"]));
    assert!(!case.path("run/adapter-peft/head.safetensors").exists());
    assert!(case.path("run/adapter/head_config.json").exists());
    // What other programs find the base by, and the card.
    let base = case.path("model").canonicalize().unwrap();
    assert_eq!(config["base_model_name_or_path"], json!(base));
    let hub: Value = read(&case.path("run/adapter/adapter_config.json"));
    assert_eq!(hub["model_name"], json!(base));
    for (folder, library) in [("adapter", "adapters"), ("adapter-peft", "peft")] {
        let card = fs::read_to_string(case.path(&format!("run/{folder}/README.md"))).unwrap();
        assert!(
            card.starts_with(&format!("---\nlibrary_name: {library}\nbase_model: {base:?}\n")),
            "{card}"
        );
        let score = format!("| test accuracy | {:.4} |", summary.test_score().unwrap());
        assert!(card.contains(&score), "{card}");
    }
    case.reload("run/adapter-peft", &summary);
    case.reload("run/adapter", &summary);
    // Several labels and a number are of the same class; that several are right is in the manifest.
    for (task, width) in [("multi_label", 2), ("regression", 1)] {
        let case = Case::new("bert", task);
        let (.., summary) = case.train(&["train.epochs=2", "head.pooling=pooler"]);
        let config: Value = read(&case.path("run/adapter-peft/adapter_config.json"));
        assert_eq!(config["task_type"], "SEQ_CLS", "{task}");
        let weights = case.path("run/adapter-peft/adapter_model.safetensors");
        let (tensors, _) = adapters::store::read_safetensors(&weights).unwrap();
        let classifier = &tensors["base_model.model.classifier.weight"];
        assert_eq!(classifier.shape().to_vec()[0], width, "{task}");
        case.reload("run/adapter-peft", &summary);
        case.command(&["convert", "--adapter", "run/adapter", "--to", "peft", "--out", "peft"]);
        case.reload("peft", &summary);
    }
}

#[test]
fn a_head_that_no_published_class_has_is_named_when_it_is_saved() {
    let case = Case::new("bert", "classification");
    let said = case.command(&[
        "train",
        "recipe.toml",
        "--out",
        "run",
        "--set",
        "head.kind=classification",
    ]);
    for part in [
        "AdapterHub and PEFT have no such head",
        "`head.pooling = \"mean\"`",
        "`head.pooling = \"pooler\"`",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let config: Value = read(&case.path("run/adapter-peft/adapter_config.json"));
    assert_eq!(config["task_type"], "FEATURE_EXTRACTION");
    assert!(case.path("run/adapter-peft/head.safetensors").exists());
}

/// The first images of a file of digits as files, `LABEL/NUMBER.png`.
fn digits(dir: &Path, split: &str, count: usize) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/digits");
    let lines = fs::read_to_string(data.join(split).with_extension("jsonl")).unwrap();
    for (number, line) in lines.lines().take(count).enumerate() {
        let record: Value = serde_json::from_str(line).unwrap();
        let folder = dir.join(record["label"].to_string());
        fs::create_dir_all(&folder).unwrap();
        let (_, encoded) = record["image"].as_str().unwrap().split_once(',').unwrap();
        fs::write(folder.join(format!("{number}.png")), STANDARD.decode(encoded).unwrap()).unwrap();
    }
}

#[test]
fn images_in_folders_are_learned_and_predicted() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case {
        dir,
        task: "image_classification",
    };
    digits(&case.path("train"), "train", 120);
    digits(&case.path("test"), "test", 40);
    let table: String = ["0", "1"]
        .iter()
        .flat_map(|label| fs::read_dir(case.path("test").join(label)).unwrap())
        .map(|file| format!("{}\n", file.unwrap().path().display()))
        .collect();
    fs::write(case.path("images.csv"), format!("image\n{table}")).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/vit-tiny-digits");
    let recipe = RECIPE.replace("train.jsonl", "train").replace("test.jsonl", "test");
    let recipe = recipe.replace("\"model\"", &format!("{:?}", model.canonicalize().unwrap()));
    fs::write(case.path("recipe.toml"), recipe).unwrap();
    let (first, last, summary) = case.train(&["train.epochs=8", "data.labels=10"]);
    assert!(last < first * 0.5, "{first} to {last}");
    let score = summary.test_score().unwrap();
    assert!(score > 0.6, "{score}");
    for folder in ["run/adapter", "run/adapter-peft"] {
        let eval = case.command(&["eval", "--adapter", folder, "--data", "test"]);
        assert!(eval.contains(&format!("accuracy {score:.4}")), "{folder}: {eval}");
    }
    let head: Value = read(&case.path("run/adapter/head_config.json"));
    assert_eq!(head["config"]["head_type"], "image_classification");
    let peft: Value = read(&case.path("run/adapter-peft/adapter_config.json"));
    assert_eq!(
        (&peft["task_type"], &peft["modules_to_save"]),
        (&Value::Null, &json!(["classifier"]))
    );
    let class = json!({"base_model_class": "AutoModelForImageClassification", "parent_library": "transformers"});
    assert_eq!(peft["auto_mapping"], class);
    let card = fs::read_to_string(case.path("run/adapter-peft/README.md")).unwrap();
    assert!(
        card.contains("AutoPeftModel.from_pretrained(\"path/to/this/folder\", num_labels=10)"),
        "{card}"
    );

    let predict = |args: &[&str]| case.command(&[&["predict", "--adapter", "run/adapter"], args].concat());
    let of_table = predict(&["--data", "images.csv"]);
    let files: Vec<&str> = table.lines().collect();
    let of_files = predict(&[&["--image"], files.as_slice()].concat());
    for ((line, file), of_table) in of_files.lines().zip(&files).zip(of_table.lines()) {
        assert_eq!(line, format!("{of_table}\t{file}"));
    }
    let zeros_and_ones = of_table.lines().filter(|line| line.starts_with(['0', '1'])).count();
    assert!(zeros_and_ones * 2 > files.len(), "{of_table}");
    assert_eq!(
        predict(&["--data", "test/0"]).lines().count(),
        fs::read_dir(case.path("test/0")).unwrap().count()
    );
}

/// Sounds of 16 kHz as files, `LABEL/NUMBER.wav`: a low and a high tone, each of another length and loudness.
fn tones(dir: &Path, count: usize) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    for (label, turns) in [("high", 0.9f32), ("low", 0.1)] {
        fs::create_dir_all(dir.join(label)).unwrap();
        for number in 0..count {
            let path = dir.join(label).join(format!("{number}.wav"));
            let mut writer = hound::WavWriter::create(path, spec).unwrap();
            for at in 0..400 + 20 * number {
                let loud = 4000.0 + 500.0 * (number % 7) as f32;
                writer.write_sample((loud * (turns * at as f32).sin()) as i16).unwrap();
            }
            writer.finalize().unwrap();
        }
    }
}

/// High and low tones in folders.
fn sounds() -> Case {
    let case = Case {
        dir: tempfile::tempdir().unwrap(),
        task: "audio_classification",
    };
    tones(&case.path("train"), 12);
    tones(&case.path("test"), 4);
    case
}

#[test]
fn sounds_in_folders_are_learned_and_predicted() {
    let case = sounds();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters-testkit/golden/wav2vec2/base");
    let recipe = RECIPE.replace("train.jsonl", "train").replace("test.jsonl", "test");
    let recipe = recipe.replace("\"model\"", &format!("{:?}", model.canonicalize().unwrap()));
    fs::write(case.path("recipe.toml"), recipe).unwrap();
    let own = [
        "train.epochs=6",
        r#"data.labels=["high","low"]"#,
        "train.class_weights=balanced",
    ];
    let (first, last, summary) = case.train(&own);
    assert!(last < first * 0.7, "{first} to {last}");
    let score = summary.test_score().unwrap();
    assert!(score > 0.8, "{score}");
    let eval = case.command(&["eval", "--adapter", "run/adapter", "--data", "test"]);
    assert!(eval.contains(&format!("accuracy {score:.4}")), "{eval}");
    let files = ["test/low/1.wav", "test/high/2.wav"];
    let predicted = case.command(&[&["predict", "--adapter", "run/adapter", "--audio"], files.as_slice()].concat());
    let lines: Vec<&str> = predicted.lines().collect();
    assert_eq!(lines.len(), 2);
    for (line, (label, file)) in lines.iter().zip([("low", files[0]), ("high", files[1])]) {
        assert!(line.starts_with(label) && line.ends_with(file), "{predicted}");
    }
    fs::write(case.path("no.wav"), "text").unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_adapters"))
        .args(["predict", "--adapter", "run/adapter", "--audio", "no.wav"])
        .current_dir(case.path(""))
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && message.contains("no.wav"), "{message}");
}

/// The encoder of a Whisper alone, by the sum of its layers: the adapter's folder says which model it was trained on.
#[test]
fn whispers_encoder_learns_sounds() {
    let case = sounds();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters-testkit/golden/whisper/base");
    let model = case.path("whisper");
    fs::create_dir(&model).unwrap();
    fs::copy(golden.join("model.safetensors"), model.join("model.safetensors")).unwrap();
    let config = fs::read_to_string(golden.join("config.json")).unwrap();
    let summed = config.replace(
        r#""use_weighted_layer_sum": false"#,
        r#""use_weighted_layer_sum": true"#,
    );
    assert_ne!(config, summed);
    fs::write(model.join("config.json"), summed).unwrap();
    let spectrograms = r#"{"feature_size": 8, "chunk_length": 1, "hop_length": 1142, "sampling_rate": 16000}"#;
    fs::write(model.join("preprocessor_config.json"), spectrograms).unwrap();
    let recipe = RECIPE.replace("train.jsonl", "train").replace("test.jsonl", "test");
    let recipe = recipe.replace("\"model\"", &format!("{model:?}"));
    fs::write(case.path("recipe.toml"), recipe).unwrap();
    let (first, last, summary) = case.train(&["train.epochs=8", r#"data.labels=["high","low"]"#]);
    assert!(last < first * 0.7, "{first} to {last}");
    assert!(summary.test_score().unwrap() > 0.8, "{:?}", summary.test_score());
    for adapter in ["run/adapter", "run/adapter-peft"] {
        let predicted = case.command(&[
            "predict",
            "--adapter",
            adapter,
            "--audio",
            "test/low/1.wav",
            "test/high/2.wav",
        ]);
        let labels: Vec<&str> = predicted
            .split_whitespace()
            .filter(|word| ["high", "low"].contains(word))
            .collect();
        assert_eq!(labels, ["low", "high"], "{adapter}: {predicted}");
    }
}

#[test]
fn wrong_data_is_named() {
    for (task, line, parts) in [
        (
            "tagging",
            r#"{"words":["w1","w2"],"tags":["O"]}"#,
            &["`tags`", "train.jsonl:1", "2"][..],
        ),
        (
            "question_answering",
            r#"{"question":"w1","context":"w2 w3","answer":"w4"}"#,
            &["`answer`", "substring of the context"],
        ),
        (
            "question_answering",
            r#"{"question":"w1","context":"w2 w2","answer":"w2","answer_start":1}"#,
            &["character 1"],
        ),
        (
            "multiple_choice",
            r#"{"question":"w1","choices":["w2"],"label":0}"#,
            &["`choices`", "2 texts", "found 1"],
        ),
        ("tagging", r#"{"text":"w1"}"#, &["no field `words`"]),
    ] {
        let case = Case::new("bert", task);
        fs::write(case.path("train.jsonl"), line).unwrap();
        let labels = if task == "tagging" { r#"["O"]"# } else { "2" };
        let output = Command::new(env!("CARGO_BIN_EXE_adapters"))
            .args([
                "train",
                "recipe.toml",
                "--set",
                &format!("head.kind={task}"),
                "--set",
                &format!("data.labels={labels}"),
            ])
            .current_dir(case.path(""))
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        // Long lines are wrapped.
        let error = error.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(1), "{error}");
        for part in parts {
            assert!(error.contains(part), "{task}: {error}");
        }
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
