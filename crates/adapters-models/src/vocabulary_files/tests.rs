//! Ids beside those of transformers, and refusals.

use std::fs;

use serde_json::json;

use super::*;
use crate::tokenizer::TextTokenizer;

/// A case of `expected.json`, which `make.py` wrote with transformers, as a folder.
fn folder(case: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocabulary_files");
    for name in case["vocabulary"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        fs::copy(source.join(name), dir.path().join(name.trim_start_matches("clip-"))).unwrap();
    }
    for (name, content) in case["files"].as_object().unwrap() {
        fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    dir
}

fn cases() -> Map<String, Value> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocabulary_files");
    read_json(&source.join("expected.json")).unwrap()
}

#[test]
fn ids_are_those_of_transformers() {
    for (name, case) in &cases() {
        let dir = folder(case);
        assert!(TextTokenizer::is_in(dir.path()));
        let tokenizer = TextTokenizer::load(dir.path(), 512).unwrap();
        assert_eq!(Value::from(tokenizer.vocab_size()), case["tokens"], "{name}");
        assert_eq!(json!(tokenizer.special_ids()), case["special"], "{name}");
        for row in case["rows"].as_array().unwrap() {
            let pair = row["pair"].as_str();
            let text = row["text"].as_str().unwrap();
            let encoded = tokenizer.encode([(text, pair)]).unwrap().remove(0);
            assert_eq!(json!(encoded.ids), row["ids"], "{name}: {text:?}");
            // transformers leaves types out where its class has none.
            if !row["types"].is_null() {
                assert_eq!(json!(encoded.type_ids), row["types"], "{name}: {text:?}");
            }
            // CLIP's class cuts spaces off at the ends.
            let decoded = tokenizer.decode(&encoded.ids).unwrap();
            assert_eq!(decoded.trim(), row["decoded"].as_str().unwrap().trim(), "{name}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let cases = cases();
    let refused = |case: &str, file: &str, content: &str| {
        let dir = folder(&cases[case]);
        match content {
            "" => fs::remove_file(dir.path().join(file)).unwrap(),
            content => fs::write(dir.path().join(file), content).unwrap(),
        }
        let message = TextTokenizer::load(dir.path(), 8).map(drop).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    let config = "tokenizer_config.json";
    for (case, file, content, says) in [
        (
            "bert",
            config,
            r#"{"tokenizer_class": "BertweetTokenizer"}"#,
            "`BertweetTokenizer`",
        ),
        (
            "bert",
            config,
            r#"{"do_lower_case": "yes"}"#,
            "`do_lower_case` is \"yes\"",
        ),
        ("bert", config, r#"{"cls_token": "<cls>"}"#, "no `<cls>`, the cls_token"),
        ("bert", config, r#"{"mask_token": 3}"#, "`mask_token` is 3"),
        ("bert", "config.json", r#"{"model_type": "mpnet"}"#, "`mpnet` models"),
        ("bert", "vocab.txt", "", "no tokenizer.json"),
        (
            "gpt2",
            config,
            r#"{"tokenizer_class": "BertTokenizer"}"#,
            "needs vocab.txt",
        ),
        ("gpt2", "merges.txt", "#version: 0.2\na b c\n", "line 2 is `a b c`"),
        ("gpt2", "merges.txt", "#version: 0.2\n\u{11f} x\n", "out of vocabulary"),
        (
            "gpt2",
            config,
            r#"{"added_tokens_decoder": {"7000": {"content": "<new>"}}}"#,
            "`<new>` is number 7000 in the folder",
        ),
    ] {
        let message = refused(case, file, content);
        assert!(
            message.to_lowercase().contains(&says.to_lowercase()),
            "{says}: {message}"
        );
    }
}
