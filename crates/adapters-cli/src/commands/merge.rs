//! `adapters merge`

use adapters::models::{Pretrained, save_checkpoint};
use adapters::store::{LoadOptions, load_adapter};
use adapters::{AdapterSet, METHODS, parse_device};

use crate::args::MergeArgs;
use crate::failure::Failure;
use crate::loading;

/// Writes base and adapter as one plain checkpoint.
pub fn run(args: MergeArgs) -> Result<(), Failure> {
    let name = adapters::available_devices()
        .first()
        .copied()
        .unwrap_or("flex")
        .replace(":N", ":0");
    let device = parse_device(&name)?;
    let manifest = loading::manifest(&args.adapter)?;
    let dir = loading::base_dir(args.model.as_deref(), &manifest)?;
    if args.out.join("model.safetensors").exists() && args.out.canonicalize().ok() != dir.canonicalize().ok() {
        return Err(Failure::new(
            format!("{} holds a checkpoint already", args.out.display()),
            "choose another folder with --out, or delete this one",
        ));
    }
    let mut model = Pretrained::open(&dir)?.encoder(&device)?;
    let mut set = AdapterSet::new();
    let options = LoadOptions {
        allow_bin: args.allow_bin,
        ..LoadOptions::default()
    };
    let report = load_adapter(&args.adapter, &mut set, &model, METHODS, &options, &device)?;
    let merged = adapters::merge(&mut model, &set, &report.attached.adapter, None)?;
    save_checkpoint(&model, &dir, &args.out)?;
    say!("{}", merged.report.to_string().trim_end());
    say!("wrote {}", args.out.display());
    Ok(())
}
