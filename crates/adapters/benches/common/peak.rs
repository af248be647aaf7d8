//! The peak memory of what a benchmark runs.

use std::fs;

/// Runs `step` twice and prints the peak of resident memory, where the system says it. What earlier benchmarks of the process
/// have left is in it: a filter, `-- NAME`, measures one alone.
#[expect(clippy::print_stdout, reason = "as criterion prints")]
pub(crate) fn print(name: &str, mut step: impl FnMut()) {
    step();
    // The system forgets the peak so far.
    let _ = fs::write("/proc/self/clear_refs", "5");
    step();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    if let Some(kib) = kib {
        println!("{name:<40} peak memory of the process {:.0} MiB", kib / 1024.0);
    }
}
