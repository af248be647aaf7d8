//! Kills a training run at random instants and compares what it ends with to a run that was left alone.

use std::fs;
use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use adapters::METHODS;
use adapters::train::{MetricsLog, Recipe, Run, train};
use adapters_testkit::tiny_task::Task;
use burn::tensor::Device;
use clap::Parser;
use miette::{IntoDiagnostic, Result, WrapErr, bail, miette};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Kill training runs of a tiny task, resume them and compare the results.
#[derive(Parser)]
struct Args {
    /// How often a run is killed, over all runs.
    #[arg(long, value_name = "N", default_value_t = 5)]
    kills: u32,
    /// Seed of the instants.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Run folder: be the process that is killed. With `--task`.
    #[arg(long, hide = true, requires = "task")]
    train: Option<PathBuf>,
    /// Recipe of the task.
    #[arg(long, hide = true)]
    task: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    match (&args.train, &args.task) {
        (Some(dir), Some(task)) => child(dir, task)?,
        _ => parent(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Trains the task, resuming what is in the folder.
fn child(dir: &Path, task: &Path) -> Result<()> {
    let overrides = ["train.checkpoint_every=1", "train.evaluate_every=5"].map(str::to_owned);
    let recipe = Recipe::read(task, &overrides).into_diagnostic()?;
    let run = Run {
        model_dir: recipe.model.path.clone().into(),
        dir: dir.to_owned(),
        registry: METHODS,
        device: Device::flex(),
        recipe,
    };
    train(&run, &mut |_| ControlFlow::Continue(()))
        .map(drop)
        .into_diagnostic()
}

fn parent(args: &Args) -> Result<()> {
    let task = Task::new();
    let start = Instant::now();
    let whole = task.path("whole");
    let status = spawn(&whole, &task)?.wait().into_diagnostic()?;
    if !status.success() {
        bail!("the run that is left alone: expected exit status 0, found {status}");
    }
    let (expected, length) = (results(&whole)?, start.elapsed());
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let (mut kills, mut runs) = (0, 0);
    while kills < args.kills {
        runs += 1;
        let dir = task.path(&format!("killed-{runs}"));
        loop {
            let mut child = spawn(&dir, &task)?;
            // A run that resumes is shorter than a whole one; at least every other kill meets it at work.
            let instant = length.mul_f64((rng.next_u64() % 1000) as f64 / 1000.0);
            let ended = wait(&mut child, if kills < args.kills { instant } else { 60 * length })?;
            match ended {
                Some(true) => break,
                Some(false) => bail!("a resumed run failed; after {kills} kills, in run {runs}"),
                None => kills += 1,
            }
        }
        for ((name, got), (_, want)) in results(&dir)?.iter().zip(&expected) {
            if got != want {
                bail!("{name} of run {runs} differs from that of the run that was left alone, after {kills} kills");
            }
        }
    }
    writeln!(
        stdout(),
        "{kills} kills in {runs} runs of {length:.1?}: every result is that of the run that was left alone"
    )
    .into_diagnostic()
}

fn spawn(dir: &Path, task: &Task) -> Result<Child> {
    let program = std::env::current_exe().into_diagnostic()?;
    Command::new(program)
        .arg("--train")
        .arg(dir)
        .arg("--task")
        .arg(task.recipe())
        .stdin(Stdio::null())
        .spawn()
        .into_diagnostic()
        .wrap_err("cannot start the process that trains")
}

/// Whether the process ended well within the time; `None` if it had to be killed.
fn wait(child: &mut Child, time: Duration) -> Result<Option<bool>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().into_diagnostic()? {
            return Ok(Some(status.success()));
        }
        if start.elapsed() >= time {
            // On Unix the signal that no process can catch.
            child.kill().into_diagnostic()?;
            child.wait().into_diagnostic()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What must not depend on kills: the bytes of the adapter and its head, and the metrics without what the clock says.
fn results(dir: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut results = Vec::new();
    for name in [
        "adapter/adapter.safetensors",
        "adapter/head.safetensors",
        "adapter/manifest.json",
    ] {
        let path = dir.join(name);
        let bytes = fs::read(&path).into_diagnostic();
        results.push((name, bytes.wrap_err_with(|| format!("cannot read {}", path.display()))?));
    }
    let records = MetricsLog::records(dir.join("metrics.jsonl")).map_err(|error| miette!("{error}"))?;
    let lines: Vec<String> = records
        .into_iter()
        .map(|record| serde_json::Value::Object(record).to_string())
        .collect();
    results.push(("metrics.jsonl", lines.join("\n").into_bytes()));
    Ok(results)
}
