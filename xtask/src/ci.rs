//! `cargo xtask ci`: the one local command that equals continuous integration.
//!
//! The plan is a list of steps, each a cargo command (or the tidy check), cheapest first. The first
//! step that fails ends the run; a table of the steps with their times closes it either way. All steps
//! share one target folder, in which builds of different feature sets live side by side.

mod plan;
mod tally;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use miette::{IntoDiagnostic, Result, WrapErr, miette};

use plan::{Action, Group, Step, describe, plan};
use tally::Tally;

use crate::tidy;

/// Arguments of `cargo xtask ci`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only this group of steps (may be repeated).
    #[arg(long, value_name = "STEP")]
    only: Vec<Group>,
}

/// A finished step.
struct Outcome {
    name: String,
    time: Duration,
    verdict: Verdict,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Failed,
    /// The program for it is not there.
    NotInstalled,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::NotInstalled => "skipped, not installed",
        })
    }
}

/// Runs the plan, or the groups that `--only` names, and stops at the first failure.
///
/// # Errors
///
/// When a step fails; the error names it and the command that repeats it alone.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let chosen = |step: &Step| args.only.is_empty() || args.only.contains(&step.group);
    let steps: Vec<Step> = plan().into_iter().filter(chosen).collect();
    let mut outcomes = Vec::new();
    let mut tally = None;
    let mut failure = None;
    for (index, step) in steps.iter().enumerate() {
        println!("\n[{}/{}] {}", index + 1, steps.len(), describe(step));
        let start = Instant::now();
        let mut is_there = true;
        let result = match &step.action {
            _ if step.needs_vulkan && !has_vulkan() => {
                is_there = false;
                println!(
                    "no Vulkan driver is installed, so this is not checked; on Debian `apt-get install mesa-vulkan-drivers` installs a software device"
                );
                Ok(())
            }
            Action::Tidy => tidy::run(root),
            Action::Installed { name, arguments } => {
                is_there = is_installed(name);
                match is_there {
                    true => {
                        let arguments: Vec<String> =
                            [(*name).to_owned()].into_iter().chain(arguments.clone()).collect();
                        cargo(root, &arguments, &[], None)
                    }
                    false => {
                        println!(
                            "`cargo {name}` is not installed, so this is not checked; `cargo install --locked cargo-{name}` installs it"
                        );
                        Ok(())
                    }
                }
            }
            Action::Cargo { arguments, environment } => {
                let counted = (step.group == Group::Test).then(|| tally.get_or_insert_with(Tally::default));
                cargo(root, arguments, environment, counted)
            }
        };
        let time = start.elapsed();
        let verdict = match (&result, is_there) {
            (Err(_), _) => Verdict::Failed,
            (Ok(()), true) => Verdict::Ok,
            (Ok(()), false) => Verdict::NotInstalled,
        };
        println!(
            "[{}/{}] {}: {} in {}",
            index + 1,
            steps.len(),
            step.name,
            verdict,
            seconds(time)
        );
        outcomes.push(Outcome {
            name: step.name.clone(),
            time,
            verdict,
        });
        if let Err(error) = result {
            let group = step
                .group
                .to_possible_value()
                .map_or_else(String::new, |value| value.get_name().to_owned());
            failure = Some(error.wrap_err(format!(
                "step `{}` failed; repeat it with `cargo xtask ci --only {group}`",
                step.name
            )));
            break;
        }
    }
    print!("\n{}", table(&outcomes, steps.len()));
    if let Some(tally) = tally {
        println!("\n{tally}");
    }
    failure.map_or(Ok(()), Err)
}

/// Runs one cargo command in `root`; with a tally, reads the test runner's closing lines on the way.
pub(crate) fn cargo(
    root: &Path,
    arguments: &[String],
    environment: &[(&str, &str)],
    tally: Option<&mut Tally>,
) -> Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root)
        .stdin(Stdio::null());
    // What Cargo said about this package is not for the packages that are built next.
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    if tally.is_some() {
        command.stdout(Stdio::piped());
    }
    let shown = format!("cargo {}", arguments.join(" "));
    let mut child = command
        .spawn()
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot start `{shown}`"))?;
    if let (Some(tally), Some(output)) = (tally, child.stdout.take()) {
        echo(output, &mut std::io::stdout(), tally).wrap_err_with(|| format!("cannot read what `{shown}` prints"))?;
    }
    let status = child
        .wait()
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot wait for `{shown}`"))?;
    if status.success() {
        return Ok(());
    }
    Err(miette!("`{shown}`: expected exit status 0, found {status}"))
}

/// Copies `output` to `copy` line by line and counts tests.
fn echo(output: impl Read, copy: &mut impl Write, tally: &mut Tally) -> Result<()> {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).into_diagnostic()? == 0 {
            return Ok(());
        }
        copy.write_all(&line).into_diagnostic()?;
        tally.add(&String::from_utf8_lossy(&line));
    }
}

/// Whether this machine has a Vulkan driver, where one needs to be installed.
fn has_vulkan() -> bool {
    let folders = [
        "/etc/vulkan/icd.d",
        "/usr/share/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
    ];
    let has_any = |folder: &str| fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some());
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
    !cfg!(target_os = "linux")
        || folders.into_iter().any(has_any)
        || named.into_iter().any(|key| std::env::var_os(key).is_some())
}

/// Whether cargo has a command of this name.
fn is_installed(name: &str) -> bool {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args([name, "--version"]).stdin(Stdio::null());
    let output = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    output.is_ok_and(|status| status.success())
}

/// A duration in seconds with one decimal.
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The closing table: a line a step, then the total.
fn table(outcomes: &[Outcome], planned: usize) -> String {
    let width = outcomes
        .iter()
        .map(|outcome| outcome.name.len())
        .max()
        .unwrap_or(0)
        .max("total".len());
    let mut text = String::new();
    for outcome in outcomes {
        text.push_str(&format!(
            "{:width$}  {:>9}  {}\n",
            outcome.name,
            seconds(outcome.time),
            outcome.verdict
        ));
    }
    let total = outcomes.iter().map(|outcome| outcome.time).sum();
    let ok = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Ok).count();
    text.push_str(&format!(
        "{:width$}  {:>9}  {ok} of {planned} steps ok\n",
        "total",
        seconds(total)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_copied_even_when_it_is_not_text() {
        let output = &b"\xff\xfe\ntest result: ok. 1 passed; 0 failed; 0 ignored"[..];
        let (mut copy, mut tally) = (Vec::new(), Tally::default());
        echo(output, &mut copy, &mut tally).expect("reads");
        assert_eq!(copy, output);
        assert!(tally.to_string().contains("1 passed"), "{tally}");
    }

    #[test]
    fn a_command_that_is_not_there_is_told_from_one_that_is() {
        assert!(is_installed("fmt"));
        assert!(!is_installed("a-command-of-this-name-there-is-not"));
    }

    #[test]
    fn the_table_has_a_line_a_step_and_a_total() {
        let outcomes = [
            Outcome {
                name: "fmt".into(),
                time: Duration::from_millis(1500),
                verdict: Verdict::Ok,
            },
            Outcome {
                name: "clippy".into(),
                time: Duration::from_secs(20),
                verdict: Verdict::Failed,
            },
        ];
        assert_eq!(
            table(&outcomes, 9),
            "fmt         1.5 s  ok\nclippy     20.0 s  FAILED\ntotal      21.5 s  1 of 9 steps ok\n"
        );
    }
}
