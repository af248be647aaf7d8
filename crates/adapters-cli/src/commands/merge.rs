//! `adapters merge`

use adapters::models::{Pretrained, copy_tokenizer, save_checkpoint};

use crate::args::{DTypeArg, MergeArgs};
use crate::failure::Failure;
use crate::{folders, loading};

/// Writes base and adapter as one plain checkpoint.
pub fn run(args: MergeArgs) -> Result<(), Failure> {
    let device = loading::device(&args.device)?;
    let adapter = folders::adapter(&args.adapter)?;
    let manifest = loading::manifest(&adapter)?;
    if let Some(below) = &manifest.stack_on {
        return Err(Failure::new(
            format!("{} was trained on top of the adapter {below}", adapter.display()),
            "only an adapter that acts alone can be merged into the base model",
        ));
    }
    let dir = loading::base_dir(args.model.as_deref(), &manifest, &adapter, args.any_base)?;
    if args
        .out
        .canonicalize()
        .is_ok_and(|out| dir.canonicalize().is_ok_and(|dir| dir == out))
    {
        return Err(Failure::new(
            format!(
                "--out {} is the base model itself, which is never overwritten",
                args.out.display()
            ),
            "choose another folder with --out",
        ));
    }
    folders::check_new(&args.out)?;
    let (mut adapted, report) = loading::adapted(
        Pretrained::open(&dir)?.model(&device)?,
        &adapter,
        args.allow_bin,
        &device,
    )?;
    let merged = adapted.merge(&report.attached.adapter)?;
    save_checkpoint(adapted.base(), &dir, &args.out, args.dtype.map(DTypeArg::dtype))?;
    copy_tokenizer(&adapter, &args.out)?;
    say!(
        "merged {} into {} layers",
        report.attached.adapter,
        merged.changes.len()
    );
    if loading::has_head(&adapter, &manifest) {
        say!(
            "the head is not part of the merged model: keep {} to predict with it",
            adapter.display()
        );
    }
    say!("wrote {}", args.out.display());
    Ok(())
}
