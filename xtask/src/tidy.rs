//! `cargo xtask tidy`: the rules that keep the tree in shape, checked on the text of its files.
//!
//! Each rule is a function from a path and a text to findings, so that it can be read and tested on its
//! own. A finding says where, what is wrong and what to do.

mod dependencies;
mod loops;
mod unsafe_code;
mod wording;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use miette::{IntoDiagnostic, Result, WrapErr, bail};

/// Lines a Rust file may have.
const MAX_LINES: usize = 600;

/// File names that say nothing about what is inside.
const VAGUE_NAMES: [&str; 4] = ["base.rs", "utils.rs", "helpers.rs", "types.rs"];

/// Crates that each hold one method (or one family of methods).
const METHOD_CRATES: [&str; 9] = [
    "adapters-bottleneck",
    "adapters-fusion",
    "adapters-lora",
    "adapters-orthogonal",
    "adapters-prefix",
    "adapters-prompt",
    "adapters-reft",
    "adapters-selective",
    "adapters-spectral",
];

/// First folders of absolute paths that belong to one machine.
const MACHINE_FOLDERS: [&str; 4] = ["home", "root", "tmp", "work"];

/// What is wrong at one line, and what to do about it.
#[derive(Debug, PartialEq)]
struct Finding {
    /// Path from the workspace root, with `/`.
    path: String,
    /// Line, from 1.
    line: usize,
    /// What was expected and found.
    problem: String,
    /// What to do.
    remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            problem,
            remedy,
        } = self;
        write!(f, "{path}:{line}: {problem}: {remedy}")
    }
}

/// Checks every file of the workspace.
///
/// # Errors
///
/// When a file cannot be read, or when there is a finding; findings are printed first.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut paths = Vec::new();
    list(root, "", &ignored(root), &mut paths)?;
    paths.sort();
    let mut findings = Vec::new();
    let mut checked = 0;
    let mut crates: BTreeMap<String, loops::Crate> = BTreeMap::new();
    for path in &paths {
        let file = root.join(path);
        let bytes = fs::read(&file)
            .into_diagnostic()
            .wrap_err_with(|| format!("{}: cannot read", file.display()))?;
        // Weights and pictures are not text.
        if let Ok(text) = String::from_utf8(bytes) {
            checked += 1;
            findings.extend(check(path, &text));
            if let Some((package, below)) = source_of(path) {
                crates.entry(package.to_owned()).or_default().add(path, below, &text);
            }
        }
    }
    findings.extend(crates.iter().flat_map(|(package, files)| files.check(package)));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {checked} text files, nothing to report");
            Ok(())
        }
        1 => bail!("tidy: expected no findings, found 1"),
        count => bail!("tidy: expected no findings, found {count}"),
    }
}

/// The crate of a source file, and the file's path below `src/`.
fn source_of(path: &str) -> Option<(&str, &str)> {
    let (package, below) = path.strip_prefix("crates/")?.split_once("/src/")?;
    below.ends_with(".rs").then_some((package, below))
}

/// Entries of the root `.gitignore` that name one thing in the root (`/target`).
fn ignored(root: &Path) -> Vec<String> {
    fs::read_to_string(root.join(".gitignore"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().strip_prefix('/'))
        .map(|entry| entry.trim_end_matches('/').to_owned())
        .collect()
}

/// Collects the files under `folder`, as paths from the root, without what is ignored.
fn list(root: &Path, folder: &str, ignored: &[String], paths: &mut Vec<String>) -> Result<()> {
    let listed = root.join(folder);
    let entries = fs::read_dir(&listed)
        .into_diagnostic()
        .wrap_err_with(|| format!("{}: cannot list", listed.display()))?;
    for entry in entries {
        let entry = entry.into_diagnostic()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() {
            name.clone()
        } else {
            format!("{folder}/{name}")
        };
        if name == ".git" || ignored.contains(&path) {
            continue;
        }
        let kind = entry.file_type().into_diagnostic()?;
        if kind.is_dir() {
            list(root, &path, ignored, paths)?;
        } else if kind.is_file() {
            paths.push(path);
        }
    }
    Ok(())
}

/// All rules on one file.
fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = machine_paths(path, text);
    let package = path.strip_prefix("crates/").and_then(|rest| rest.split('/').next());
    let fuzz = path.starts_with("fuzz/");
    let rust = path.ends_with(".rs") && (package.is_some() || fuzz || path.starts_with("xtask/"));
    if path == "Cargo.toml" || path.ends_with("/Cargo.toml") {
        findings.extend(unsafe_code::check_manifest(path, text));
    }
    if rust {
        findings.extend(file_size(path, text));
        findings.extend(file_name(path));
        // The rule itself has the word.
        findings.extend(
            (package.is_some() || fuzz)
                .then(|| unsafe_code::check(path, text))
                .flatten(),
        );
        if fuzz || path.starts_with("xtask/src/") || path.split('/').nth(2) == Some("src") {
            findings.extend(module_doc(path, text));
        }
    }
    if let Some(package) = package {
        if path.ends_with("/Cargo.toml") {
            findings.extend(dependencies::check(path, text, package));
        }
        if rust && path.split('/').nth(2) == Some("src") {
            findings.extend(words::check(path, text, package));
            findings.extend(wording::check(path, text));
        }
    }
    findings
}

