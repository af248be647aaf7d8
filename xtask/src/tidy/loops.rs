//! Import loops: files of one crate that use each other in a circle.
//!
//! The graph has a node for each source file of a crate. It has an edge where a file names another one by a path that begins
//! with `crate::`, `super::` or `self::`. A parent module and its children may form a loop of up to [`MAX_LOOP`] files; a
//! longer loop means that the files cannot be read one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;

/// Files that a loop may have.
const MAX_LOOP: usize = 3;

/// Longer loops that are still there, by crate and first file, with the number of their files. They may only become shorter, and
/// no new one may appear.
const KNOWN: &[(&str, &str, usize)] = &[];

/// The source files of one crate by module path (`""` is the crate root, `"set::attach"` a file below it), with their texts.
#[derive(Default)]
pub(super) struct Crate {
    files: BTreeMap<String, (String, String)>,
}

impl Crate {
    /// Adds the file at `path`, whose path below `src/` is `below`.
    pub(super) fn add(&mut self, path: &str, below: &str, text: &str) {
        let module = below.trim_end_matches(".rs").replace('/', "::");
        let module = match module.as_str() {
            "lib" | "main" => String::new(),
            module => module.strip_suffix("::mod").unwrap_or(module).to_owned(),
        };
        self.files.insert(module, (path.to_owned(), without_tests(text)));
    }

    /// A finding for each loop of more than [`MAX_LOOP`] files that is not a [`KNOWN`] one of `package`.
    pub(super) fn check(&self, package: &str) -> Vec<Finding> {
        let graph: BTreeMap<&str, BTreeSet<&str>> = self
            .files
            .iter()
            .map(|(module, (_, text))| (module.as_str(), self.uses(module, text)))
            .collect();
        let mut loops: Vec<Vec<&str>> = components(&graph);
        let most = |first: &str| {
            let known = KNOWN.iter().find(|(of, file, _)| (*of, *file) == (package, first));
            known.map_or(MAX_LOOP, |(.., files)| *files)
        };
        loops.retain(|files| files.len() > most(files[0]));
        loops
            .into_iter()
            .map(|files| Finding {
                path: self.files[files[0]].0.clone(),
                line: 1,
                problem: format!(
                    "expected no import loop of more than {MAX_LOOP} files, found {}: {}",
                    files.len(),
                    files.iter().map(|file| shown(file)).collect::<Vec<_>>().join(", ")
                ),
                remedy: "move what two files need from each other into a third one that uses neither",
            })
            .collect()
    }

    /// The other files that a text names.
    fn uses(&self, module: &str, text: &str) -> BTreeSet<&str> {
        let reexported = self.files.get("").map_or("", |(_, root)| root.as_str());
        let mut used = BTreeSet::new();
        for path in paths(module, text) {
            let file = self.file_of(&path).or_else(|| {
                // `crate::Name`, re-exported by the crate root from the file that declares it.
                let name = path.first()?;
                let source = paths("", reexported)
                    .into_iter()
                    .find(|path| path.last() == Some(name))?;
                self.file_of(&source)
            });
            if let Some(file) = file.filter(|file| *file != module) {
                used.insert(file);
            }
        }
        used
    }

    /// The file that the longest beginning of a path names.
    fn file_of(&self, path: &[String]) -> Option<&str> {
        (1..=path.len()).rev().find_map(|length| {
            let (module, _) = self.files.get_key_value(&path[..length].join("::"))?;
            Some(module.as_str())
        })
    }
}

