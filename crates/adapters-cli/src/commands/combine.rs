//! `adapters combine`

use std::path::{Path, PathBuf};

use adapters::lora::{Combination, SignElection};
use adapters::models::{AdapterFolder, Head, Model, ModelError, Pretrained};
use adapters::store::{LoadOptions, Manifest, atomic, load_adapter};
use adapters::{AdapterSet, Format, METHODS, average, normalized};
use burn::tensor::Device;

use crate::args::{CombineArgs, SignArg};
use crate::failure::Failure;
use crate::options::AcceptArgs;
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
    let pretrained = common_base(&folders, &dir, args.accept)?;
    let base = pretrained.model(&device)?;
    let Loaded {
        mut set,
        format,
        weights,
        heads,
    } = load(&folders, &dir, &base, args.accept.allow_bin, &device)?;
    loading::check_holds_tokens(&pretrained, format, first)?;
    let of_sum = match args.raw {
        true => weights.clone(),
        false => normalized_weights(&weights)?,
    };
    let (head, note) = combined_head(&heads, &of_sum)?;
    let name = folder_name(&args.out);
    match combination {
        Some(combination) => {
            combination.combine(&mut set, &name, &weights, &base, &device)?;
        }
        None => {
            average(&mut set, &name, &of_sum)?;
        }
    }
    atomic::write_folder(&args.out, |out| {
        let folder = AdapterFolder {
            name: &name,
            format,
            pretrained: &pretrained,
            base: &base,
            head: head.as_ref(),
            tokenizer: Some(first),
        };
        let named = loading::named_base(&manifest, &dir);
        let manifest = Manifest {
            base_model: dir.to_string_lossy().into_owned(),
            base_fingerprint: manifest.base_fingerprint,
            max_length: manifest.max_length,
            precision: manifest.precision,
            stack_on: manifest.stack_on,
            chat: manifest.chat,
            ..Manifest::default()
        };
        folder.write(out, &set, &named, manifest)
    })?;
    say!("{}: {}", name, set.attached(&name)?.method());
    if let Some(note) = note {
        say!("{note}");
    }
    say!("wrote {}", args.out.display());
    Ok(())
}

/// The base of all adapters, which must be over the same tokens.
fn common_base(folders: &[(PathBuf, f64)], dir: &Path, accept: AcceptArgs) -> Result<Pretrained, Failure> {
    let (first, _) = &folders[0];
    for (folder, _) in &folders[1..] {
        loading::check_base(dir, &loading::manifest(folder)?, folder, accept)?;
    }
    let pretrained = loading::pretrained(dir, Some(first), accept)?;
    for (folder, _) in &folders[1..] {
        let other = Pretrained::open(dir)?.with_bin(accept.allow_bin).for_adapter(folder)?;
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
    Ok(pretrained)
}

/// The adapters of the folders.
struct Loaded {
    set: AdapterSet,
    /// The format of the first.
    format: Format,
    /// Names in the set, and weights.
    weights: Vec<(String, f64)>,
    heads: Vec<Option<Head>>,
}

fn load(
    folders: &[(PathBuf, f64)],
    dir: &Path,
    base: &Model,
    allow_bin: bool,
    device: &Device,
) -> Result<Loaded, Failure> {
    let mut loaded = Loaded {
        set: AdapterSet::new(),
        format: Format::AdapterHub,
        weights: Vec::new(),
        heads: Vec::new(),
    };
    for (index, (folder, weight)) in folders.iter().enumerate() {
        // Folders may name their adapters alike.
        let name = format!("adapter {index}");
        let options = LoadOptions {
            name: Some(name.clone()),
            allow_bin,
            ..LoadOptions::default()
        };
        let report = load_adapter(folder, &mut loaded.set, base, &METHODS, &options, device)?;
        if index == 0 {
            loaded.format = report.format;
        }
        loaded.weights.push((name, *weight));
        let manifest = loading::manifest(folder)?;
        loaded
            .heads
            .push(Head::find(folder, &manifest, dir, allow_bin, base, device)?);
    }
    Ok(loaded)
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
    let needed = Combination::NAMES.into_iter().find(|(of, _)| *of == name);
    let needed = needed.map_or(&[][..], |(_, options)| options);
    for (option, given) in [("rank", args.rank.is_some()), ("density", args.density.is_some())] {
        let what = match (needed.contains(&option), given) {
            (true, false) => "needs",
            (false, true) => "has no use for",
            _ => continue,
        };
        return Err(Failure::new(
            format!("--combination {name} {what} --{option}"),
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
    // A folder may have the sign in its name.
    let Some((folder, weight)) = text.rsplit_once('=').filter(|_| !Path::new(text).is_dir()) else {
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
