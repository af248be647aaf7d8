//! The steps of continuous integration: what they run, in which order.

use clap::ValueEnum;

/// Features of the facade crate that are checked with nothing else enabled.
///
/// Those that leave Burn's own feature set alone come first, then a method on a backend.
const FEATURES: [&str; 18] = [
    "lora",
    "bottleneck",
    "prefix",
    "prompt",
    "reft",
    "orthogonal",
    "spectral",
    "selective",
    "models",
    "tokenizers",
    "images",
    "audio",
    "hub",
    "train",
    "learner",
    "parquet",
    "plots",
    "lora,flex",
];

/// The features that one build has for lints, documentation and tests: those of the command that are off by default, and the
/// backends that tests compare with `flex`. Of `wgpu` the unfused kernels: a software device takes too long to compile each fused
/// one.
const ALL: &str = "--features adapters-cli/hub,adapters-cli/parquet,adapters-cli/tui,adapters-hub/client,\
    adapters-testkit/capture,adapters-testkit/ndarray,adapters-testkit/wgpu-unfused";

/// Backends that are type-checked on their own, cheapest first.
const BACKENDS: [&str; 4] = ["ndarray", "wgpu", "vulkan", "cuda"];

/// What a step belongs to, and what `--only` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Group {
    /// Formatting.
    Fmt,
    /// The shape of the tree.
    Tidy,
    /// Licenses, versions and sources of the dependencies, where `cargo deny` is installed.
    Deny,
    /// Lints on all targets, warnings are errors.
    Clippy,
    /// Documentation, warnings are errors.
    Doc,
    /// Unit tests, integration tests and documentation tests.
    Test,
    /// Golden cases, training and generation on further backends, next to `flex`: `ndarray`, and `wgpu` on a Vulkan driver of this
    /// machine, which may be a software device.
    Devices,
    /// Each feature of the facade on its own.
    Features,
    /// Each backend on its own, type-checked.
    Backends,
}

/// One step of the plan.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    /// What `--only` selects it by.
    pub(super) group: Group,
    /// What the table calls it.
    pub(super) name: String,
    /// What it does.
    pub(super) action: Action,
    /// Whether it needs a Vulkan driver.
    pub(super) needs_vulkan: bool,
}

/// What a step does.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// The tidy check, in this process.
    Tidy,
    /// A command of cargo that is a program of its own, `cargo NAME`, which may not be installed.
    Installed { name: &'static str, arguments: Vec<String> },
    /// A cargo command with extra environment.
    Cargo {
        arguments: Vec<String>,
        environment: Vec<(&'static str, &'static str)>,
    },
}

impl Step {
    fn cargo(group: Group, name: &str, arguments: &str) -> Self {
        Self {
            group,
            name: name.into(),
            action: Action::Cargo {
                arguments: arguments.split_whitespace().map(String::from).collect(),
                environment: Vec::new(),
            },
            needs_vulkan: false,
        }
    }

    fn with_env(mut self, key: &'static str, value: &'static str) -> Self {
        if let Action::Cargo { environment, .. } = &mut self.action {
            environment.push((key, value));
        }
        self
    }
}

