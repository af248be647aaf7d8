//! A training loop of this program: LoRA and a linear head on a few film reviews, by Burn's optimizer.
//!
//! ```text
//! cargo run --release -p adapters --example own_loop
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use adapters::prelude::*;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Int, Tensor};

const REVIEWS: [(&str, i64); 4] = [
    ("A film I would gladly see again.", 1),
    ("Dull from the first scene to the last.", 0),
    ("Warm, funny and beautifully played.", 1),
    ("It has nothing to say and says it twice.", 0),
];

/// What trains: the adapters of the model, and the head.
#[derive(Module, Debug)]
struct Classifier {
    adapted: Adapted<Model>,
    head: Linear,
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let pretrained = Pretrained::open(folder)?;
    let mut adapted = Adapted::new(pretrained.model(&device)?);
    adapted.attach(
        "reviews",
        LoraConfig {
            rank: 4,
            dropout: 0.1,
            ..Default::default()
        },
    )?;
    adapted.activate("reviews")?;
    let batch = pretrained
        .tokenizer(32)?
        .input(REVIEWS.map(|(text, _)| text), adapted.base())?;
    let labels = Tensor::<1, Int>::from_data(REVIEWS.map(|(_, label)| label), &device);

    let head = LinearConfig::new(384, 2).init(&device);
    let mut model = Classifier { adapted, head }.train();
    let mut optimizer = AdamWConfig::new().init();
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);
    for step in 0..8 {
        let hidden = model.adapted.training_forward(batch.clone(), step)?;
        // The first position stands for the sentence.
        let scores = model.head.forward(hidden.slice_dim(1, 0..1).squeeze_dim::<2>(1));
        let loss = cross_entropy.forward(scores, labels.clone());
        println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(3e-3, model, gradients);
    }
    let dir = tempfile::tempdir()?;
    println!("saved {}", model.valid().adapted.save(dir.path())?.weights.display());
    Ok(())
}
