//! An adapter merged into its base, and the base saved as a checkpoint that Python loads without any adapter library.
//!
//! ```text
//! cargo run -p adapters --example merge_and_export
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use adapters::models::save_checkpoint;
use adapters::prelude::*;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let pretrained = Pretrained::open(&folder)?;
    let mut model = Adapted::new(pretrained.model(&Device::flex())?);
    model.attach("reviews", method("lora[r=8,alpha=16,init_weights=bert]")?)?;
    model.activate("reviews")?;
    let batch = pretrained
        .tokenizer(32)?
        .input(["A film I would gladly see again."], model.base())?;
    let adapted = model.forward(batch.clone())?;

    let report = model.merge("reviews")?;
    println!("merged into {} layers", report.changes.len());
    let dir = tempfile::tempdir()?;
    save_checkpoint(model.base(), &Pretrained::open(&folder)?, dir.path(), None)?;

    // The checkpoint is a model of its own now; this one goes on with its base as it was.
    let exported = Adapted::new(Pretrained::open(dir.path())?.model(&Device::flex())?);
    let difference = (exported.forward(batch)? - adapted).abs().max().into_scalar::<f32>();
    println!("the checkpoint computes the same to {difference:.1e}");
    println!("taken out again: {}", model.reset().unwrap_or_default());
    Ok(())
}
