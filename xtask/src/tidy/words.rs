//! Words a crate must not know: core, the models and training name no method, the methods name no model.
//!
//! Reading is plain: a comment is what follows `//` at the beginning of a line, and everything from a
//! file's first `#[cfg(test)]` on is a test, as is all of a file called `tests.rs`. Both may use any word.

use super::{Finding, METHOD_CRATES};

/// Words that name a method.
const METHODS: [&str; 17] = [
    "adalora",
    "boft",
    "bottleneck",
    "compacter",
    "direft",
    "dora",
    "fourierft",
    "ia3",
    "loha",
    "lokr",
    "lora",
    "loreft",
    "noreft",
    "prefix_tuning",
    "prompt_tuning",
    "reft",
    "vera",
];

/// Words that name a model.
const MODELS: [&str; 12] = [
    "bart",
    "bert",
    "distilbert",
    "gpt2",
    "llama",
    "minilm",
    "mistral",
    "qwen2",
    "roberta",
    "smollm2",
    "t5",
    "vit",
];

/// Words that a crate may use although they name something else too: the crate and the word.
const EXCEPTIONS: [(&str, &str); 2] = [
    // Published configurations call an initialization `bert`.
    ("adapters-bottleneck", "bert"),
    ("adapters-lora", "bert"),
];

/// No line of code outside tests has a word that the crate must not know.
pub(super) fn check(path: &str, text: &str, package: &str) -> Vec<Finding> {
    let (words, what, remedy): (&[&str], _, _) = match package {
        "adapters-adapted" | "adapters-config" | "adapters-core" | "adapters-methods" | "adapters-module"
        | "adapters-models" | "adapters-sites" | "adapters-train" => (
            &METHODS,
            "method",
            "say it in the words of sites and hooks, or move it to the method's crate",
        ),
        _ if METHOD_CRATES.contains(&package) => (
            &MODELS,
            "model",
            "say it in the words of sites and targets, or move it to the models' crate",
        ),
        _ => return Vec::new(),
    };
    if path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        if line.starts_with("//") {
            continue;
        }
        for word in words {
            if has_word(line, word) && !EXCEPTIONS.contains(&(package, word)) {
                findings.push(Finding {
                    path: path.into(),
                    line: index + 1,
                    problem: format!("expected no {what} by name, found `{word}`"),
                    remedy,
                });
            }
        }
    }
    findings
}

/// Whether `line` has `word` in any case with no letter or digit next to it (`LORA_A` has `lora`).
fn has_word(line: &str, word: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        ![before, after].iter().flatten().any(|c| c.is_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of the findings.
    fn lines(path: &str, text: &str, package: &str) -> Vec<usize> {
        let findings = check(path, text, package);
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn core_and_models_name_no_method() {
        let text = "//! Not lora itself.\n// fine\nconst A: &str = \"LORA\";\nlet ia3 = 1;\n";
        assert_eq!(lines("site.rs", text, "adapters-core"), [3, 4]);
        assert_eq!(lines("bert.rs", text, "adapters-models"), [3, 4]);
        assert_eq!(lines("trainer.rs", text, "adapters-train"), [3, 4]);
        assert_eq!(lines("init.rs", text, "adapters-lora"), [0; 0]);
        assert_eq!(lines("main.rs", text, "adapters-cli"), [0; 0]);
    }

    #[test]
    fn method_crates_name_no_model() {
        let text = "//! Doc.\nlet t = \"bert\";\n/// bert\nlet u = LLAMA;\n";
        assert_eq!(lines("init.rs", text, "adapters-prompt"), [2, 4]);
        assert_eq!(lines("bert.rs", text, "adapters-models"), [0; 0]);
    }

    #[test]
    fn a_published_word_is_an_exception_in_its_crate_only() {
        let text = "let t = \"bert\";\n";
        assert_eq!(lines("init.rs", text, "adapters-bottleneck"), [0; 0]);
        assert_eq!(lines("init.rs", text, "adapters-reft"), [1]);
    }

    #[test]
    fn tests_may_use_any_word() {
        let text = "#[cfg(test)]\nmod tests {\n    let lora = 1;\n}\n";
        assert_eq!(lines("site.rs", text, "adapters-core"), [0; 0]);
        let text = "let lora = 1;\n";
        assert_eq!(lines("src/site/tests.rs", text, "adapters-core"), [0; 0]);
    }

    #[test]
    fn words_end_at_letters_and_digits() {
        assert!(has_word("base.LORA_A.weight", "lora"));
        assert!(!has_word("explorable flora", "lora"));
        assert!(!has_word("strip_prefix(x)", "prefix_tuning"));
        assert!(!has_word("gpt22", "gpt2"));
    }
}
