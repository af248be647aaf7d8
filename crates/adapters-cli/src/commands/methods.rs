//! `adapters methods`: what a config string can name.

use adapters::methods::MethodEntry;
use adapters::{METHODS, method};
use serde_json::{Value, json};

use crate::failure::Failure;

/// `adapters methods`
#[derive(Debug, clap::Args)]
#[command(after_help = crate::options::examples(&["adapters methods", "adapters methods lora", "adapters methods lora --json"]))]
pub(crate) struct MethodsArgs {
    /// List the fields of this method and their defaults.
    pub(crate) name: Option<String>,
    /// Print JSON.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Prints the methods, or the fields of one.
pub(crate) fn run(args: MethodsArgs) -> Result<(), Failure> {
    match &args.name {
        Some(name) => fields(name, args.json),
        None => {
            all(args.json);
            Ok(())
        }
    }
}

fn all(as_json: bool) {
    let registry = METHODS;
    let entries = registry.entries();
    if as_json {
        let methods: Vec<Value> = entries
            .iter()
            .map(|entry| {
                json!({"method": entry.name(), "description": entry.description(), "names": entry.identifiers()})
            })
            .collect();
        return say!("{}", Value::from(methods));
    }
    let width = entries.iter().map(|entry| entry.name().len()).max().unwrap_or_default();
    for entry in entries {
        say!("{:<width$}  {}", entry.name(), entry.description());
        let names = entry.identifiers();
        if names != [entry.name()] {
            say!("{:<width$}  Names in config strings: {}", "", names.join(", "));
        }
    }
    say!("");
    say!("`adapters methods NAME` lists the fields of a method and their defaults.");
}

fn fields(name: &str, as_json: bool) -> Result<(), Failure> {
    let registry = METHODS;
    let entries = registry.entries();
    let described = |entry: &MethodEntry| Some((entry.description(), entry.defaults(name)?));
    let Some((description, fields)) = entries.iter().find_map(described) else {
        // The refusal of an unknown name has the nearest known one.
        method(name)?;
        for entry in entries.iter().filter(|entry| entry.name() == name) {
            say!("{}", entry.description());
            if entry.members().is_none() {
                say!("Names in config strings: {}", entry.identifiers().join(", "));
            }
        }
        return Ok(());
    };
    if as_json {
        say!("{}", Value::from(fields));
        return Ok(());
    }
    say!("{description}");
    say!("");
    let width = fields.keys().map(String::len).max().unwrap_or_default();
    for (field, value) in &fields {
        say!("{field:<width$}  {value}");
    }
    say!("");
    let field = fields.keys().next().map_or("r", String::as_str);
    say!("Write {name}[{field}=..] in a recipe's `adapter.config` to set a field.");
    Ok(())
}
