//! `adapters eject`

use std::fs;
use std::path::Path;

use adapters::models::copy_tokenizer;
use adapters::prefix::eject;
use adapters::store::{LoadOptions, Manifest, load_adapter, save_adapter};
use adapters::{AdapterSet, METHODS};

use crate::args::EjectArgs;
use crate::failure::Failure;
use crate::{folders, loading};

/// Writes an adapter with the vectors of its prefix in place of what makes them.
pub(crate) fn run(args: EjectArgs) -> Result<(), Failure> {
    folders::check_new(&args.out)?;
    let adapter = folders::adapter(&args.adapter)?;
    let device = loading::device(&args.device)?;
    let manifest = Manifest::read(&adapter)?;
    let known = manifest.clone().unwrap_or_default();
    let dir = loading::base_dir(args.model.as_deref(), &known, &adapter, args.accept)?;
    let pretrained = loading::pretrained(&dir, Some(&adapter), args.accept)?;
    let base = pretrained.model(&device)?;
    let mut set = AdapterSet::new();
    let options = LoadOptions {
        allow_bin: args.accept.allow_bin,
        ..LoadOptions::default()
    };
    let report = load_adapter(&adapter, &mut set, &base, &METHODS, &options, &device)?;
    let name = report.attached.adapter;
    let method = set.attached(&name)?.method().to_string();
    let ejected = eject(&mut set, &name, &base).map_err(|error| {
        Failure::from(error).with_help(format!("this adapter is `{method}`; eject is for prefix tuning"))
    })?;
    let files = save_adapter(&args.out, report.format, &set, &name, &base)?;
    pretrained.save_token_tables(&args.out)?;
    copy_tokenizer(&adapter, &args.out)?;
    let config = set.attached(&name)?.method().to_string();
    let of_manifest = manifest.as_ref().and_then(|manifest| manifest.head.as_ref());
    let of_manifest = of_manifest.map(|head| head.file.as_str());
    for file in of_manifest
        .into_iter()
        .chain(["head_config.json", "model_head.safetensors"])
    {
        let (from, to) = (adapter.join(file), args.out.join(file));
        if from.exists() {
            fs::copy(&from, &to).map_err(|e| {
                let failed = format!("cannot copy {} to {}: {e}", from.display(), to.display());
                Failure::new(failed, "check both folders")
            })?;
        }
    }
    if let Some(manifest) = manifest {
        Manifest {
            config: config.clone(),
            ..manifest
        }
        .write(&args.out)?;
    }
    say!("{name}: {config}");
    let sizes = (size(&report.weights)?, size(&files.weights)?);
    say!("before: {} parameters, {} bytes", ejected.before, sizes.0);
    say!("after:  {} parameters, {} bytes", ejected.after, sizes.1);
    say!("wrote {}", args.out.display());
    Ok(())
}

fn size(path: &Path) -> Result<u64, Failure> {
    fs::metadata(path).map(|file| file.len()).map_err(|e| {
        let failed = format!("cannot read the size of {}: {e}", path.display());
        Failure::new(failed, "check that the file is still there")
    })
}