/// The text before a file's unit tests, without comments. In a module that the file holds, `super` is the file itself.
fn without_tests(text: &str) -> String {
    let mut inside = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if code.starts_with("#[cfg(test)]") {
            break;
        }
        if inside.is_none() && code.ends_with('{') && (code.starts_with("mod ") || code.contains(" mod ")) {
            inside = Some(indent);
        } else if code == "}" && inside == Some(indent) {
            inside = None;
        }
        match inside {
            _ if code.starts_with("//") => {}
            Some(_) => lines.push(line.replace("super::", "self::")),
            None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// Every path below the crate root that a text of `module` names, groups in braces taken apart.
fn paths(module: &str, text: &str) -> Vec<Vec<String>> {
    let own: Vec<String> = module
        .split("::")
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    let mut found = Vec::new();
    let roots = [("crate::", 0), ("super::", 1), ("self::", 2)];
    for (root, kind) in roots {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                continue;
            }
            let start = match kind {
                0 => Vec::new(),
                1 => own[..own.len().saturating_sub(1)].to_vec(),
                _ => own.clone(),
            };
            expand(&text[at + root.len()..], start, &mut found);
        }
    }
    // In the crate root and in module files, `pub use child::Name` has no prefix.
    for line in text.split(';') {
        if let Some(at) = line.rfind("pub use ") {
            let rest = &line[at + "pub use ".len()..];
            if !["crate::", "super::", "self::"]
                .iter()
                .any(|root| rest.starts_with(root))
            {
                expand(rest, own.clone(), &mut found);
            }
        }
    }
    found
}

/// Adds the paths of `rest`, which follows `start`: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn expand(rest: &str, mut start: Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut rest = rest.trim_start();
    while let Some(after) = rest.strip_prefix("super::") {
        start.pop();
        rest = after;
    }
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            for item in items(group) {
                expand(item, start.clone(), found);
            }
            return;
        }
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        start.push(rest[..end].to_owned());
        match rest[end..].strip_prefix("::") {
            Some(after) => rest = after,
            None => break,
        }
    }
    if !start.is_empty() {
        found.push(start);
    }
}

/// The items of a group, up to its closing brace.
fn items(group: &str) -> Vec<&str> {
    let (mut depth, mut from, mut items) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(group[from..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(group[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

/// Groups of nodes that can all reach each other, each sorted.
fn components<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|node| (*node, reachable(graph, node))).collect();
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for node in graph.keys() {
        if seen.contains(node) {
            continue;
        }
        let group: Vec<&str> = reach[node]
            .iter()
            .copied()
            .filter(|other| reach.get(other).is_some_and(|back| back.contains(node)))
            .collect();
        seen.extend(group.iter().copied());
        if group.len() > 1 {
            groups.push(group);
        }
    }
    groups
}

/// All nodes that can be reached from `start` by at least one edge.
fn reachable<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = graph.get(start).into_iter().flatten().copied().collect();
    while let Some(node) = next.pop() {
        if reached.insert(node) {
            next.extend(graph.get(node).into_iter().flatten().copied());
        }
    }
    reached
}

/// A module path as it is shown.
fn shown(module: &str) -> &str {
    if module.is_empty() { "the crate root" } else { module }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crate of files by their path below `src/`.
    fn of(files: &[(&str, &str)]) -> Crate {
        let mut tree = Crate::default();
        for (below, text) in files {
            tree.add(&format!("crates/x/src/{below}"), below, text);
        }
        tree
    }

    #[test]
    fn a_loop_of_four_files_is_found_through_groups_parents_and_reexports() {
        let tree = of(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;\npub use d::Last;"),
            ("a.rs", "use crate::{b::{B, Other}, unrelated::X};"),
            ("b.rs", "use super::c::C;"),
            ("c.rs", "fn f() -> crate::Last { todo!() }"),
            ("d.rs", "use crate::a::A;"),
        ]);
        let findings = tree.check("x");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].problem.ends_with("found 4: a, b, c, d"), "{findings:?}");
    }

    #[test]
    fn short_loops_tests_and_comments_are_fine() {
        let tree = of(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e; pub use e::E;"),
            ("a.rs", "use crate::b::B;"),
            ("b/mod.rs", "use crate::c::C;"),
            ("c.rs", "use crate::a::A;\n// use crate::d::D;"),
            ("d.rs", "use crate::a::A;\n#[cfg(test)]\nmod tests { use crate::c::C; }"),
            ("e.rs", "use crate::d::D;\nmod inner {\n    use super::D;\n}\n"),
        ]);
        assert_eq!(tree.check("x"), []);
    }
}
