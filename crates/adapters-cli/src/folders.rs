//! Folders that arguments name: models, adapters, and where results go.

use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use adapters::nn::nearest;
use adapters::store::{Setup, is_there, open_regular};
use adapters_hub::RepoId;

use crate::failure::Failure;
use crate::invocation;

/// The folder of a model.
pub(crate) fn model(name: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(name);
    if is_there(&path.join("adapter_config.json")) && !is_there(&path.join("config.json")) {
        return Err(Failure::new(
            format!("{name} is the folder of an adapter, not of a model"),
            "name it with --adapter, and its base model with --model",
        ));
    }
    if path.is_file() {
        return Err(is_a_file("a model", &path));
    }
    if !path.is_dir() {
        return Err(missing("model", &path));
    }
    // The folder of the Hub's cache has its snapshots below it.
    let snapshots = folders_in(&path.join("snapshots"));
    match snapshots.iter().find(|dir| is_there(&dir.join("config.json"))) {
        Some(snapshot) if !is_there(&path.join("config.json")) => Err(Failure::new(
            format!("{} is a folder of the Hub's cache, not a checkpoint", path.display()),
            format!("name the snapshot in it: {}", snapshot.display()),
        )),
        _ => Ok(path),
    }
}

/// The folder of the base model that an adapter folder names.
pub(crate) fn base_model(name: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(name);
    if path.is_dir() {
        return Ok(path);
    }
    let help = match pull(name) {
        Some(pull) => format!("{pull}, and --model names that folder"),
        None => "if the model was moved, name its folder with --model".to_owned(),
    };
    Err(Failure::new(
        format!(
            "manifest.json of the adapter names the base model {name}, and there is no such folder on this machine"
        ),
        help,
    ))
}

/// How what may be the id of a repository on the Hub becomes a folder.
fn pull(name: &str) -> Option<String> {
    let program = invocation::program();
    is_id(name).then(|| format!("`{program} pull {name}` downloads it from the Hub"))
}

/// Whether a name may be an id of the Hub: an owner and a name.
pub(crate) fn is_id(name: &str) -> bool {
    name.parse::<RepoId>().is_ok_and(|id| id.owner().is_some())
}

/// The folder of an adapter: the folder itself, or the one inside the folder of a run.
pub(crate) fn adapter(path: &Path) -> Result<PathBuf, Failure> {
    const FILES: [&str; 2] = ["adapter_config.json", "adapter_setup.json"];
    let is_adapter = |dir: &Path| FILES.iter().any(|file| is_there(&dir.join(file)));
    if is_adapter(path) {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        return Err(is_a_file("an adapter", path));
    }
    if !path.is_dir() {
        return Err(missing("adapter", path));
    }
    let inside: Vec<PathBuf> = folders_in(path).into_iter().filter(|dir| is_adapter(dir)).collect();
    let Some(first) = inside.first() else {
        if is_there(&path.join("config.json")) {
            return Err(Failure::new(
                format!("{} is the folder of a model, not of an adapter", path.display()),
                "name the adapter's folder, and this one with --model",
            ));
        }
        // What is wrong with a folder without adapters is found out by reading it.
        return Ok(path.to_owned());
    };
    // The folder of a run of this program.
    if is_there(&path.join("recipe.toml")) {
        match inside.iter().find(|dir| dir.ends_with("adapter")) {
            Some(adapter) => return Ok(adapter.clone()),
            None if inside.len() == 1 => return Ok(first.clone()),
            None => {}
        }
    }
    let (path, first) = (path.display(), first.display());
    Err(Failure::new(
        format!("{path} is not an adapter folder, but {first} is one"),
        format!("name {first} instead"),
    ))
}

fn is_a_file(what: &str, path: &Path) -> Failure {
    Failure::new(
        format!("{} is a file, and {what} is a folder", path.display()),
        format!("name the folder: {}", parent(path).display()),
    )
}

/// The folder of one adapter, for commands that have no meaning for a composition of several.
pub(crate) fn single_adapter(path: &Path) -> Result<PathBuf, Failure> {
    let folder = adapter(path)?;
    match folder.join(Setup::FILE).is_file() {
        true => Err(Failure::new(
            format!("{} is a composition of several adapters", folder.display()),
            "name one of the adapter folders in it",
        )),
        false => Ok(folder),
    }
}

/// The folders in a folder, by name, without those that are hidden: what is being written is in one.
fn folders_in(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let shown = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let mut folders: Vec<PathBuf> = shown.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Checks that results do not mix with what is there already: the folder is new or empty.
pub(crate) fn check_new(out: &Path) -> Result<(), Failure> {
    let Some(entry) = fs::read_dir(out).into_iter().flatten().flatten().next() else {
        return Ok(());
    };
    let found = if is_there(&out.join("adapter_config.json")) {
        "holds an adapter already".to_owned()
    } else if is_there(&out.join("config.json")) {
        "holds a checkpoint already".to_owned()
    } else {
        format!("is not empty: it contains {}", entry.file_name().to_string_lossy())
    };
    Err(Failure::new(
        format!("the output folder {} {found}", out.display()),
        "choose another folder with --out, or delete this one",
    ))
}

/// Checks that an output file does not exist, or is a regular file that is empty or whose first bytes `begins` accepts as those of such
/// a file: links, devices, and files of another kind, such as the data or the weights that the command reads, are not replaced.
pub(crate) fn check_file(path: &Path, begins: impl Fn(&[u8]) -> bool) -> Result<(), Failure> {
    let refuse = |what: &str| {
        Err(Failure::new(
            format!("the output file {} {what}, which is never replaced", path.display()),
            "name a new file",
        ))
    };
    let mut first = Vec::new();
    match fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => return refuse("is a folder, a link or a device"),
        Ok(_) => open_regular(path)
            .and_then(|file| file.take(256).read_to_end(&mut first))
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display()), "name a new file"))?,
        Err(_) => return Ok(()),
    };
    match first.is_empty() || begins(&first) {
        true => Ok(()),
        false => refuse("is a file of another kind"),
    }
}

/// Checks that a file or folder exists; the refusal has the nearest name next to it.
pub(crate) fn check_exists(what: &str, path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    if is_there(path)
        && let Err(error) = open_regular(path)
    {
        return Err(Failure::new(
            format!("cannot read the {what} {}: {error}", path.display()),
            "check the path",
        ));
    }
    let entries = fs::read_dir(parent(path)).into_iter().flatten().flatten();
    let names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let similar = name.and_then(|name| nearest(&name, names.iter().map(String::as_str)));
    let help = match similar {
        Some(name) => format!("did you mean {name}?"),
        None => "check the path".to_owned(),
    };
    Err(Failure::new(
        format!("there is no {what} {}", without_dots(path).display()),
        help,
    ))
}

/// The folder that a path is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A path without `.` and `..`, read from left to right: for messages about what does not exist.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            Component::CurDir => {}
            component => plain.push(component),
        }
    }
    plain
}

/// The refusal of a folder that does not exist, with the nearest name next to it.
fn missing(what: &str, path: &Path) -> Failure {
    let parent = parent(path);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let siblings: Vec<String> = folders_in(parent)
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let similar = name.and_then(|name| nearest(&name, siblings.iter().map(String::as_str)));
    let help = match similar {
        Some(name) => format!("did you mean {}?", parent.join(name).display()),
        None => match pull(&path.to_string_lossy()) {
            Some(pull) => format!("name the folder of the {what}; {pull}"),
            None => format!("name the folder of the {what}"),
        },
    };
    Failure::new(format!("there is no {what} folder {}", path.display()), help)
}
