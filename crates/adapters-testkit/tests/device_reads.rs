//! What is read from the device while a model trains, which waits for all that was asked of it, and what reading tells of memory.
#![cfg(feature = "gpu-tests")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use adapters::train::{Event, Recipe, Run, TrainError, train};
use adapters::{AvailableDevice, METHODS, devices, parse_device};
use adapters_testkit::golden::{Options, Selection, Verdict, walk};
use adapters_testkit::tiny_task::Task;
use burn::tensor::Device;
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

/// Cases whose forward pass reads something, and what.
const READ: &[(&str, &str)] = &[];

#[test]
fn forward_passes_read_nothing() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let options = Options {
        unread: true,
        ..Options::new(Device::flex())
    };
    let (mut right, mut wrong) = (0, Vec::new());
    walk(&golden, &Selection::default(), &options, |outcome| {
        let name = format!("{}/{}", outcome.model, outcome.case);
        let reads = READ.iter().any(|(known, _)| name.starts_with(known));
        match &outcome.verdict {
            Verdict::Fail(_) if !reads => wrong.push(outcome.to_string()),
            Verdict::Ok if reads => wrong.push(format!("{name} reads nothing any more")),
            _ => right += 1,
        }
    })
    .unwrap();
    assert!(
        wrong.is_empty(),
        "{right} read nothing, these do:\n{}",
        wrong.join("\n")
    );
    assert!(right > 100, "{right}");
}

/// Tensors of floats read from a GPU so far.
static READS: AtomicUsize = AtomicUsize::new(0);

/// Held by the tests that read from one.
static GPU: Mutex<()> = Mutex::new(());

/// Counts Burn's spans of them.
struct Count;

impl Subscriber for Count {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.name() == "float_into_data" && metadata.target().starts_with("burn_cubecl")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        READS.fetch_add(1, Ordering::SeqCst);
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, _event: &tracing::Event<'_>) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// A run of the tiny task on the GPU backend under test.
fn run(task: &Task, device: &str, overrides: &[&str]) -> Run {
    let overrides: Vec<String> = overrides.iter().map(|given| (*given).to_owned()).collect();
    let recipe = Recipe::read(&task.recipe(), &overrides).unwrap();
    Run {
        model_dir: recipe.model.path.clone().into(),
        dir: task.path(&recipe.adapter.name),
        registry: METHODS,
        device: parse_device(device).unwrap(),
        recipe,
    }
}

#[test]
fn a_step_reads_its_loss_and_nothing_else() {
    let Ok(device) = std::env::var("ADAPTERS_DEVICE") else {
        return;
    };
    let _alone = GPU.lock();
    tracing::subscriber::set_global_default(Count).unwrap();
    let task = Task::new();
    for (name, config) in [
        ("union", "lora[r=4,dropout=0.1]|seq_bn"),
        ("oft", "oft"),
        ("reft", "loreft"),
        ("prefix", "prefix_tuning"),
    ] {
        let overrides = [
            &format!("adapter.config={config}"),
            &format!("adapter.name={name}"),
            "train.epochs=1",
            "train.checkpoint_every=1000",
        ];
        let run = run(&task, &device, &overrides);
        let mut reads = Vec::new();
        train(&run, &mut |event| {
            if let Event::Step { .. } = event {
                reads.push(READS.load(Ordering::SeqCst));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(reads.len(), 10, "{config}");
        let each: Vec<usize> = reads.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(each, [1; 9], "{config}");
    }
}

/// Mesa's software device gives 128 MiB at once: the keys of a long prefix are more for 40 sentences, and less for 32.
#[test]
fn a_batch_that_there_is_memory_for_is_found() {
    let Ok(device) = std::env::var("ADAPTERS_DEVICE") else {
        return;
    };
    let _alone = GPU.lock();
    let is_software = |device: &AvailableDevice| device.hardware.as_ref().is_some_and(|name| name.contains("llvmpipe"));
    if !devices().iter().any(is_software) {
        return;
    }
    let task = Task::new();
    let config = "adapter.config=prefix_tuning[flat=true,prefix_length=60000]";
    let begin = |overrides: &[&str], to_the_end: bool| {
        let mut found = None;
        let outcome = train(&run(&task, &device, overrides), &mut |event| {
            if let Event::Ready { batch_size, .. } = event {
                found = Some(batch_size);
            }
            match to_the_end {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        (found, outcome)
    };
    let (found, outcome) = begin(&[config, "train.batch_size=auto"], false);
    assert!(outcome.is_ok(), "{:?}", outcome.err());
    assert_eq!(found, Some(32));
    let (found, outcome) = begin(&[config, "train.batch_size=40", "adapter.name=whole"], true);
    assert_eq!(found, Some(40));
    let error = outcome.unwrap_err();
    assert!(
        matches!(error, TrainError::OutOfMemory { bytes } if bytes > 128 << 20),
        "{error}"
    );
}
