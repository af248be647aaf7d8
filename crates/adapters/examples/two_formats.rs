//! An adapter of peft and one of AdapterHub, loaded into one model and used in one forward pass, side by side and stacked.
//!
//! ```text
//! cargo run -p adapters --example two_formats
//! ```
//!
//! The folders are written first, as Python would: replace them by your own.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use adapters::prelude::*;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let pretrained = Pretrained::open(folder)?;
    let mut made = Adapted::new(pretrained.model(&Device::flex())?);
    made.attach(
        "sentiment",
        LoraConfig {
            rank: 8,
            ..Default::default()
        },
    )?;
    made.attach("style", method("seq_bn[reduction_factor=16]")?)?;
    let dir = tempfile::tempdir()?;
    for (name, format) in [("sentiment", Format::Peft), ("style", Format::AdapterHub)] {
        let options = SaveOptions {
            adapter: Some(name.to_owned()),
            format: Some(format),
        };
        made.save_with(dir.path().join(name), options)?;
    }

    let mut model = made.without_adapters();
    for name in ["sentiment", "style"] {
        println!("{}", model.load(dir.path().join(name))?);
    }
    let batch = pretrained
        .tokenizer(32)?
        .input(["Warm, funny and beautifully played."], model.base())?;

    // Both act, one after the other.
    model.activate(Composition::stack(["sentiment", "style"]))?;
    println!("stacked: {:?}", model.forward(batch.clone())?.dims());
    // Each acts on a copy of the batch: one row of output for each.
    let both = model.forward_as(Composition::parallel(["sentiment", "style"]), batch)?;
    println!("side by side: {:?}", both.dims());
    Ok(())
}
