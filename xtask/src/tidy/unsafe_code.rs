//! The inventory of `unsafe`: where it is, and how often. That each block says why it is sound is checked by clippy
//! (`undocumented_unsafe_blocks`); that no other file has any, by the compiler (`unsafe_code`), which every package is built with, and
//! here.

use super::Finding;

/// Every file with `unsafe`, and the lines of code that have the word.
const INVENTORY: [(&str, usize); 3] = [
    ("crates/adapters-nn/src/kernel/raw/half.rs", 11),
    ("crates/adapters-nn/src/kernel/raw/mod.rs", 16),
    ("crates/adapters-nn/src/kernel/raw/tiles.rs", 25),
];

/// Compares a file with the inventory.
pub(super) fn check(path: &str, text: &str) -> Option<Finding> {
    let lines: Vec<usize> = (1..)
        .zip(text.lines())
        .filter(|(_, line)| is_unsafe(line))
        .map(|(number, _)| number)
        .collect();
    let expected = INVENTORY
        .iter()
        .find(|(known, _)| *known == path)
        .map_or(0, |(_, count)| *count);
    (lines.len() != expected).then(|| Finding {
        path: path.into(),
        line: lines.last().copied().unwrap_or(1),
        problem: format!("expected {expected} lines with `unsafe`, found {}", lines.len()),
        remedy: "keep `unsafe` inside `adapters-nn/src/kernel/raw`, and bring the inventory in `xtask/src/tidy/unsafe_code.rs` up \
                 to date",
    })
}

/// A package forbids `unsafe`, with the lints of the workspace or its own. That of the kernels denies it, so that one module may allow
/// it.
pub(super) fn check_manifest(path: &str, text: &str) -> Option<Finding> {
    let lints = text.split_once("\n[lints").map_or("", |(_, lints)| lints);
    let expected = match path {
        "crates/adapters-nn/Cargo.toml" => "unsafe_code = \"deny\"",
        "Cargo.toml" | "fuzz/Cargo.toml" => "unsafe_code = \"forbid\"",
        _ => "workspace = true",
    };
    let lints = match path {
        "Cargo.toml" => text.split_once("\n[workspace.lints").map_or("", |(_, lints)| lints),
        _ => lints,
    };
    (!lints.lines().any(|line| line == expected)).then(|| Finding {
        path: path.into(),
        line: 1,
        problem: format!("expected `{expected}` among the lints, found none"),
        remedy: "add `[lints]` with `workspace = true`, which forbids `unsafe`",
    })
}

/// Whether the code of a line has the word.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_forbids_it() {
        let inherited = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n";
        let own = "[package]\nname = \"a\"\n\n[lints.rust]\nunsafe_code = \"forbid\"\n";
        let denied = own.replace("forbid", "deny");
        assert_eq!(check_manifest("crates/a/Cargo.toml", inherited), None);
        assert_eq!(check_manifest("fuzz/Cargo.toml", own), None);
        assert_eq!(check_manifest("crates/adapters-nn/Cargo.toml", &denied), None);
        assert_eq!(
            check_manifest(
                "Cargo.toml",
                "[workspace]\n\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\n"
            ),
            None
        );
        for (path, text) in [
            ("crates/a/Cargo.toml", "[package]\nversion.workspace = true\n"),
            ("crates/a/Cargo.toml", &denied),
            ("fuzz/Cargo.toml", inherited),
            ("fuzz/Cargo.toml", &denied),
        ] {
            assert!(check_manifest(path, text).is_some(), "{path}: {text}");
        }
    }

    #[test]
    fn each_line_with_the_word_counts_and_comments_do_not() {
        let text = "// unsafe\n#![allow(unsafe_code)]\nlet a = unsafe { b() };\nunsafe impl Send for A {}\n";
        let finding = check("crates/a/src/lib.rs", text).expect("there are two");
        assert_eq!(
            (finding.line, finding.problem.as_str()),
            (4, "expected 0 lines with `unsafe`, found 2")
        );
        assert_eq!(check("crates/a/src/lib.rs", "// unsafe\n"), None);
        assert!(check(INVENTORY[0].0, "").is_some());
    }
}
