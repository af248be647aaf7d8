//! `adapters combine`

use std::path::{Path, PathBuf};

use adapters::lora::{Combination, SignElection};
use adapters::models::{Head, ModelError, Pretrained, copy_tokenizer};
use adapters::store::{LoadOptions, Manifest, atomic, base_name, load_adapter, name_base, save_adapter};
use adapters::{AdapterSet, Host, METHODS};
use adapters::{average, normalized};

use crate::args::{CombineArgs, SignArg};
use crate::failure::Failure;
use crate::{folders, loading};

/// Writes the weighted sum of several adapters as one.
pub(crate) fn run(args: CombineArgs) -> Result<(), Failure> {
    let folders: Vec<(PathBuf, f64)> = args
        .adapters
        .iter()
        .map(|text| weighted(text))
        .collect::<Result<_, _>>()?;
    let [(first, _), ..] = folders.as_slice() else {
        return Err(Failure::new("no adapter is named", "name adapter folders"));
    };
    folders::check_new(&args.out)?;
    for (index, (folder, _)) in folders.iter().enumerate() {
        if folders[..index].iter().any(|(other, _)| other == folder) {
            note!("warning: {} is named twice", folder.display());
        }
    }
    let combination = args.combination.as_deref();
    let combination = combination.map(|name| combination_of(name, &args)).transpose()?;
    let device = loading::device(&args.device)?;
    let manifest = loading::manifest(first)?;
    let dir = loading::base_dir(args.model.as_deref(), &manifest, first, args.accept)?;
    for (folder, _) in &folders[1..] {
        loading::check_base(&dir, &loading::manifest(folder)?, folder, args.accept)?;
    }
    let pretrained = loading::pretrained(&dir, Some(first), args.accept)?;
    for (folder, _) in &folders[1..] {
        let other = Pretrained::open(&dir)?
            .with_bin(args.accept.allow_bin)
            .for_adapter(folder)?;
        if other.resized() != pretrained.resized() {
            let count = |of: &Pretrained| {
                of.resized()
                    .map_or("those of its base".to_owned(), |[_, own]| own.to_string())
            };
            return Err(Failure::new(
                format!(
                    "the tokens of {} are {}, and those of {} are {}",
                    first.display(),
                    count(&pretrained),
                    folder.display(),
                    count(&other)
                ),
                "combine adapters over the same tokens",
            ));
        }
    }
    let base = pretrained.model(&device)?;
    let mut set = AdapterSet::new();
    let mut weights = Vec::new();
    let mut heads = Vec::new();
    let mut format = None;
    for (index, (folder, weight)) in folders.iter().enumerate() {
        // Folders may name their adapters alike.
        let name = format!("adapter {index}");
        let options = LoadOptions {
            name: Some(name.clone()),
            allow_bin: args.accept.allow_bin,
            ..LoadOptions::default()
        };
        let report = load_adapter(folder, &mut set, &base, &METHODS, &options, &device)?;
        format.get_or_insert(report.format);
        weights.push((name, *weight));
        let of_folder = loading::manifest(folder)?;
        heads.push(Head::find(
            folder,
            &of_folder,
            &dir,
            args.accept.allow_bin,
            &base,
            &device,
        )?);
    }
    let (head, note) = match args.raw {
        true => combined_head(&heads, &weights)?,
        false => combined_head(&heads, &normalized_weights(&weights)?)?,
    };
    let name = folder_name(&args.out);
    match combination {
        Some(combination) => {
            combination.combine(&mut set, &name, &weights, &base, &device)?;
        }
        None => {
            let weights = match args.raw {
                true => weights,
                false => normalized_weights(&weights)?,
            };
            average(&mut set, &name, &weights)?;
        }
    }
    if let Some(format) = format {
        loading::check_holds_tokens(&pretrained, format, first)?;
        atomic::write_folder(&args.out, |out| {
            save_adapter(out, format, &set, &name, &base)?;
            pretrained.save_token_tables(out)?;
            copy_tokenizer(first, out)?;
            let in_manifest = match &head {
                Some(head) => head.save_in(out, format, &name, &base)?,
                None => None,
            };
            let named = base_name(&loading::named_base(&manifest, &dir));
            name_base(out, format, &named, base.class_name(), None)?;
            Manifest {
                name: name.clone(),
                config: set.attached(&name)?.method().to_string(),
                base_architecture: adapters::Host::architecture(&base).to_owned(),
                base_model: dir.to_string_lossy().into_owned(),
                base_fingerprint: manifest.base_fingerprint,
                max_length: manifest.max_length,
                precision: manifest.precision,
                stack_on: manifest.stack_on,
                chat: manifest.chat,
                several_labels: head.as_ref().is_some_and(|head| head.config().has_several_labels()),
                labels: head.map_or_else(Vec::new, |head| head.config().labels.clone()),
                head: in_manifest,
                written_by: concat!("adapters ", env!("CARGO_PKG_VERSION")).to_owned(),
                ..Manifest::default()
            }
            .write(out)?;
            Ok::<_, Failure>(())
        })?;
    }
    say!("{}: {}", name, set.attached(&name)?.method());
    if let Some(note) = note {
        say!("{note}");
    }
    say!("wrote {}", args.out.display());
    Ok(())
}

