//! A golden model that reads words: `w0`, `w1`, .. are its tokens.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The golden files of a family.
pub(crate) fn golden(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../adapters-testkit/golden/{family}"))
}

/// Writes the golden model of a family with a tokenizer of one token a word.
pub(crate) fn model(family: &str, dir: &Path, tokenizer_config: &Value) {
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden(family).join("base").join(file), dir.join(file)).unwrap();
    }
    let vocab: serde_json::Map<String, Value> = (0..100).map(|id| (format!("w{id}"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "truncation": null, "padding": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w1"},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.join("tokenizer_config.json"), tokenizer_config.to_string()).unwrap();
}
