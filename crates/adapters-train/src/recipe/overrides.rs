//! Fields of a recipe that are given on the command line.

use toml::{Table, Value};

use crate::error::TrainError;

/// Keys that hold paths: a value given on the command line is relative to the folder the command runs in.
const PATH_KEYS: &[&str] = &[
    "model.path",
    "data.train",
    "data.validation",
    "data.test",
    "adapter.from",
    "adapter.stack_on",
];

/// Applies one override, `section.key=value`; a value that is no TOML is a string.
pub(super) fn set(table: &mut Table, given: &str) -> Result<(), TrainError> {
    let malformed = || TrainError::Override {
        given: given.to_owned(),
    };
    let (key, text) = given.split_once('=').ok_or_else(malformed)?;
    let (key, text) = (key.trim(), text.trim());
    let mut value = toml::from_str::<Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    if PATH_KEYS.contains(&key)
        && let Some(path) = value.as_str()
        && let Ok(here) = std::env::current_dir()
        && here.join(path).exists()
    {
        value = Value::String(here.join(path).to_string_lossy().into_owned());
    }
    let (section, field) = key.split_once('.').ok_or_else(malformed)?;
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    let mut section = section.as_table_mut().ok_or_else(malformed)?;
    let mut names: Vec<&str> = field.split('.').collect();
    let last = names.pop().filter(|last| !last.is_empty()).ok_or_else(malformed)?;
    for name in names {
        let inner = section.entry(name).or_insert_with(|| Value::Table(Table::new()));
        section = inner.as_table_mut().ok_or_else(malformed)?;
    }
    // One way to name the method: the override replaces the other.
    match key {
        "adapter.config" => section.retain(|key, _| key == "name" || key == "stack_on"),
        "adapter.method" => drop(section.remove("config")),
        "adapter.from" => section.retain(|key, _| key == "name" || key == "stack_on"),
        _ => {}
    }
    section.insert(last.to_owned(), value);
    Ok(())
}