/// Weights divided by their sum.
fn normalized_weights(weights: &[(String, f64)]) -> Result<Vec<(String, f64)>, Failure> {
    let named: Vec<(&str, f64)> = weights.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    Ok(normalized(&named)?)
}

/// The weighted sum of the heads, and what to say of it: of heads that differ there is none.
fn combined_head(heads: &[Option<Head>], weights: &[(String, f64)]) -> Result<(Option<Head>, Option<String>), Failure> {
    let found: Vec<(&Head, f64)> = heads
        .iter()
        .zip(weights)
        .filter_map(|(head, (_, weight))| Some((head.as_ref()?, *weight)))
        .collect();
    if found.is_empty() {
        return Ok((None, None));
    }
    if found.len() < heads.len() {
        let without = heads.len() - found.len();
        let note = format!(
            "no head was written: {without} of the {} adapters have none",
            heads.len()
        );
        return Ok((None, Some(note)));
    }
    match Head::average(&found) {
        Ok(head) => Ok((Some(head), Some("the head is the weighted sum of the heads".to_owned()))),
        Err(error @ ModelError::CannotAverage { .. }) => Ok((None, Some(format!("no head was written: {error}")))),
        Err(error) => Err(error.into()),
    }
}

/// The combination of a name, with its options.
fn combination_of(name: &str, args: &CombineArgs) -> Result<Combination, Failure> {
    let needed = Combination::NAMES.into_iter().filter(|(of, _)| *of == name);
    let missing = needed.flat_map(|(_, options)| options).find(|option| match **option {
        "rank" => args.rank.is_none(),
        _ => args.density.is_none(),
    });
    if let Some(option) = missing {
        return Err(Failure::new(
            format!("--combination {name} needs --{option}"),
            "see `adapters combine --help`",
        ));
    }
    let sign = match args.sign {
        SignArg::Total => SignElection::Total,
        SignArg::Frequency => SignElection::Frequency,
    };
    Ok(Combination::named(name, args.rank, args.density, sign, args.seed)?)
}

/// An adapter folder and its weight.
fn weighted(text: &str) -> Result<(PathBuf, f64), Failure> {
    let Some((folder, weight)) = text.rsplit_once('=') else {
        return Ok((folders::single_adapter(Path::new(text))?, 1.0));
    };
    let number: f64 = weight.parse().map_err(|_| not_a_weight(text, weight))?;
    if !number.is_finite() {
        return Err(not_a_weight(text, weight));
    }
    Ok((folders::single_adapter(Path::new(folder))?, number))
}

fn not_a_weight(text: &str, weight: &str) -> Failure {
    Failure::new(
        format!("`{weight}` in `{text}` is not a weight"),
        "write a folder, or a folder, `=` and a finite number",
    )
}

fn folder_name(dir: &Path) -> String {
    dir.file_name()
        .map_or_else(|| "combined".to_owned(), |name| name.to_string_lossy().into_owned())
}
