//! The book says what is true: its files exist, its commands parse, its configurations are read, and its list of methods is that of
//! the program. `ADAPTERS_UPDATE_BOOK=1` writes that list anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use adapters::METHODS;
use adapters::train::Recipe;

fn book() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../book/src")
}

/// The pages, by path in the book.
fn pages() -> Vec<(String, String)> {
    let summary = fs::read_to_string(book().join("SUMMARY.md")).unwrap();
    let links = summary.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let page = |path: &str| (path.to_owned(), fs::read_to_string(book().join(path)).unwrap());
    let pages: Vec<_> = links.map(page).collect();
    assert!(pages.len() > 20, "{}", pages.len());
    pages
}

/// The blocks of a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    let rests = page.split(begin.as_str()).skip(1);
    rests.map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn included_texts_exist() {
    let mut count = 0;
    for (path, page) in pages() {
        let dir = book().join(&path).parent().unwrap().to_owned();
        for include in page.split("{{#include ").skip(1) {
            let include = include.split("}}").next().unwrap();
            let (file, part) = include.split_once(':').unwrap_or((include, ""));
            let text = fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{path}: {file}: {e}"));
            if part.starts_with(|c: char| c.is_alphabetic()) {
                for mark in [
                    format!("<!-- ANCHOR: {part} -->"),
                    format!("<!-- ANCHOR_END: {part} -->"),
                ] {
                    assert_eq!(text.matches(&mark).count(), 1, "{path}: {file} and {mark}");
                }
            }
            count += 1;
        }
        for link in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            assert!(link.starts_with("https:") || dir.join(file).exists(), "{path}: {link}");
        }
    }
    assert!(count > 10);
}

/// The words of a command line with double quotes and single quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().unwrap().push(c),
        }
    }
    words
}

#[test]
fn commands_parse() {
    let dir = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (path, page) in pages() {
        for line in blocks(&page, "sh").iter().flat_map(|block| block.lines()) {
            let Some(args) = line.strip_prefix("adapters ") else {
                continue;
            };
            // Nothing that these name is there: 2 is a command line that does not parse.
            let output = Command::new(env!("CARGO_BIN_EXE_adapters"))
                .args(words(args))
                .current_dir(dir.path())
                // No Hub: nothing is downloaded.
                .env("HF_ENDPOINT", "http://127.0.0.1:1")
                .output()
                .unwrap();
            assert_ne!(
                output.status.code(),
                Some(2),
                "{path}: {line}\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn recipes_and_config_strings_are_read() {
    for (path, page) in pages() {
        for block in blocks(&page, "toml") {
            let read: Result<Recipe, _> = toml::from_str(block);
            assert!(read.is_ok(), "{path}: {}", read.unwrap_err());
        }
    }
    let choosing = fs::read_to_string(book().join("choosing.md")).unwrap();
    let rows = choosing
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut count = 0;
    for row in rows {
        let column = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        for config in column.split('`').skip(1).step_by(2) {
            assert!(METHODS.parse(config).is_ok(), "{config}");
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}

/// Sections and keys of recipes, of the tables that translate names.
#[test]
fn what_tables_name_exists() {
    let schema: serde_json::Value = serde_json::from_str(adapters::train::RECIPE_SCHEMA).unwrap();
    let has = |section: &str, key: &str| !schema["properties"][section]["properties"][key].is_null();
    let help = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_adapters"))
            .args(args)
            .output()
            .unwrap()
    };
    let (mut keys, mut commands) = (0, 0);
    for page in ["from-peft.md", "from-adapterhub.md", "from-axolotl.md"] {
        let text = fs::read_to_string(book().join(page)).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
        for cell in rows
            .skip(1)
            .filter_map(|row| row.strip_suffix(" |")?.split(" | ").nth(1))
        {
            let mut section = None;
            for span in cell.split('`').skip(1).step_by(2) {
                let key = span.split(" = ").next().unwrap();
                match (key.split_once('.'), span.strip_prefix("adapters ")) {
                    (_, Some(command)) => {
                        let words: Vec<&str> = command.split(' ').collect();
                        let output = help(&[words[0], "--help"]);
                        assert!(output.status.success(), "{page}: {span}");
                        let options = String::from_utf8(output.stdout).unwrap();
                        for option in words.iter().filter(|word| word.starts_with("--")) {
                            assert!(options.contains(option), "{page}: {span}");
                        }
                        commands += 1;
                    }
                    (Some((of, key)), None) if schema["properties"].get(of).is_some() && !key.contains('(') => {
                        // Those of a method are in no schema.
                        assert!(has(of, key), "{page}: {span}");
                        section = Some(of);
                        keys += 1;
                    }
                    // Further keys of the section.
                    (None, None) if key.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                        if let Some(section) = section.filter(|section| *section == "train") {
                            assert!(has(section, key), "{page}: `{span}` in `{section}`");
                            keys += 1;
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(keys > 25 && commands > 5, "{keys} keys, {commands} commands");
}

#[test]
fn the_list_of_methods_is_that_of_the_program() {
    let mut list =
        "# All methods and their fields\n\nWritten by `ADAPTERS_UPDATE_BOOK=1 cargo test -p adapters-cli --test suite book` \
                    from what `adapters methods` and `adapters methods NAME` print.\n"
            .to_owned();
    let registry = METHODS;
    for entry in registry.entries() {
        let names: Vec<String> = entry.identifiers().iter().map(|name| format!("`{name}`")).collect();
        list.push_str(&format!(
            "\n## {}\n\n{}\n\nNames in config strings: {}.\n",
            entry.name(),
            entry.description(),
            names.join(", ")
        ));
        let defaults = entry.identifiers().iter().find_map(|name| entry.defaults(name));
        if let Some(fields) = defaults {
            list.push_str("\n| field | default |\n|---|---|\n");
            for (field, value) in fields {
                list.push_str(&format!(
                    "| `{field}` | `{}` |\n",
                    value.to_string().replace('|', "\\|")
                ));
            }
        }
    }
    let path = book().join("method-list.md");
    if std::env::var_os("ADAPTERS_UPDATE_BOOK").is_some() {
        fs::write(&path, &list).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        list,
        "{}",
        path.display()
    );
}
