//! Texts are written by the rules of `generation_config.json` as transformers writes them. `tests/generation/make.py` made the expected ones.

use std::fs;
use std::path::Path;

use adapters::Adapted;
use adapters::models::{Beams, Generation, Model, Pretrained};
use adapters::store::{read_json, write_json};
use burn::tensor::Device;
use serde_json::Value;

const TEXTS: [&[u32]; 2] = [&[5, 9, 33, 14, 7], &[48, 12, 61]];

/// What each text grows by, one at a time: transformers counts padding as text.
fn written(generation: &Generation, model: &Adapted<Model>) -> Vec<Vec<u32>> {
    let write = |text: &&[u32]| match model.base().causal_lm() {
        Ok(_) => generation.run(model, &[text], |_, _| ()),
        Err(_) => generation.answer(model, &[text], |_, _| ()),
    };
    TEXTS.iter().flat_map(|text| write(text).unwrap()).collect()
}

#[test]
fn texts_follow_the_rules_as_those_of_transformers_do() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<Value> = read_json(&root.join("tests/generation/expected.json")).unwrap();
    let mut without_rules = Vec::new();
    let mut changed = 0;
    for name in ["t5", "bart", "llama"] {
        let base = root.join("golden").join(name).join("base");
        let model = Adapted::new(Pretrained::open(&base).unwrap().model(&Device::flex()).unwrap());
        for case in cases.iter().filter(|case| case["model"] == name) {
            let dir = tempfile::tempdir().unwrap();
            fs::copy(base.join("config.json"), dir.path().join("config.json")).unwrap();
            write_json(&dir.path().join("generation_config.json"), &case["config"]).unwrap();
            let published = Pretrained::open(dir.path()).unwrap().generation().unwrap();
            assert!(published.unsupported.is_empty() && published.search.is_empty());
            let count = case["beams"].as_u64().unwrap() as usize;
            let beams = Beams {
                count,
                ..Beams::default()
            };
            for cache in [true, false] {
                let generation = Generation {
                    max_new_tokens: 8,
                    beams: (count > 1).then_some(beams),
                    cache,
                    ..published.clone().generation()
                };
                let found = written(&generation, &model);
                assert_eq!(serde_json::json!(found), case["tokens"], "{case}");
            }
            let plain = (
                &case["model"],
                &case["beams"],
                &case["config"]["eos_token_id"],
                &case["tokens"],
            );
            match case["config"].as_object().unwrap().len() {
                1 => without_rules.push(plain),
                _ => changed += usize::from(!without_rules.contains(&plain)),
            }
        }
    }
    assert!(changed > 100, "the rules change texts: {changed}");
}
