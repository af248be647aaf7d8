//! `adapters doctor`: what this build and this machine have.

use std::fs;

use adapters::nn::cpu_instructions;
use adapters::train::machine_memory_bytes;
use serde::Serialize;

use crate::failure::Failure;

/// `adapters doctor`
#[derive(Debug, clap::Args)]
#[command(after_help = crate::options::examples(&["adapters doctor", "adapters doctor --json"]))]
pub(crate) struct DoctorArgs {
    /// Print JSON.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    devices: Vec<Hardware>,
    cpu: Option<String>,
    instructions: &'static str,
    threads: usize,
    memory_bytes: Option<u64>,
    available_memory_bytes: Option<u64>,
    allocator: &'static str,
    hub: bool,
}

/// A device that `--device` takes.
#[derive(Debug, Serialize)]
struct Hardware {
    name: String,
    /// What the driver calls it; null for a backend of the processor.
    hardware: Option<String>,
    /// Its memory; null where Burn does not report it, which is everywhere but on the processor.
    memory_bytes: Option<u64>,
}

/// Prints the report.
pub(crate) fn run(args: DoctorArgs) -> Result<(), Failure> {
    let memory = machine_memory_bytes();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        devices: adapters::devices()
            .into_iter()
            .map(|device| Hardware {
                memory_bytes: memory.map(|(all, _)| all).filter(|_| device.hardware.is_none()),
                name: device.name,
                hardware: device.hardware,
            })
            .collect(),
        cpu: cpu(),
        instructions: cpu_instructions(),
        threads: rayon::current_num_threads(),
        memory_bytes: memory.map(|(all, _)| all),
        available_memory_bytes: memory.map(|(_, available)| available),
        allocator: "mimalloc",
        hub: cfg!(feature = "hub"),
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
        return Ok(());
    }
    let gibibytes = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        None => "unknown".to_owned(),
    };
    say!("version       {}", report.version);
    for (index, device) in report.devices.iter().enumerate() {
        let hardware = device.hardware.as_deref().unwrap_or("the processor");
        let label = if index == 0 { "devices" } else { "" };
        say!(
            "{label:<13} {}: {hardware}, memory {}",
            device.name,
            gibibytes(device.memory_bytes)
        );
    }
    say!("processor     {}", report.cpu.as_deref().unwrap_or("unknown"));
    say!("instructions  {}", report.instructions);
    say!("threads       {}", report.threads);
    say!(
        "memory        {}, {} available",
        gibibytes(report.memory_bytes),
        gibibytes(report.available_memory_bytes)
    );
    say!("allocator     {}", report.allocator);
    say!(
        "Hub access    {}",
        if report.hub {
            "yes"
        } else {
            "no (build with `--features hub`)"
        }
    );
    Ok(())
}

/// The name of the processor, on Linux.
fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}
