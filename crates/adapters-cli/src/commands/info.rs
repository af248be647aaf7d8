//! `adapters info`

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use adapters::core::{Attached, SiteInfo, SiteKind};
use adapters::models::Model;
use adapters::store::{Manifest, is_there};
use adapters::train::{Recipe, Summary};
use adapters::{Format, Host, METHODS};
use burn::module::Module;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::InfoArgs;
use crate::failure::Failure;
use crate::output::printable;
use crate::{folders, loading};

/// Describes a model, adapter or run folder.
pub(crate) fn run(args: InfoArgs) -> Result<(), Failure> {
    let path = &args.path;
    if !folders::is_id(&path.to_string_lossy()) {
        folders::check_exists("folder", path)?;
    }
    let description = if is_there(&path.join("adapter_config.json")) {
        adapter(path, &args)?
    } else if is_there(&path.join("config.json")) || !path.is_dir() {
        let dir = folders::model(&path.to_string_lossy())?;
        model(&dir, &args)?
    } else {
        // The folder of a run, or one that says where an adapter is.
        match folders::adapter(path)? {
            inside if inside == *path => model(path, &args)?,
            inside => run_folder(path, &inside, &args)?,
        }
    };
    description.print(args.json);
    Ok(())
}

/// Facts in order, with the layers they are about.
#[derive(Debug, Default, Serialize)]
struct Description {
    #[serde(flatten)]
    facts: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Layers>,
}

/// Layers of one role, or one layer where all are listed.
#[derive(Debug, Serialize)]
struct Layers {
    role: String,
    count: usize,
    shape: String,
    example: String,
}

impl Description {
    fn say(&mut self, key: &str, value: impl Into<Value>) {
        self.facts.insert(key.to_owned(), value.into());
    }

    fn print(&self, json: bool) {
        if json {
            return say!("{}", serde_json::to_string_pretty(self).unwrap_or_default());
        }
        for (key, value) in &self.facts {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            say!("{:<14} {}", key.replace('_', " "), printable(&text, ""));
        }
        for layers in &self.layers {
            let Layers {
                role,
                count,
                shape,
                example,
            } = layers;
            match count {
                1 => say!("  {role:<22} {shape:<24} {example}"),
                _ => say!("  {role:<22} {count:>3} x {shape:<24} e.g. {example}"),
            }
        }
    }
}

fn model(dir: &Path, args: &InfoArgs) -> Result<Description, Failure> {
    let device = loading::device(&args.device)?;
    let (model, _) = loading::pretrained(dir, None, args.accept)?.model_on_demand(&device)?;
    let mut about = Description::default();
    about.say("model", dir.display().to_string());
    about.say("architecture", model.architecture());
    about.say("class", model.class_name());
    about.say("parameters", model.num_params());
    about.say("width", model.d_model());
    about.say("layers", model.num_layers());
    about.say("vocabulary", model.vocab_size());
    let longest = model.max_length();
    about.say("longest_input", longest.map_or_else(|| "no limit".into(), Value::from));
    let sites = model.sites();
    about.say("adaptable", format!("{} modules", sites.len()));
    about.layers = layers(
        sites.iter().map(|info| {
            (
                info.site.role.to_string(),
                info.site.to_string(),
                info.path.clone(),
                kind(&info.kind),
            )
        }),
        args.sites,
    );
    Ok(about)
}

/// Role, site, path and shape of layers: all of them, or counted by role and shape.
fn layers(found: impl Iterator<Item = (String, String, String, String)>, all: bool) -> Vec<Layers> {
    let mut counted: BTreeMap<(String, String), Layers> = BTreeMap::new();
    let mut listed = Vec::new();
    for (role, site, example, shape) in found {
        let one = |role: String| Layers {
            role,
            count: 1,
            shape: shape.clone(),
            example: example.clone(),
        };
        if all {
            listed.push(one(site));
            continue;
        }
        counted
            .entry((role.clone(), shape.clone()))
            .and_modify(|layers| layers.count += 1)
            .or_insert_with(|| one(role));
    }
    listed.extend(counted.into_values());
    listed
}

fn kind(kind: &SiteKind) -> String {
    match kind {
        SiteKind::Linear { d_in, d_out } => format!("linear {d_in} -> {d_out}"),
        SiteKind::Norm { d_model } => format!("normalization {d_model}"),
        SiteKind::Table { rows, d_model, .. } => format!("embedding {rows} x {d_model}"),
        SiteKind::Matrices { count, rows, cols } => format!("{count} matrices {rows} x {cols}"),
        SiteKind::Convolution {
            channels,
            d_out,
            kernel,
            groups,
        } => format!("convolution {channels} -> {d_out} of {kernel} in {groups} groups"),
        SiteKind::Hidden { d_model } => format!("hidden state {d_model}"),
        SiteKind::KeyValue { heads, d_head } => format!("keys and values {heads} x {d_head}"),
        SiteKind::Embedding { d_model } => format!("embedded tokens {d_model}"),
        SiteKind::LayerInput { d_model } => format!("layer input {d_model}"),
        SiteKind::LayerOutput { d_model } => format!("layer output {d_model}"),
        SiteKind::LmHeadInput { d_model } => format!("input of the head {d_model}"),
    }
}

