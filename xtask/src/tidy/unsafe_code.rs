//! The inventory of `unsafe`: where it is, and how often. That each block says why it is sound is checked by clippy
//! (`undocumented_unsafe_blocks`); that no other file has any, by the compiler (`unsafe_code`) and here.

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
