//! `cargo xtask book-figures`: the table of methods in the book, measured on this machine.
//!
//! Each method is timed by `adapters bench` and trained by the review recipe. Nothing else should run meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use serde_json::Value;

use crate::ci;

/// The methods of the table, as config strings.
const CONFIGS: [&str; 10] = [
    "lora[r=8,alpha=8]",
    "lora[r=8,alpha=8,target_modules=all-linear]",
    "dora[r=8,alpha=8]",
    "ia3",
    "double_seq_bn",
    "seq_bn",
    "prefix_tuning",
    "prompt_tuning",
    "loreft",
    "ln_tuning",
];

/// The page of the book that has the table, between two marks.
const PAGE: &str = "book/src/choosing.md";
const MARKS: [&str; 2] = ["<!-- BEGIN FIGURES -->\n", "<!-- END FIGURES -->\n"];

const MODEL: &str = "models/all-MiniLM-L6-v2";
const RECIPE: &str = "recipes/reviews.toml";

/// Arguments of `cargo xtask book-figures`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure this config string instead of those of the table, and print it (may be repeated).
    #[arg(long, value_name = "CONFIG")]
    config: Vec<String>,
    /// Override a value of the recipe (may be repeated); the table is then printed and not written.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// What was measured of a method.
#[derive(Debug, PartialEq)]
struct Figures {
    config: String,
    parameters: u64,
    step_seconds: f64,
    peak_bytes: Option<u64>,
    accuracy: f64,
    run_seconds: f64,
}

/// Measures the methods and writes the page.
///
/// # Errors
///
/// When a command fails, or prints something else than it should.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let build = ["build", "--release", "--locked", "--bin", "adapters"].map(String::from);
    ci::cargo(root, &build, &[], None)?;
    let configs: Vec<&str> = match args.config.is_empty() {
        true => CONFIGS.to_vec(),
        false => args.config.iter().map(String::as_str).collect(),
    };
    let runs = root.join("target/book-figures");
    let mut figures = Vec::new();
    for (index, config) in configs.iter().enumerate() {
        println!("[{}/{}] {config}", index + 1, configs.len());
        let run = runs.join(index.to_string());
        if run.exists() {
            fs::remove_dir_all(&run)
                .into_diagnostic()
                .wrap_err_with(|| format!("{}: cannot remove", run.display()))?;
        }
        figures.push(measure(root, config, &run, &args.overrides)?);
    }
    let text = table(&figures);
    if !args.config.is_empty() || !args.overrides.is_empty() {
        print!("{text}");
        return Ok(());
    }
    let path = root.join(PAGE);
    let page = fs::read_to_string(&path)
        .into_diagnostic()
        .wrap_err_with(|| format!("{}: cannot read", path.display()))?;
    fs::write(&path, replaced(&page, &text)?)
        .into_diagnostic()
        .wrap_err_with(|| format!("{}: cannot write", path.display()))?;
    println!("wrote {PAGE}");
    Ok(())
}

/// Times a method and trains it.
fn measure(root: &Path, config: &str, run: &Path, overrides: &[String]) -> Result<Figures> {
    let shape = ["--batch", "32", "--seq", "64", "--repeats", "7", "--json"];
    let bench = [&["bench", "--model", MODEL, "--adapter", config][..], &shape].concat();
    let bench = json(&adapters(root, &bench)?)?;
    let adapter = format!("adapter.config={config}");
    let out = run.to_string_lossy();
    let mut train = vec!["train", RECIPE, "--set", &adapter, "--out", &out];
    train.extend(overrides.iter().flat_map(|given| ["--set", given]));
    adapters(root, &train)?;
    let summary = run.join("summary.json");
    let summary = fs::read_to_string(&summary)
        .into_diagnostic()
        .wrap_err_with(|| format!("{}: cannot read", summary.display()))?;
    figures(config, &bench, &json(&summary)?)
}

/// The figures in what `bench` prints and in the summary of a run.
fn figures(config: &str, bench: &Value, summary: &Value) -> Result<Figures> {
    let absent = |what: &str| miette!("{config}: expected `{what}` in the figures, found none");
    let times = bench["times"].as_array().ok_or_else(|| absent("times"))?;
    let step = times.iter().find(|time| time["operation"] == "training step");
    Ok(Figures {
        config: config.to_owned(),
        parameters: bench["trainable_params"]
            .as_u64()
            .ok_or_else(|| absent("trainable_params"))?,
        step_seconds: step
            .and_then(|step| step["median_s"].as_f64())
            .ok_or_else(|| absent("training step"))?,
        peak_bytes: summary["peak_rss_bytes"].as_u64(),
        accuracy: summary["test_accuracy"]
            .as_f64()
            .ok_or_else(|| absent("test_accuracy"))?,
        run_seconds: summary["seconds"].as_f64().ok_or_else(|| absent("seconds"))?,
    })
}

/// What the command prints.
fn adapters(root: &Path, arguments: &[&str]) -> Result<String> {
    let program: PathBuf = root.join("target/release/adapters");
    let shown = format!("adapters {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot start `{shown}`"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(miette!("`{shown}`: expected exit status 0, found {}", output.status)),
    }
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .into_diagnostic()
        .wrap_err("expected JSON from the command")
}

/// The page with the table between its marks.
fn replaced(page: &str, table: &str) -> Result<String> {
    let [begin, end] = MARKS;
    let parts = page
        .split_once(begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.ok_or_else(|| miette!("{PAGE}: expected the lines {begin:?} and {end:?}"))?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

/// The table, with what was done for it.
fn table(figures: &[Figures]) -> String {
    let mut text = "\n## Measured\n\nWritten by `cargo xtask book-figures`: a training step of 32 texts of 64 tokens, and the review recipe \
        with each method at the recipe's learning rates, which are not tuned for any of them.\n\n\
        | config string | parameters | training step | memory of the run | test accuracy | run |\n\
        |---|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for Figures {
        config,
        parameters,
        step_seconds,
        peak_bytes,
        accuracy,
        run_seconds,
    } in figures
    {
        let memory = match peak_bytes {
            Some(bytes) => format!("{} MiB", bytes >> 20),
            None => "unknown".to_owned(),
        };
        text.push_str(&format!(
            "| `{config}` | {parameters} | {:.0} ms | {memory} | {accuracy:.4} | {run_seconds:.0} s |\n",
            step_seconds * 1000.0
        ));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_has_what_was_measured() {
        let bench = json!({
            "trainable_params": 74498,
            "times": [{"operation": "forward", "median_s": 0.1}, {"operation": "training step", "median_s": 0.1534}],
        });
        let summary = json!({"test_accuracy": 0.8125, "seconds": 48.6, "peak_rss_bytes": 200 << 20});
        let found = figures("lora[r=8]", &bench, &summary).expect("complete");
        let table = table(&[found]);
        let row = table.trim().lines().last().expect("a row");
        assert_eq!(row, "| `lora[r=8]` | 74498 | 153 ms | 200 MiB | 0.8125 | 49 s |");
        let page = format!("a\n{}old\n{}b\n", MARKS[0], MARKS[1]);
        let again = replaced(&page, &table).expect("marks");
        assert_eq!(replaced(&again, "").expect("marks"), page.replace("old\n", ""));
        let error = figures("lora", &json!({"times": []}), &summary).expect_err("nothing in it");
        assert!(error.to_string().contains("trainable_params"), "{error}");
    }
}
