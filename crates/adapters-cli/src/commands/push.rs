//! `adapters push`: an adapter folder to the Hub.

use std::fs;
use std::path::Path;

use adapters::Format;
use adapters::store::{Manifest, ModelCard, Origin, read_json};
use adapters_hub::{Contents, Hub, HubError, LocalFile, RepoId, is_pickle};
use serde_json::{Map, Value};

use crate::args::PushArgs;
use crate::failure::Failure;
use crate::{folders, loading};

/// Uploads the files of the folder in one commit.
pub(crate) fn run(args: PushArgs) -> Result<(), Failure> {
    let dir = folders::single_adapter(&args.adapter)?;
    let files = files(&dir, args.base_model.as_ref())?;
    let hub = Hub::from_env();
    hub.create(&args.id, args.private)?;
    for file in &files {
        note!("{}", file.path);
    }
    let commit = hub.upload(&args.id, &args.revision, &files, &args.message, |path| {
        note!("sending {path}")
    })?;
    say!("{}", commit.commit_url);
    Ok(())
}

/// The files that are uploaded, which name the base by its id.
fn files(dir: &Path, base: Option<&RepoId>) -> Result<Vec<LocalFile>, Failure> {
    let unreadable = |e| {
        Failure::new(
            format!("cannot read the folder {}: {e}", dir.display()),
            "check the folder",
        )
    };
    let mut names: Vec<String> = fs::read_dir(dir)
        .map_err(unreadable)?
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != Origin::FILE)
        .collect();
    names.sort();
    // Weights that are there in safetensors too are uploaded so.
    let is_safe = names.iter().any(|name| name.ends_with(".safetensors"));
    if let Some(name) = names.iter().find(|name| is_pickle(name) && !is_safe) {
        return Err(HubError::Pickle { path: dir.join(name) }.into());
    }
    let of_adapter = |name: &String| {
        [".json", ".safetensors", ".md", ".jinja"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    names.retain(of_adapter);
    let config: Map<String, Value> = read_json(&dir.join("adapter_config.json"))?;
    let key = ["base_model_name_or_path", "model_name"]
        .into_iter()
        .find(|key| config.contains_key(*key));
    let key = key.unwrap_or("base_model_name_or_path");
    let named = config.get(key).and_then(Value::as_str).unwrap_or_default();
    let id = match base {
        Some(id) => id.to_string(),
        // A path may look like an id.
        None if named.parse::<RepoId>().is_ok() && !Path::new(named).exists() => named.to_owned(),
        None => {
            return Err(Failure::new(
                format!(
                    "adapter_config.json in {} names the base model `{named}`, which is no id of the Hub",
                    dir.display()
                ),
                "name the id of the base model with --base-model OWNER/NAME; it is written into the uploaded files",
            ));
        }
    };
    let manifest = loading::manifest(dir)?;
    let mut files = Vec::new();
    for name in &names {
        let path = dir.join(name);
        let replaced = match name.as_str() {
            "adapter_config.json" => Some(with_value(config.clone(), key, &id)),
            Manifest::FILE => Some(with_value(read_json(&path)?, "base_model", &id)),
            ModelCard::FILE => fs::read_to_string(&path).ok().map(|card| renamed(&card, named, &id)),
            _ => None,
        };
        files.push(LocalFile {
            path: name.clone(),
            contents: match replaced {
                Some(text) => Contents::Bytes(text.into_bytes()),
                None => Contents::File(path),
            },
        });
    }
    if !names.iter().any(|name| name == ModelCard::FILE) {
        files.push(LocalFile {
            path: ModelCard::FILE.to_owned(),
            contents: Contents::Bytes(card(dir, &config, manifest, id).text().into_bytes()),
        });
    }
    Ok(files)
}

/// An object with another value, as text.
fn with_value(mut fields: Map<String, Value>, key: &str, value: &str) -> String {
    fields.insert(key.to_owned(), value.into());
    serde_json::to_string_pretty(&fields).unwrap_or_default()
}

/// A card with another base, which it names as text and as a string of YAML.
fn renamed(card: &str, base: &str, id: &str) -> String {
    let quoted = Value::from(base).to_string();
    match base {
        "" => card.to_owned(),
        _ => card.replace(quoted.trim_matches('"'), id).replace(base, id),
    }
}

/// The card of a folder that has none.
fn card(dir: &Path, config: &Map<String, Value>, manifest: Manifest, base: String) -> ModelCard {
    let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
    let folder = || dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let or = |first: String, other: &dyn Fn() -> String| if first.is_empty() { other() } else { first };
    let method = || text("peft_type").unwrap_or_default().to_lowercase();
    ModelCard {
        name: or(manifest.name, &folder),
        format: match config.contains_key("peft_type") {
            true => Format::Peft,
            false => Format::AdapterHub,
        },
        base,
        architecture: or(manifest.base_architecture, &|| text("model_type").unwrap_or_default()),
        config: or(manifest.config, &method),
        task_type: text("task_type"),
        pipeline: None,
        labels: manifest.labels,
        with_head: false,
        command: "info path/to/this/folder".to_owned(),
        figures: Vec::new(),
    }
}
