//! A tiny task: a random BERT of width 16, a word tokenizer of sixteen words, forty labeled sentences.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use crate::random_bert::write_checkpoint;

const WORDS: [&str; 16] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "plot", "a", "the", "very", "not", "warm", "cold",
    "long", "[MASK]",
];

/// A folder with `model/`, `data/` and `recipe.toml`, removed when it is dropped.
#[derive(Debug)]
pub struct Task {
    dir: TempDir,
}

impl Task {
    /// Writes the task.
    ///
    /// # Panics
    ///
    /// Panics if the temporary folder cannot be written.
    #[allow(clippy::new_without_default, reason = "it writes files")]
    pub fn new() -> Self {
        let task = Self {
            dir: tempfile::tempdir().expect("the temporary folder can be written"),
        };
        for folder in ["model", "data"] {
            fs::create_dir(task.path(folder)).expect("the temporary folder can be written");
        }
        write_checkpoint(&task.path("model"), 2, 8, 1);
        fs::write(task.path("model/tokenizer.json"), tokenizer().to_string())
            .expect("the temporary folder can be written");
        for (split, count) in [("train", 40), ("validation", 12), ("test", 12)] {
            fs::write(task.path(&format!("data/{split}.jsonl")), sentences(count))
                .expect("the temporary folder can be written");
        }
        fs::write(task.path("recipe.toml"), RECIPE).expect("the temporary folder can be written");
        task
    }

    /// A path inside the folder.
    pub fn path(&self, rest: &str) -> PathBuf {
        self.dir.path().join(rest)
    }

    /// The recipe.
    pub fn recipe(&self) -> PathBuf {
        self.path("recipe.toml")
    }
}

const RECIPE: &str = r#"
[model]
path = "model"
max_length = 8

[data]
train = "data/train.jsonl"
validation = "data/validation.jsonl"
test = "data/test.jsonl"
labels = ["bad", "good"]

[adapter]
name = "tiny"
config = "lora[r=4,alpha=8,dropout=0.1]"

[train]
epochs = 3
batch_size = 4
learning_rate = 1e-2
clip_norm = 1.0
checkpoint_every = 7
base_dropout = 0.1
"#;

fn tokenizer() -> serde_json::Value {
    let vocab: serde_json::Map<_, _> = WORDS
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect();
    let special = |id: usize| {
        json!({
            "id": id, "content": WORDS[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let added: Vec<_> = [0, 1, 2, 3, 15].map(special).into();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    })
}

/// Sentences of one to four words, labeled by whether they say good or bad.
fn sentences(count: usize) -> String {
    let line = |i: usize| {
        let filler: Vec<&str> = (0..i % 4).map(|k| WORDS[6 + (i * 3 + k * 5) % 9]).collect();
        let text = format!(
            "{} {}",
            if i.is_multiple_of(2) { "good" } else { "bad" },
            filler.join(" ")
        );
        json!({"text": text.trim(), "label": (i + 1) % 2}).to_string() + "\n"
    };
    (0..count).map(line).collect()
}
