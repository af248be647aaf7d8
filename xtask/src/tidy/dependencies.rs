//! Which crates of this workspace a crate may use, read from its manifest.

use toml::de::{DeTable, DeValue};

use super::{Finding, METHOD_CRATES};

/// Which crates of this workspace a crate may use; `None` when any.
fn allowed(package: &str) -> Option<&'static [&'static str]> {
    match package {
        "adapters-derive" | "adapters-hub" | "adapters-module" | "adapters-nn" => Some(&[]),
        "adapters-config" | "adapters-sites" => Some(&["adapters-nn"]),
        "adapters-core" => Some(&[
            "adapters-config",
            "adapters-derive",
            "adapters-module",
            "adapters-nn",
            "adapters-sites",
        ]),
        "adapters-adapted" => Some(&["adapters-core", "adapters-module", "adapters-nn"]),
        "adapters-methods" => Some(&["adapters-core", "adapters-nn"]),
        "adapters-store" => Some(&["adapters-core", "adapters-fusion", "adapters-methods", "adapters-nn"]),
        "adapters-reparam" => Some(&["adapters-core", "adapters-methods", "adapters-nn", "adapters-store"]),
        "adapters-models" => Some(&[
            "adapters-adapted",
            "adapters-core",
            "adapters-methods",
            "adapters-module",
            "adapters-nn",
            "adapters-store",
        ]),
        "adapters-train" => Some(&[
            "adapters-adapted",
            "adapters-core",
            "adapters-fusion",
            "adapters-methods",
            "adapters-models",
            "adapters-nn",
            "adapters-store",
        ]),
        _ if METHOD_CRATES.contains(&package) => Some(&["adapters-core", "adapters-methods", "adapters-nn"]),
        _ => None,
    }
}

/// A crate uses only the crates it may know. Its tests may also use the test kit.
pub(super) fn check(path: &str, text: &str, package: &str) -> Vec<Finding> {
    let Some(allowed) = allowed(package) else {
        return Vec::new();
    };
    let manifest = match DeTable::parse(text) {
        Ok(manifest) => manifest.into_inner(),
        Err(error) => {
            return vec![Finding {
                path: path.into(),
                line: line_at(text, error.span().map_or(0, |span| span.start)),
                problem: format!("expected TOML, found {}", error.message()),
                remedy: "correct the file",
            }];
        }
    };
    let mut used = Vec::new();
    uses(&manifest, &mut used);
    let targets = manifest.get("target").and_then(|v| v.get_ref().as_table());
    for target in targets.into_iter().flat_map(|table| table.values()) {
        if let Some(target) = target.get_ref().as_table() {
            uses(target, &mut used);
        }
    }
    used.into_iter()
        .filter(|used| used.name == "adapters" || used.name.starts_with("adapters-"))
        .filter(|used| !allowed.contains(&used.name.as_str()))
        .filter(|used| !(used.dev && used.name == "adapters-testkit"))
        .map(|used| Finding {
            path: path.into(),
            line: line_at(text, used.at),
            problem: format!(
                "expected {package} to use {}, found {}",
                if allowed.is_empty() {
                    "no other crate of the workspace".into()
                } else {
                    format!("only {}", allowed.join(" and "))
                },
                used.name
            ),
            remedy: "move the code that needs it to a crate that may know both",
        })
        .collect()
}

/// A dependency as a manifest names it.
struct Used {
    name: String,
    at: usize,
    dev: bool,
}

/// Adds the dependencies in the three dependency tables of `manifest`.
fn uses(manifest: &DeTable<'_>, used: &mut Vec<Used>) {
    for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
        let table = manifest.get(section).and_then(|v| v.get_ref().as_table());
        for (key, value) in table.into_iter().flatten() {
            // `core = { package = "adapters-core" }` uses what `package` says.
            let renamed = match value.get_ref() {
                DeValue::Table(value) => value.get("package").and_then(|v| v.get_ref().as_str()),
                _ => None,
            };
            used.push(Used {
                name: renamed.unwrap_or(key.get_ref()).to_owned(),
                at: key.span().start,
                dev: section == "dev-dependencies",
            });
        }
    }
}

/// Line, from 1, of a byte position.
fn line_at(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `path:line` of each finding.
    fn locations(path: &str, text: &str, package: &str) -> Vec<String> {
        check(path, text, package)
            .iter()
            .map(|finding| format!("{}:{}", finding.path, finding.line))
            .collect()
    }

    #[test]
    fn dependencies_follow_the_rules_in_every_spelling() {
        let path = "crates/adapters-lora/Cargo.toml";
        let fine = "[dependencies]\nadapters-core = { workspace = true }\nburn = \"1\"\n\
                    [dev-dependencies]\nadapters-testkit = { path = \"../x\" }\n";
        assert_eq!(locations(path, fine, "adapters-lora"), [""; 0]);
        for (text, line) in [
            ("[dependencies]\nadapters-models = \"1\"\n", 2),
            ("[dependencies]\n\nadapters-models.workspace = true\n", 3),
            ("[dependencies.adapters-models]\nworkspace = true\n", 1),
            ("[dependencies]\nm = { package = \"adapters-models\" }\n", 2),
            ("[build-dependencies]\nadapters = \"1\"\n", 2),
            ("[dev-dependencies]\nadapters-reft = \"1\"\n", 2),
            ("[dependencies]\nadapters-testkit = \"1\"\n", 2),
            ("[target.'cfg(unix)'.dependencies]\nadapters-reft = \"1\"\n", 2),
            ("[dependencies\n", 1),
        ] {
            assert_eq!(
                locations(path, text, "adapters-lora"),
                [format!("{path}:{line}")],
                "{text}"
            );
        }
    }

    #[test]
    fn each_crate_has_its_own_rule() {
        let text = "[dependencies]\nadapters-core = \"1\"\nadapters-models = \"1\"\n";
        for (package, count) in [
            ("adapters-core", 2),
            ("adapters-models", 1),
            ("adapters-reft", 1),
            ("adapters-train", 0),
            ("adapters", 0),
        ] {
            assert_eq!(check("Cargo.toml", text, package).len(), count, "{package}");
        }
    }
}
