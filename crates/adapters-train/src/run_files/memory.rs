//! Memory of this process and of the machine, as Linux reports it.

use std::fs;

/// The most memory this process has held so far (its resident set's high-water mark), on Linux; `None` elsewhere.
pub fn peak_rss_bytes() -> Option<u64> {
    reported("/proc/self/status", "VmHWM")
}

/// The memory of the machine, all of it and what is available, on Linux; `None` elsewhere.
pub fn machine_memory_bytes() -> Option<(u64, u64)> {
    let of = |field| reported("/proc/meminfo", field);
    Some((of("MemTotal")?, of("MemAvailable")?))
}

fn reported(file: &str, field: &str) -> Option<u64> {
    if cfg!(target_os = "linux") {
        bytes_of(&fs::read_to_string(file).ok()?, field)
    } else {
        None
    }
}

/// The line of a field, which Linux gives in units of 1024 bytes.
fn bytes_of(report: &str, field: &str) -> Option<u64> {
    let value = report
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(
            bytes_of("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n", "VmHWM"),
            Some(2048 * 1024)
        );
        assert_eq!(bytes_of("Name:\tx\n", "VmHWM"), None);
        assert_eq!(bytes_of("VmHWM:\t many kB\n", "VmHWM"), None);
        #[cfg(target_os = "linux")]
        assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