fn adapter(dir: &Path, args: &InfoArgs) -> Result<Description, Failure> {
    let found = Manifest::read(dir)?;
    let manifest = found.clone().unwrap_or_default();
    let base_dir = loading::base_dir(args.model.as_deref(), &manifest, dir, args.accept)?;
    let device = loading::device(&args.device)?;
    let (base, read_errors) = loading::pretrained(&base_dir, Some(dir), args.accept)?.model_on_demand(&device)?;
    let (adapted, report) = loading::adapted(base, dir, args.accept.allow_bin, &device)?;
    read_errors.check()?;
    let attached = adapted.set.attached(&report.attached.adapter)?;
    let mut about = Description::default();
    about.say("adapter", attached.name());
    about.say("folder", dir.display().to_string());
    about.say("format", report.format.to_string());
    about.say("weights", report.weights.display().to_string());
    if let Ok(file) = fs::metadata(&report.weights) {
        about.say("bytes", file.len());
    }
    about.say("config", attached.method().to_string());
    let written = written_fields(attached, report.format, adapted.base());
    for (fact, fields) in [("rank", &["r"][..]), ("alpha", &["alpha", "lora_alpha"])] {
        if let Some(value) = fields.iter().find_map(|field| written.get(*field)) {
            about.say(fact, value.clone());
        }
    }
    let unknown = unknown_fields(dir, &written);
    if !unknown.is_empty() {
        about.say(
            "unknown_fields",
            format!("{} (kept, without effect)", unknown.join(", ")),
        );
    }
    let (own, all) = (attached.num_params(), (*adapted.base()).num_params());
    about.say("parameters", own);
    about.say(
        "share",
        format!("{:.3} % of the base model", own as f64 / all as f64 * 100.0),
    );
    about.say("base", base_dir.display().to_string());
    about.say("architecture", adapted.base().architecture());
    if let Some(head) = &manifest.head {
        let field = |key: &str| {
            head.config
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or("none")
                .to_owned()
        };
        about.say("head", format!("{} in {}", field("head_type"), head.file));
        about.say("pooling", field("pooling"));
    }
    if let Some(below) = &manifest.stack_on {
        about.say("trained_on_top_of", below.as_str());
    }
    match found {
        Some(manifest) => about.say("written_by", manifest.written_by),
        None => about.say("manifest", "none: the folder was not written by this library"),
    }
    about.say("touches", format!("{} sites", attached.layers().count()));
    let of = attached.layers().map(|layer| {
        let info = &layer.info;
        (
            info.site.role.to_string(),
            info.site.to_string(),
            info.path.clone(),
            kind(&info.kind),
        )
    });
    about.layers = layers(of, args.sites);
    Ok(about)
}

/// Fields of PEFT's and AdapterHub's configurations that do not say what is computed.
const ABOUT_THE_FILE: &[&str] = &[
    "architecture",
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
];

/// The fields that the method writes, without those of a file that it does not know.
fn written_fields(attached: &Attached, format: Format, base: &Model) -> Map<String, Value> {
    let known = METHODS.parse(&attached.method().to_string());
    let sites: Vec<&SiteInfo> = attached.layers().map(|layer| &layer.info).collect();
    let written = known.and_then(|method| method.write(format, &sites, base));
    written.unwrap_or_default()
}

/// Fields of the configuration file that the method does not have and that hold a value.
fn unknown_fields(dir: &Path, known: &Map<String, Value>) -> Vec<String> {
    let file: Option<Map<String, Value>> = fs::read(dir.join("adapter_config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(file) = file.filter(|_| !known.is_empty()) else {
        return Vec::new();
    };
    let fields = file.get("config").and_then(Value::as_object).unwrap_or(&file);
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => false,
    };
    fields
        .iter()
        .filter(|(field, value)| !known.contains_key(*field) && !says_nothing(value))
        .map(|(field, _)| field.clone())
        .filter(|field| !ABOUT_THE_FILE.contains(&field.as_str()))
        .collect()
}

/// A run: how it ended, and its adapter.
fn run_folder(dir: &Path, inside: &Path, args: &InfoArgs) -> Result<Description, Failure> {
    let mut about = Description::default();
    about.say("run", dir.display().to_string());
    if let Err(error) = Recipe::read(&dir.join("recipe.toml"), &[]) {
        about.say("recipe", Failure::from(error).to_line());
    }
    let summary = dir.join(Summary::FILE);
    if is_there(&summary) {
        let summary = Summary::read(&summary)?;
        if let Some(score) = summary.test_score() {
            about.say("test_score", format!("{score:.4}"));
        }
        if let Some(score) = summary.validation_score {
            about.say("validation_score", format!("{score:.4}"));
        }
        about.say("steps", summary.steps);
        about.say("seconds", format!("{:.0}", summary.seconds));
    } else {
        about.say("state", "not finished: run the same recipe again to resume it");
    }
    let inside = adapter(inside, args)?;
    about.facts.extend(inside.facts);
    about.layers = inside.layers;
    Ok(about)
}
