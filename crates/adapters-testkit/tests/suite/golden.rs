//! Parity with the Python libraries: the set in the repository, and a larger one where there is one.

use std::path::{Path, PathBuf};

use adapters::store::read_safetensors;
use adapters_testkit::golden::{GoldenError, Options, Outcome, Selection, Summary, Verdict, walk};
use burn::tensor::Device;

fn repository_set() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn run(dir: &Path, options: &Options) -> (Summary, Vec<Outcome>) {
    let mut outcomes = Vec::new();
    let summary = walk(dir, &Selection::default(), options, |outcome| {
        outcomes.push(outcome.clone())
    })
    .unwrap();
    (summary, outcomes)
}

fn lines(outcomes: &[Outcome], keep: impl Fn(&Verdict) -> bool) -> String {
    outcomes
        .iter()
        .filter(|o| keep(&o.verdict))
        .map(|o| format!("{o}\n"))
        .collect()
}

#[test]
fn every_case_in_the_repository_is_right() {
    let (summary, outcomes) = run(&repository_set(), &Options::new(Device::flex()));
    let wrong = lines(&outcomes, |verdict| *verdict != Verdict::Ok);
    assert!(wrong.is_empty(), "{wrong}");
    let cases = cases_of(&repository_set());
    assert_eq!((summary.ok, summary.failed, summary.unsupported), (cases.len(), 0, 0));
    // A tool that compares nothing is right about everything.
    assert!(outcomes.iter().all(|o| o.max_abs_err.is_some_and(|err| err > 0.0)));
    let right: usize = outcomes.iter().filter_map(|o| o.grads).map(|(right, _)| right).sum();
    let is_gradient = |key: &&String| key.starts_with("grad/");
    let recorded = cases.iter().map(|case| {
        let (expected, _) = read_safetensors(&case.join("expected.safetensors")).unwrap();
        expected.keys().filter(is_gradient).count()
    });
    assert_eq!(right, recorded.sum::<usize>());
    assert!(
        cases.len() > 100 && right > 1000,
        "{} cases, {right} gradients",
        cases.len()
    );
}

/// The folders of all cases of a set.
fn cases_of(set: &Path) -> Vec<PathBuf> {
    let inside = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .collect()
    };
    inside(set)
        .iter()
        .flat_map(|model| inside(&model.join("cases")))
        .collect()
}

/// `ADAPTERS_GOLDEN_DIR=DIR cargo test -p adapters-testkit --test suite golden:: -- --ignored`
#[test]
#[ignore = "needs the larger golden set, named by ADAPTERS_GOLDEN_DIR"]
fn no_case_of_the_larger_set_fails() {
    let dir = PathBuf::from(std::env::var_os("ADAPTERS_GOLDEN_DIR").expect("ADAPTERS_GOLDEN_DIR names the larger set"));
    let (_, outcomes) = run(&dir, &Options::new(Device::flex()));
    let failed = lines(&outcomes, |verdict| matches!(verdict, Verdict::Fail(_)));
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn a_wrong_number_a_lost_gradient_and_an_unknown_op_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    copy(&repository_set().join("bert/base"), &set.join("m/base"));
    std::fs::copy(
        repository_set().join("bert/inputs.safetensors"),
        set.join("m/inputs.safetensors"),
    )
    .unwrap();
    for (to, from) in [
        ("tight", "lora"),
        ("other", "lora_all"),
        ("lost", "lora"),
        ("op", "merge_lora"),
    ] {
        copy(
            &repository_set().join("bert/cases").join(from),
            &set.join("m/cases").join(to),
        );
    }
    let cases = set.join("m/cases");
    edit(&cases.join("tight/case.json"), |case| {
        case["atol"] = 0.0.into();
        case["rtol"] = 0.0.into();
    });
    // Other numbers, same shapes; and an expectation of gradients that no parameter has.
    let lora = repository_set().join("bert/cases/lora/expected.safetensors");
    std::fs::copy(&lora, cases.join("other/expected.safetensors")).unwrap();
    let text = std::fs::read(&lora).unwrap();
    std::fs::write(
        cases.join("lost/expected.safetensors"),
        replace(&text, b"loras.a.lora_A", b"loras.a.lora_X"),
    )
    .unwrap();
    edit(&cases.join("op/case.json"), |case| {
        case["ops"][0]["op"] = "fold_adapter".into()
    });
    std::fs::create_dir_all(cases.join("void")).unwrap();

    let (summary, outcomes) = run(&set, &Options::new(Device::flex()));
    assert_eq!((summary.ok, summary.failed, summary.unsupported), (0, 4, 1));
    let line = |case: &str| outcomes.iter().find(|o| o.case == case).unwrap().to_string();
    assert!(
        line("tight").starts_with("FAIL m/tight") && line("tight").contains("grads=8/8"),
        "{}",
        line("tight")
    );
    assert!(
        line("tight").contains("output is out of tolerance"),
        "{}",
        line("tight")
    );
    assert!(
        line("other").contains("grads=0/8") && line("other").contains("more gradients"),
        "{}",
        line("other")
    );
    assert!(
        line("lost").contains("grads=4/8") && line("lost").contains("is absent"),
        "{}",
        line("lost")
    );
    assert!(
        line("void").starts_with("FAIL") && line("void").contains("case.json"),
        "{}",
        line("void")
    );
    assert_eq!(
        line("op"),
        "unsupported m/op max_abs_err=- grads=- reason: op = fold_adapter"
    );
}

