//! `adapters merge`

use adapters::Host;
use adapters::models::{Head, copy_tokenizer, save_checkpoint};

use crate::args::MergeArgs;
use crate::failure::Failure;
use crate::options::DTypeArg;
use crate::{folders, loading};

/// Writes base and adapter as one plain checkpoint.
pub(crate) fn run(args: MergeArgs) -> Result<(), Failure> {
    let device = loading::device(&args.device)?;
    let adapter = folders::adapter(&args.adapter)?;
    let manifest = loading::manifest(&adapter)?;
    if let Some(below) = &manifest.stack_on {
        return Err(Failure::new(
            format!("{} was trained on top of the adapter {below}", adapter.display()),
            "only an adapter that acts alone can be merged into the base model",
        ));
    }
    let dir = loading::base_dir(args.model.as_deref(), &manifest, &adapter, args.accept)?;
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
    let pretrained = loading::pretrained(&dir, Some(&adapter), args.accept)?;
    let (mut adapted, report) = loading::adapted(pretrained.model(&device)?, &adapter, args.accept.allow_bin, &device)?;
    let merged = adapted.merge(&report.attached.adapter)?;
    save_checkpoint(adapted.base(), &pretrained, &args.out, args.dtype.map(DTypeArg::dtype))?;
    copy_tokenizer(&adapter, &args.out)?;
    pretrained.save_stop_tokens(&args.out)?;
    say!(
        "merged {} into {} layers",
        report.attached.adapter,
        merged.changes.len()
    );
    if Head::find(
        &adapter,
        &manifest,
        &dir,
        args.accept.allow_bin,
        adapted.base(),
        &device,
    )?
    .is_some()
    {
        say!(
            "the head is not part of the merged model, whose class `{}` has none: keep {} to predict with it",
            adapted.base().class_name(),
            adapter.display()
        );
    }
    say!("wrote {}", args.out.display());
    Ok(())
}