/// The steps in order.
pub(super) fn plan() -> Vec<Step> {
    let mut steps = vec![
        Step::cargo(Group::Fmt, "fmt", "fmt --all --check"),
        Step {
            group: Group::Tidy,
            name: "tidy".into(),
            action: Action::Tidy,
            needs_vulkan: false,
        },
        Step {
            group: Group::Deny,
            name: "deny".into(),
            action: Action::Installed {
                name: "deny",
                arguments: "--locked check licenses bans sources"
                    .split_whitespace()
                    .map(String::from)
                    .collect(),
            },
            needs_vulkan: false,
        },
        Step::cargo(
            Group::Clippy,
            "clippy",
            &format!("clippy --locked --workspace {ALL} --all-targets -- -D warnings"),
        ),
        // The program and the facade are both called `adapters`, so they share a page: programs are
        // documented first and the facade's page stays.
        Step::cargo(
            Group::Doc,
            "doc, programs",
            &format!("doc --locked --workspace {ALL} --no-deps --bins"),
        )
        .with_env("RUSTDOCFLAGS", "-D warnings"),
        Step::cargo(
            Group::Doc,
            "doc, libraries",
            &format!("doc --locked --workspace {ALL} --no-deps --lib"),
        )
        .with_env("RUSTDOCFLAGS", "-D warnings"),
        Step::cargo(Group::Test, "test", &format!("test --locked --workspace {ALL}")),
        // The kernels again, at the levels below that of this processor.
        Step::cargo(
            Group::Test,
            "kernels, AVX2",
            &format!("test --locked --workspace {ALL} --test kernels"),
        )
        .with_env("ADAPTERS_SIMD", "avx2"),
        Step::cargo(
            Group::Test,
            "kernels, portable",
            &format!("test --locked --workspace {ALL} --test kernels"),
        )
        .with_env("ADAPTERS_SIMD", "portable"),
    ];
    // WGSL: the SPIR-V of `vulkan` ends inside the compiler of Mesa 22.3's software device.
    for (device, needs_vulkan) in [("ndarray", false), ("wgpu", true)] {
        let step = Step::cargo(
            Group::Devices,
            &format!("{device} next to flex"),
            &format!("test --locked --workspace {ALL} --test gpu"),
        );
        steps.push(Step {
            needs_vulkan,
            ..step.with_env("ADAPTERS_DEVICE", device)
        });
    }
    // `xtask/third-party` gives third-party crates the features that they have in the whole workspace, so that they are checked once and
    // not for each feature. Backends are checked as a user builds them.
    steps.extend(FEATURES.iter().map(|feature| {
        Step::cargo(
            Group::Features,
            &format!("feature {feature}"),
            &format!(
                "check --locked -p adapters -p xtask --no-default-features --features xtask/third-party,adapters/{}",
                feature.replace(',', ",adapters/")
            ),
        )
    }));
    steps.extend(BACKENDS.iter().map(|backend| {
        let step = Step::cargo(
            Group::Backends,
            &format!("backend {backend}"),
            &format!("check --locked -p adapters --no-default-features --features {backend}"),
        );
        match *backend {
            // Type-checking needs no compiler bundle; without this its build script downloads one.
            "cuda" => step.with_env("DOCS_RS", "1"),
            _ => step,
        }
    }));
    steps
}

/// The step as a line to read and to repeat.
pub(super) fn describe(step: &Step) -> String {
    match &step.action {
        Action::Tidy => "cargo xtask tidy".into(),
        Action::Installed { name, arguments } => format!("cargo {name} {}", arguments.join(" ")),
        Action::Cargo { arguments, environment } => {
            let mut line = String::new();
            for (key, value) in environment {
                line.push_str(&format!("{key}={value:?} "));
            }
            line + "cargo " + &arguments.join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_goes_from_cheap_to_dear_and_covers_every_group() {
        let groups: Vec<Group> = plan().iter().map(|step| step.group).collect();
        let mut order = groups.clone();
        order.dedup();
        assert_eq!(order, Group::value_variants());
    }

    #[test]
    fn each_feature_is_checked_without_the_defaults() {
        for step in plan()
            .iter()
            .filter(|step| matches!(step.group, Group::Features | Group::Backends))
        {
            assert!(describe(step).contains("--no-default-features"), "{}", step.name);
        }
    }

    #[test]
    fn warnings_are_errors_in_lints_and_docs_only() {
        for step in plan() {
            let strict = describe(&step).contains("-D warnings");
            assert_eq!(
                strict,
                matches!(step.group, Group::Clippy | Group::Doc),
                "{}",
                step.name
            );
        }
    }

    #[test]
    fn only_cuda_is_checked_as_documentation_builds_are() {
        for step in plan() {
            assert_eq!(describe(&step).starts_with("DOCS_RS"), step.name == "backend cuda");
        }
    }
}