#[test]
fn dumps_and_resaved_adapters_are_right_again() {
    let out = tempfile::tempdir().unwrap();
    let options = Options {
        dump: Some(out.path().join("dump")),
        resave: Some(out.path().join("again")),
        ..Options::new(Device::flex())
    };
    run(&repository_set(), &options);
    let (dumped, _) = adapters::store::read_safetensors(&out.path().join("dump/bert/lora.safetensors")).unwrap();
    assert_eq!(
        dumped
            .keys()
            .filter(|key| key.starts_with("grad/a/encoder.layer."))
            .count(),
        8
    );
    assert!(dumped.contains_key("output"));

    let set = out.path().join("set");
    copy(&repository_set().join("bert/base"), &set.join("bert/base"));
    std::fs::copy(
        repository_set().join("bert/inputs.safetensors"),
        set.join("bert/inputs.safetensors"),
    )
    .unwrap();
    let cases = [
        "stack_lora",
        "fuse_dynamic3",
        "peft_lora_patterns",
        "peft_lora_regex",
        "peft_lora_seq_cls",
        "lora_gating",
        "lora_scale_init_bert",
        "loreft_suffix",
        "prompt_after_bos",
        "direft",
    ];
    for case in cases {
        let (from, to) = (
            repository_set().join("bert/cases").join(case),
            set.join("bert/cases").join(case),
        );
        copy(&out.path().join("again/bert").join(case), &to);
        for file in ["case.json", "expected.safetensors"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
    let (summary, outcomes) = run(&set, &Options::new(Device::flex()));
    assert_eq!(
        summary.ok,
        cases.len(),
        "{}",
        lines(&outcomes, |verdict| *verdict != Verdict::Ok)
    );
}

#[test]
fn an_empty_selection_is_an_error() {
    let run = |model: Option<&str>, case: Option<&str>| {
        let selection = Selection {
            model: model.map(str::to_owned),
            case: case.map(str::to_owned),
        };
        walk(&repository_set(), &selection, &Options::new(Device::flex()), |_| ())
    };
    assert!(matches!(run(Some("brt"), None), Err(GoldenError::NoModel { found, .. })
            if found.contains("bart, ") && found.contains("bert, ") && found.contains("gpt2")));
    assert!(matches!(run(None, Some("nothing*")), Err(GoldenError::NoCase { .. })));
    assert_eq!(run(Some("bert"), Some("peft_lora_r*")).unwrap().ok, 2);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.unwrap().path(), to);
        let to = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            std::fs::copy(&entry, &to).unwrap();
        }
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(from.len()).position(|w| w == from) {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}
