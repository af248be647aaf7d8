//! `cargo xtask fuzz`: inputs that are nearly right for every reader of files and texts.

use std::fs;
use std::path::Path;

use miette::{IntoDiagnostic, Result, WrapErr, miette};

use crate::ci;

/// Seconds for each reader in a smoke test.
const SMOKE: u64 = 60;
/// Seconds for each reader in a night.
const NIGHT: u64 = 1800;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A minute for each reader; without it half an hour, which is a night for all of them.
    #[arg(long)]
    smoke: bool,
    /// Seconds for each reader.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Only readers whose name has this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reader: String,
    /// Number of the first input; the inputs are the same for the same number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// With libFuzzer, which is guided by coverage and needs a C++ compiler.
    #[arg(long)]
    guided: bool,
}

/// Runs the programs that feed the readers.
///
/// # Errors
///
/// When a reader panics, ends the process, takes more than 2 GB or twenty seconds; what it was given is kept below
/// `fuzz/artifacts`, or without libFuzzer below `target/fuzz`.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if !args.guided {
        return ci::cargo(root, &plain(args), &[], None);
    }
    let fuzz = root.join("fuzz");
    let wrapper = fuzz.join("rustc.sh");
    let wrapper = wrapper
        .to_str()
        .ok_or_else(|| miette!("{}: expected a path of Unicode", fuzz.display()))?;
    let mut failed = Vec::new();
    for name in targets(&fuzz)?
        .iter()
        .filter(|name| readable(name).contains(&args.reader))
    {
        println!("\n{}", readable(name));
        for folder in ["corpus", "artifacts"] {
            let folder = fuzz.join(folder).join(name);
            fs::create_dir_all(&folder)
                .into_diagnostic()
                .wrap_err_with(|| format!("cannot make {}", folder.display()))?;
        }
        if let Err(error) = ci::cargo(&fuzz, &guided(args, name), &[("RUSTC_WRAPPER", wrapper)], None) {
            println!("{error}");
            failed.push(readable(name));
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(miette!(
            "expected readers that refuse what they cannot read, found faults in: {}",
            failed.join(", ")
        )),
    }
}

/// The programs of the fuzz package.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let path = fuzz.join("Cargo.toml");
    let text = fs::read_to_string(&path)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot read {}", path.display()))?;
    let (_, programs) = text.split_once("[[bin]]").unwrap_or_default();
    let names = programs.lines().filter_map(|line| line.strip_prefix("name = \""));
    Ok(names.map(|name| name.trim_end_matches('"').to_owned()).collect())
}

/// The name of a reader, which that of its program has without spaces.
fn readable(target: &str) -> String {
    target.replace('_', " ")
}

fn seconds(args: &Args) -> u64 {
    args.seconds.unwrap_or(if args.smoke { SMOKE } else { NIGHT })
}

fn guided(args: &Args, target: &str) -> Vec<String> {
    let words = format!(
        "run --locked --bin {target} -- corpus/{target} -artifact_prefix=artifacts/{target}/ -max_total_time={} -seed={} -timeout=20 \
         -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0",
        seconds(args),
        // Zero is a number that libFuzzer draws.
        args.seed + 1
    );
    words.split_whitespace().map(str::to_owned).collect()
}

fn plain(args: &Args) -> Vec<String> {
    let words = "run --locked -p adapters-testkit --bin fuzz -- --seconds"
        .split(' ')
        .map(str::to_owned);
    let numbers = [seconds(args).to_string(), "--seed".to_owned(), args.seed.to_string()];
    words
        .chain(numbers)
        .chain(["--reader".to_owned(), args.reader.clone()])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn args(smoke: bool, seconds: Option<u64>) -> Args {
        Args {
            smoke,
            seconds,
            reader: "data".to_owned(),
            seed: 3,
            guided: false,
        }
    }

    #[test]
    fn a_smoke_test_has_a_minute_for_each_reader() {
        let line = |smoke, seconds| plain(&args(smoke, seconds)).join(" ");
        assert!(line(true, None).ends_with("--bin fuzz -- --seconds 60 --seed 3 --reader data"));
        assert!(line(false, None).contains("--seconds 1800 "));
        assert!(line(true, Some(5)).contains("--seconds 5 "));
        let line = guided(&args(true, None), "config_string").join(" ");
        assert!(line.contains("--bin config_string -- corpus/config_string ") && line.contains("-max_total_time=60 "));
    }

    /// Names and versions of the packages of a lock.
    fn packages(lock: &str) -> BTreeSet<(String, String)> {
        let root = crate::workspace_root();
        let text = fs::read_to_string(root.join(lock)).expect("is there");
        let field = |package: &str, name: &str| {
            let line = package
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default();
            line.trim_matches('"').to_owned()
        };
        let packages = text.split("[[package]]").skip(1);
        packages
            .map(|package| (field(package, "name = "), field(package, "version = ")))
            .collect()
    }

    #[test]
    fn its_lock_has_the_versions_of_the_workspace() {
        let (own, all) = (packages("fuzz/Cargo.lock"), packages("Cargo.lock"));
        let apart = own.difference(&all).map(|(name, _)| name.as_str());
        let apart: Vec<&str> = apart
            .filter(|name| !["adapters-fuzz", "arbitrary", "libfuzzer-sys"].contains(name))
            .collect();
        assert!(
            own.len() > 100 && apart.is_empty(),
            "copy Cargo.lock to fuzz/ and run `cargo metadata` there; found other versions of {apart:?}"
        );
    }

    /// The fuzz package is outside the workspace, so that nothing else compares the two lists.
    #[test]
    fn every_reader_has_a_program() {
        let root = crate::workspace_root();
        let source = fs::read_to_string(root.join("crates/adapters-testkit/src/fuzz/readers.rs")).expect("is there");
        let named = source.lines().filter_map(|line| line.strip_prefix("        name: \""));
        let readers: Vec<&str> = named.map(|name| name.trim_end_matches("\",")).collect();
        let targets = targets(&root.join("fuzz")).expect("the package can be read");
        assert!(readers.len() > 10);
        assert_eq!(targets.iter().map(|name| readable(name)).collect::<Vec<_>>(), readers);
    }
}
