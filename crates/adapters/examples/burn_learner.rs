//! Burn's own `Learner` trains LoRA and a classification head on the film reviews of the repository.
//!
//! ```text
//! cargo run --release -p adapters --features learner --example burn_learner
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use adapters::prelude::*;
use adapters::train::{Classifier, Fields, LabeledText, Labels, Records, TextBatcher};
use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::InMemDataset;
use burn::optim::AdamWConfig;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Learner, SupervisedTraining};

/// Sentences of each file that are used: few, so that the example is short.
const SENTENCES: usize = 32;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pretrained = Pretrained::open(root.join("models/all-MiniLM-L6-v2"))?;
    let mut adapted = Adapted::new(pretrained.model(&Device::flex())?);
    adapted.attach(
        "reviews",
        LoraConfig {
            rank: 8,
            ..Default::default()
        },
    )?;
    adapted.activate("reviews")?;

    let names = ["negative", "positive"];
    let (fields, tokenizer) = (Fields::default(), pretrained.tokenizer(64)?);
    let labels = Labels::Names(names.map(str::to_owned).to_vec());
    let loader = |file: &str| -> Result<_, Box<dyn std::error::Error>> {
        let records = Records::read(root.join("data/reviews").join(file), &fields)?;
        let mut texts = LabeledText::of_records(&records, &fields, &labels, &tokenizer)?;
        texts.truncate(SENTENCES);
        let loader = DataLoaderBuilder::new(TextBatcher::new(&adapted))
            .batch_size(16)
            .shuffle(0);
        Ok(loader.build(InMemDataset::new(texts)))
    };
    let (train, valid) = (loader("train.jsonl")?, loader("validation.jsonl")?);

    let runs = tempfile::tempdir()?;
    let classifier = Classifier::new(adapted, names, 0)?.train();
    let trained = SupervisedTraining::new(runs.path(), train, valid)
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .with_default_checkpointers()
        .num_epochs(1)
        .summary()
        .launch(Learner::new(classifier, AdamWConfig::new().init(), 1e-3));
    if let Some(error) = trained.error {
        return Err(error.to_string().into());
    }
    let files = trained.model.model.adapted.save(runs.path().join("adapter"))?;
    println!("saved {}", files.weights.display());
    Ok(())
}
