//! The help text of every command, as it is printed. `ADAPTERS_UPDATE_HELP=1` writes the files anew.

use std::fs;
use std::path::Path;
use std::process::Command;

/// `adapters` and its commands.
const COMMANDS: &[&str] = &[
    "",
    "train",
    "eval",
    "predict",
    "generate",
    "chat",
    "info",
    "merge",
    "combine",
    "eject",
    "convert",
    "pull",
    "push",
    "bench",
    "new",
    "methods",
    "recipe",
    "doctor",
    "completions",
];

fn help(command: &str) -> String {
    let mut adapters = Command::new(env!("CARGO_BIN_EXE_adapters"));
    if !command.is_empty() {
        adapters.arg(command);
    }
    let output = adapters.arg("--help").env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{command}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_help_text_is_as_written_down() {
    // A build with more backends lists them, which moves the line breaks.
    let backends = adapters::available_backends().join(", ");
    let flowing = |text: &str| {
        text.split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace(&backends, "flex")
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    for command in COMMANDS {
        let name = if command.is_empty() { "adapters" } else { command };
        let path = folder.join(format!("{name}.txt"));
        let now = help(command);
        if std::env::var_os("ADAPTERS_UPDATE_HELP").is_some() {
            fs::write(&path, &now).unwrap();
        }
        let before = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            flowing(&now),
            flowing(&before),
            "the help of `{name}` is not that of {}",
            path.display()
        );
        assert!(
            backends != "flex" || now == before,
            "the lines of the help of `{name}` are not those of {}",
            path.display()
        );
    }
}

#[test]
fn no_command_is_left_out() {
    let all = help("");
    let commands = all.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // The lines that go on with the text of the one before are further in.
    let listed = commands
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for command in listed.filter(|command| !command.is_empty() && *command != "help") {
        assert!(COMMANDS.contains(&command), "{command}");
    }
}
