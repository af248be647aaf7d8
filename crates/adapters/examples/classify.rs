//! A classifier of film reviews by this library's trainer, from typed values: LoRA and a head on a frozen encoder.
//!
//! ```text
//! cargo run --release -p adapters --features train --example classify
//! ```
//!
//! `part` keeps the example short; without it the whole training file is used.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::ops::ControlFlow;
use std::path::Path;

use adapters::prelude::*;
use adapters::train::{DataSection, Event, Labels, Shard, ShardBy, TrainSection, Trainer};

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let reviews = root.join("data/reviews");
    let data = DataSection {
        labels: Labels::Names(vec!["negative".to_owned(), "positive".to_owned()]),
        shard: Some(Shard {
            index: 0,
            of: 200,
            by: ShardBy::Order,
        }),
        validation_fraction: Some(0.004),
        ..DataSection::new(reviews.join("train.jsonl"))
    };
    let settings = TrainSection {
        epochs: 1,
        batch_size: 8.into(),
        learning_rate: 2e-3,
        checkpoint_every: 2,
        ..TrainSection::default()
    };
    let runs = tempfile::tempdir()?;
    let lora = LoraConfig {
        rank: 8,
        ..Default::default()
    };
    let trainer = Trainer::new(
        "classification",
        root.join("models/all-MiniLM-L6-v2"),
        data,
        runs.path(),
    )?
    .adapter("reviews", lora, METHODS)?
    .max_length(64)
    .settings(settings)
    .device(Device::flex());

    // Stopped after three steps, and continued from the checkpoint after the second.
    trainer.train(&mut |event| match event {
        Event::Step { step: 3, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })?;
    let outcome = trainer.train(&mut |event| {
        match event {
            Event::Resumed { step } => println!("resumed after step {step}"),
            Event::Step { step, loss, .. } => println!("step {step}: loss {loss:.4}"),
            Event::Evaluated { evaluation, .. } => println!("accuracy {:.3}", evaluation.score()),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;

    let base = Pretrained::open(root.join("models/all-MiniLM-L6-v2"))?.model(&Device::flex())?;
    println!("{}", Adapted::new(base).load(outcome.adapter)?);
    Ok(())
}
