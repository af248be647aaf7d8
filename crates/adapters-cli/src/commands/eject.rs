//! `adapters eject`

use std::fs;
use std::path::Path;

use adapters::models::copy_tokenizer;
use adapters::prefix::eject;
use adapters::store::{LoadOptions, Manifest, atomic, load_adapter, save_adapter};
use adapters::{AdapterSet, METHODS};

use crate::args::EjectArgs;
use crate::failure::Failure;
use crate::{folders, loading};

/// Writes an adapter with the vectors of its prefix in place of what makes them.
pub(crate) fn run(args: EjectArgs) -> Result<(), Failure> {
    folders::check_new(&args.out)?;
    let adapter = folders::single_adapter(&args.adapter)?;
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
    let config = set.attached(&name)?.method().to_string();
    let of_manifest = manifest.as_ref().and_then(|manifest| manifest.head.as_ref());
    let of_manifest = of_manifest.map(|head| head.file.clone());
    let after = atomic::write_folder(&args.out, |out| {
        let files = save_adapter(out, report.format, &set, &name, &base)?;
        pretrained.save_token_tables(out)?;
        copy_tokenizer(&adapter, out)?;
        let heads = ["head_config.json", "model_head.safetensors"];
        for file in of_manifest.iter().map(String::as_str).chain(heads) {
            let (from, to) = (adapter.join(file), out.join(file));
            if from.exists() {
                fs::copy(&from, &to).map_err(|e| {
                    let failed = format!("cannot copy {} to {}: {e}", from.display(), args.out.display());
                    Failure::new(failed, "check both folders")
                })?;
            }
        }
        if let Some(manifest) = manifest {
            Manifest {
                config: config.clone(),
                ..manifest
            }
            .write(out)?;
        }
        size(&files.weights)
    })?;
    say!("{name}: {config}");
    let before = size(&report.weights)?;
    say!("before: {} parameters, {} bytes", ejected.before, before);
    say!("after:  {} parameters, {} bytes", ejected.after, after);
    say!("wrote {}", args.out.display());
    Ok(())
}

fn size(path: &Path) -> Result<u64, Failure> {
    fs::metadata(path).map(|file| file.len()).map_err(|e| {
        let failed = format!("cannot read the size of {}: {e}", path.display());
        Failure::new(failed, "check that the file is still there")
    })
}
