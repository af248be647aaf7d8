//! Adapters composed, and the rows of one batch routed to different adapters: the frozen layers run once on all of them.
//!
//! ```text
//! cargo run -p adapters --example compose_rows
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use adapters::prelude::*;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let pretrained = Pretrained::open(folder)?;
    let mut model = Adapted::new(pretrained.model(&Device::flex())?);
    for (seed, name) in ["english", "reviews", "questions"].into_iter().enumerate() {
        // A new LoRA changes nothing; these values are drawn so that each adapter acts.
        let options = AttachOptions {
            seed: seed as u64,
            ..Default::default()
        };
        model.attach_with(name, method("lora[r=4,init_weights=bert]")?, &options)?;
    }
    let texts = [
        "Warm, funny and beautifully played.",
        "Who wrote it?",
        "When was it shown first?",
    ];
    let batch = pretrained.tokenizer(32)?.input(texts, model.base())?;

    // The first row goes to one adapter and the other two to another, both on top of a third.
    let rows = Composition::batch_split(["reviews", "questions"], [1, 2]);
    model.activate(Composition::stack([Composition::adapter("english"), rows]))?;
    println!("{}", model.set);
    let routed = model.forward(batch.clone())?;

    // Each row is what its own composition computes of it.
    for (row, name) in [(0, "reviews"), (1, "questions"), (2, "questions")] {
        let alone = model.forward_as(Composition::stack(["english", name]), batch.clone())?;
        let difference = (routed.clone() - alone).slice_dim(0, row..row + 1).abs().max();
        println!(
            "row {row} by {name}: difference {:.1e}",
            difference.into_scalar::<f32>()
        );
    }
    // A composition is also a text.
    let averaged: Composition = "Average(reviews, questions)".parse()?;
    println!("{averaged}: {:?}", model.forward_as(averaged.clone(), batch)?.dims());
    Ok(())
}