/// A source file begins with its module documentation.
fn module_doc(path: &str, text: &str) -> Option<Finding> {
    let (index, first) = text
        .lines()
        .enumerate()
        .find(|(_, line)| !line.trim().is_empty())
        .unwrap_or((0, ""));
    let documented = first.starts_with("//!") || first.starts_with("#![doc");
    (!documented).then(|| Finding {
        path: path.into(),
        line: index + 1,
        problem: format!(
            "expected module documentation, found `{}`",
            first.chars().take(40).collect::<String>()
        ),
        remedy: "begin the file with `//!` and one sentence that says what it is for",
    })
}

/// A Rust file has at most [`MAX_LINES`] lines.
fn file_size(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    (lines > MAX_LINES).then(|| Finding {
        path: path.into(),
        line: MAX_LINES + 1,
        problem: format!("expected at most {MAX_LINES} lines, found {lines}"),
        remedy: "split the file by concept",
    })
}

/// A Rust file is named after what it holds.
fn file_name(path: &str) -> Option<Finding> {
    let name = path.rsplit('/').next().unwrap_or(path);
    VAGUE_NAMES.contains(&name).then(|| Finding {
        path: path.into(),
        line: 1,
        problem: format!("expected a name that says what is inside, found `{name}`"),
        remedy: "name the file after its one concept",
    })
}

/// No absolute path of one machine.
fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(found) = machine_path(line) {
            findings.push(Finding {
                path: path.into(),
                line: index + 1,
                problem: format!("expected no path of one machine, found `{found}`"),
                remedy: "use a path from the repository root, an argument or a temporary folder",
            });
        }
    }
    findings
}

/// The start of the first absolute path of one machine in `line`.
///
/// A slash within a word, an address or a longer path (`and/or`, `host/home`, `../work`) begins none.
fn machine_path(line: &str) -> Option<&str> {
    for (at, _) in line.match_indices('/') {
        let inside = line[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || "/._-~$)}]*>".contains(c));
        if inside {
            continue;
        }
        let rest = &line[at + 1..];
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
            .unwrap_or(rest.len());
        if MACHINE_FOLDERS.contains(&&rest[..end]) {
            return Some(&line[at..=at + end]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: &str = "crates/adapters-core/src/site.rs";

    /// `path:line` of each finding.
    fn locations(path: &str, text: &str) -> Vec<String> {
        check(path, text)
            .iter()
            .map(|finding| format!("{}:{}", finding.path, finding.line))
            .collect()
    }

    #[test]
    fn a_source_file_begins_with_its_documentation() {
        assert_eq!(locations(CORE, "//! Sites.\nfn f() {}\n"), [""; 0]);
        assert_eq!(locations(CORE, "#![doc = include_str!(\"../README.md\")]\n"), [""; 0]);
        assert_eq!(
            locations(CORE, "\nuse std::fmt;\n"),
            ["crates/adapters-core/src/site.rs:2"]
        );
        assert_eq!(locations(CORE, ""), ["crates/adapters-core/src/site.rs:1"]);
        assert_eq!(locations("xtask/src/x.rs", "mod a;\n"), ["xtask/src/x.rs:1"]);
    }

    #[test]
    fn integration_tests_need_no_module_documentation() {
        assert_eq!(locations("crates/adapters-core/tests/a.rs", "use a;"), [""; 0]);
    }

    #[test]
    fn a_file_of_600_lines_is_fine_and_one_of_601_is_not() {
        let lines = |count: usize| "//! Doc.\n".repeat(count);
        assert_eq!(locations(CORE, &lines(600)), [""; 0]);
        assert_eq!(locations(CORE, &lines(601)), ["crates/adapters-core/src/site.rs:601"]);
        assert_eq!(locations("data/reviews/train.jsonl", &lines(601)), [""; 0]);
    }

    #[test]
    fn vague_file_names_are_reported() {
        assert_eq!(
            locations("crates/adapters-cli/src/utils.rs", "//! Doc.\n"),
            ["crates/adapters-cli/src/utils.rs:1"]
        );
    }

    #[test]
    fn paths_of_one_machine_are_reported_in_any_text() {
        let folder = MACHINE_FOLDERS[0];
        for (line, reported) in [
            (format!("open(\"/{folder}/me/x\")"), true),
            (format!("cd /{folder}"), true),
            (format!("/{folder}/x"), true),
            (format!("https://example.org/{folder}/x"), false),
            (format!("../{folder}/x"), false),
            (format!("/{folder}s/x"), false),
            (format!("and/{folder}"), false),
            (format!("$DIR/{folder}"), false),
        ] {
            assert_eq!(machine_path(&line).is_some(), reported, "{line}");
        }
        assert_eq!(
            locations("README.md", &format!("one\nsee `/{folder}/x`\n")),
            ["README.md:2"]
        );
    }

    #[test]
    fn a_finding_says_where_what_and_what_to_do() {
        let found = check(CORE, "//! Doc.\nlet lora = 1;\n");
        assert_eq!(
            found[0].to_string(),
            "crates/adapters-core/src/site.rs:2: expected no method by name, found `lora`: \
             say it in the words of sites and hooks, or move it to the method's crate"
        );
    }

    #[test]
    fn ignored_folders_and_weights_are_not_read() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let write = |path: &str, bytes: &[u8]| {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, bytes).expect("written");
        };
        write(".gitignore", b"/target\n");
        write("target/src/bad.md", &[b"/", MACHINE_FOLDERS[0].as_bytes()].concat());
        write("models/weights", &[0xff, 0xfe]);
        write("xtask/src/main.rs", b"//! Doc.\n");
        run(root.path()).expect("nothing to report");
        write("crates/adapters-core/src/types.rs", b"fn f() {}\n");
        let error = run(root.path()).expect_err("two findings").to_string();
        assert!(error.contains("found 2"), "{error}");
    }
}
