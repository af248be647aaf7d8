//! `adapters merge`

use adapters::models::{Pretrained, save_checkpoint};

use crate::args::MergeArgs;
use crate::failure::Failure;
use crate::loading;

/// Writes base and adapter as one plain checkpoint.
pub fn run(args: MergeArgs) -> Result<(), Failure> {
    let device = loading::device(&args.device)?;
    let manifest = loading::manifest(&args.adapter)?;
    if let Some(below) = &manifest.stack_on {
        return Err(Failure::new(
            format!("{} was trained on top of {below}", args.adapter.display()),
            "only an adapter that acts alone folds into the weights",
        ));
    }
    let dir = loading::base_dir(args.model.as_deref(), &manifest)?;
    if args.out.join("model.safetensors").exists() && args.out.canonicalize().ok() != dir.canonicalize().ok() {
        return Err(Failure::new(
            format!("{} holds a checkpoint already", args.out.display()),
            "choose another folder with --out, or delete this one",
        ));
    }
    let (adapted, report) = loading::adapted(
        Pretrained::open(&dir)?.model(&device)?,
        &args.adapter,
        args.allow_bin,
        &device,
    )?;
    let mut model = (*adapted.base).clone();
    let merged = adapters::merge(&mut model, &adapted.set, &report.attached.adapter, None)?;
    save_checkpoint(&model, &dir, &args.out)?;
    say!("{}", merged.report.to_string().trim_end());
    say!("wrote {}", args.out.display());
    Ok(())
}
