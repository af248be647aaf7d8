//! `cargo xtask gpu-check --device cuda:0`: what is to be checked and timed on a GPU, for whoever has one.
//!
//! On each device: every golden case with outputs and gradients, training and generation beside `flex`, the times of checkpoints,
//! and the review recipe, whose accuracy is to be that of the CPU. The first run of a kernel compiles it and, for products and
//! sums, chooses among several: on an H100 the first forward pass of the smallest BERT took 45 seconds, so whole sets take
//! minutes. All commands run; the closing lines say which failed.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use miette::{Result, bail};

use crate::ci;

/// Arguments of `cargo xtask gpu-check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Device, as the programs take it: `cuda:0`, `vulkan`, `wgpu`; may be repeated.
    #[arg(long, value_name = "D", required = true)]
    device: Vec<String>,
    /// Folder of golden cases.
    #[arg(long, value_name = "SET", default_value = "crates/adapters-testkit/golden")]
    golden: PathBuf,
    /// Checkpoint to time, and the rows and tokens of a batch; may be repeated.
    #[arg(
        long,
        value_name = "DIR=ROWSxTOKENS",
        default_value = "models/all-MiniLM-L6-v2=64x128"
    )]
    bench: Vec<Timed>,
    /// Print the commands and run none.
    #[arg(long)]
    dry_run: bool,
}

/// A checkpoint and the shape of its batches.
#[derive(Clone, Debug, PartialEq)]
struct Timed {
    model: String,
    rows: usize,
    tokens: usize,
}

impl FromStr for Timed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('=').and_then(|(model, shape)| {
            let (rows, tokens) = shape.split_once('x')?;
            Some(Self {
                model: model.to_owned(),
                rows: rows.parse().ok()?,
                tokens: tokens.parse().ok()?,
            })
        });
        parts.ok_or_else(|| format!("expected DIR=ROWSxTOKENS, as in models/mine=64x128, found `{text}`"))
    }
}

/// A cargo command and what it needs in its environment.
struct Check {
    arguments: Vec<String>,
    device: String,
}

/// Runs the checks on each device.
///
/// # Errors
///
/// When a command fails, after all have run.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let mut failed = Vec::new();
    for check in args.device.iter().flat_map(|device| checks(args, device)) {
        let line = format!("ADAPTERS_DEVICE={} cargo {}", check.device, check.arguments.join(" "));
        println!("\n{line}");
        if args.dry_run {
            continue;
        }
        if let Err(error) = ci::cargo(root, &check.arguments, &[("ADAPTERS_DEVICE", &check.device)], None) {
            println!("{error}");
            failed.push(line);
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("failed on a GPU:\n{}", failed.join("\n")),
    }
}

/// The commands for one device, the cheapest first.
fn checks(args: &Args, device: &str) -> Vec<Check> {
    let feature = device.split(':').next().unwrap_or(device);
    let check = |words: String| Check {
        arguments: words.split_whitespace().map(String::from).collect(),
        device: device.to_owned(),
    };
    let testkit = format!("--release --locked -p adapters-testkit --features {feature}");
    let cli = format!("run --release --locked -p adapters-cli --features {feature} --bin adapters --");
    let golden = args.golden.display();
    let mut checks = vec![
        check(format!("test {testkit} --test gpu")),
        check(format!(
            "run {testkit} --bin parity -- --dir {golden} --device {device}"
        )),
    ];
    checks.extend(args.bench.iter().map(|Timed { model, rows, tokens }| {
        check(format!(
            "{cli} bench --model {model} --device {device} --batch {rows} --seq {tokens} --dropout 0"
        ))
    }));
    let out = format!("target/gpu-check/{}", device.replace(':', "-"));
    checks.push(check(format!(
        "{cli} train recipes/reviews.toml --device {device} --out {out}"
    )));
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_checked_timed_and_trained_on_with_its_feature() {
        let args = Args {
            device: vec!["cuda:0".to_owned()],
            golden: "set".into(),
            bench: vec!["models/a=b=4x32".parse().unwrap()],
            dry_run: true,
        };
        let lines: Vec<String> = checks(&args, "cuda:0").iter().map(|c| c.arguments.join(" ")).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.contains("--features cuda ")), "{lines:?}");
        assert!(
            lines[1].ends_with("--bin parity -- --dir set --device cuda:0"),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].contains("--model models/a=b --device cuda:0 --batch 4 --seq 32"),
            "{}",
            lines[2]
        );
        assert!(lines[3].ends_with("--out target/gpu-check/cuda-0"), "{}", lines[3]);
        assert!("models/a=4".parse::<Timed>().unwrap_err().contains("models/a=4"));
    }
}
