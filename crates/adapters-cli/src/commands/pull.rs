//! `adapters pull`: a model or an adapter from the Hub into a folder.

use std::fs;
use std::path::PathBuf;

use adapters::store::{Origin, atomic};
use adapters_hub::{Hub, Pickles, RemoteFile, select};

use crate::args::PullArgs;
use crate::failure::Failure;
use crate::invocation;
use crate::progress::Transfer;

/// Downloads what is not there yet.
pub(crate) fn run(args: PullArgs) -> Result<(), Failure> {
    let hub = Hub::from_env();
    let snapshot = hub.snapshot(&args.id, &args.revision)?;
    let pickles = match args.allow_bin {
        true => Pickles::OfAdapters,
        false => Pickles::Refused,
    };
    let files = select(&args.id, &snapshot.files, pickles)?;
    let is_model = files.iter().any(|file| file.path == "config.json");
    let kind = if is_model { "models" } else { "adapters" };
    let dir = args.out.unwrap_or_else(|| PathBuf::from(kind).join(args.id.name()));
    let mut missing = hub.missing(&files, &dir)?;
    // What is not whole has no file that it is known by.
    missing.sort_by_key(|file| atomic::is_last(&file.path));
    let size = |files: &[RemoteFile]| files.iter().filter_map(|file| file.size).sum::<u64>();
    let commit: String = snapshot.commit.chars().take(12).collect();
    note!(
        "{} at {commit}: {} files, {}; {} to download, {}",
        args.id,
        files.len(),
        indicatif::HumanBytes(size(&files)),
        missing.len(),
        indicatif::HumanBytes(size(&missing)),
    );
    fs::create_dir_all(&dir).map_err(|e| {
        Failure::new(
            format!("cannot create the folder {}: {e}", dir.display()),
            "choose another folder with --out",
        )
    })?;
    let mut transfer = Transfer::new(size(&missing));
    for file in &missing {
        transfer.begin(&file.path);
        hub.download(&snapshot, file, &dir, |bytes| transfer.at(bytes))?;
        transfer.end();
    }
    drop(transfer);
    let origin = Origin {
        id: args.id.to_string(),
        commit: snapshot.commit,
    };
    origin.write(&dir)?;
    say!(
        "wrote {}: {}",
        dir.display(),
        files
            .iter()
            .map(|file| file.path.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    );
    say!("");
    say!("next:");
    let (program, dir) = (invocation::program(), invocation::word(&dir));
    match is_model {
        true => say!("  {program} new my-task --model {dir}"),
        false => say!("  {program} info {dir}"),
    }
    Ok(())
}
