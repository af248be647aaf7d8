//! `adapters merge`

use adapters::Host;
use adapters::models::{Head, copy_tokenizer, save_merged};
use adapters::store::atomic;

use crate::args::MergeArgs;
use crate::failure::Failure;
use crate::options::DTypeArg;
use crate::{folders, loading};

/// Writes base and adapter as one plain checkpoint.
pub(crate) fn run(args: MergeArgs) -> Result<(), Failure> {
    let device = loading::device(&args.device)?;
    let adapter = folders::single_adapter(&args.adapter)?;
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
    let (base, read_errors) = pretrained.model_on_demand(&device)?;
    let (adapted, report) = loading::adapted(base, &adapter, args.accept.allow_bin, &device)?;
    read_errors.check()?;
    let (name, dtype) = (&report.attached.adapter, args.dtype.map(DTypeArg::dtype));
    let accepts_bin = args.accept.allow_bin;
    let head = Head::find(&adapter, &manifest, &dir, accepts_bin, adapted.base(), &device)?;
    let merged = atomic::write_folder(&args.out, |out| {
        let merged = save_merged(&pretrained, &adapted.set, name, out, dtype, &device)?;
        copy_tokenizer(&adapter, out)?;
        pretrained.save_stop_tokens(out)?;
        Ok::<_, Failure>(merged)
    })?;
    say!(
        "merged {} into {} layers",
        report.attached.adapter,
        merged.changes.len()
    );
    if head.is_some() {
        say!(
            "the head is not part of the merged model, whose class `{}` has none: keep {} to predict with it",
            adapted.base().class_name(),
            adapter.display()
        );
    }
    say!("wrote {}", args.out.display());
    Ok(())
}
