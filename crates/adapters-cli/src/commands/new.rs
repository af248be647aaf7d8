//! `adapters new`: a recipe and a little data to begin with.

use std::fs;
use std::path::{Path, PathBuf};

use adapters::store::atomic;
use clap::builder::PossibleValuesParser;

use crate::failure::Failure;
use crate::folders;
use crate::invocation;

/// A task, its recipe, its training and its validation data.
struct Template {
    task: &'static str,
    recipe: &'static str,
    train: &'static str,
    validation: &'static str,
}

macro_rules! templates {
    ($($task:literal),* $(,)?) => {
        [$(Template {
            task: $task,
            recipe: include_str!(concat!("../../templates/", $task, "/recipe.toml")),
            train: include_str!(concat!("../../templates/", $task, "/train.jsonl")),
            validation: include_str!(concat!("../../templates/", $task, "/validation.jsonl")),
        }),*]
    };
}

const TEMPLATES: &[Template] = &templates![
    "classification",
    "multi_label",
    "regression",
    "tagging",
    "question_answering",
    "multiple_choice",
    "masked_lm",
    "causal_lm",
    "seq2seq_lm",
];

/// `adapters new`
#[derive(Debug, clap::Args)]
#[command(after_help = crate::options::examples(&[
    "adapters new my-task --model models/all-MiniLM-L6-v2",
    "adapters new my-tagger --task tagging --model models/all-MiniLM-L6-v2",
]))]
pub(crate) struct NewArgs {
    /// Folder to create.
    pub(crate) dir: PathBuf,
    /// The task of the recipe.
    #[arg(long, value_name = "TASK", default_value = "classification", value_parser = tasks(), help_heading = "Recipe")]
    pub(crate) task: String,
    /// Folder of the base model, written into the recipe [default: a placeholder to fill in].
    #[arg(long, value_name = "DIR", help_heading = "Recipe")]
    pub(crate) model: Option<PathBuf>,
}

fn tasks() -> PossibleValuesParser {
    PossibleValuesParser::new(TEMPLATES.iter().map(|template| template.task))
}

/// Writes the folder.
pub(crate) fn run(args: NewArgs) -> Result<(), Failure> {
    folders::check_new(&args.dir)?;
    let Some(template) = TEMPLATES.iter().find(|template| template.task == args.task) else {
        return Err(Failure::new(
            format!("there is no template for {}", args.task),
            "choose one of the listed tasks",
        ));
    };
    let recipe = match &args.model {
        Some(model) => {
            let model = folders::model(&model.to_string_lossy())?;
            let model = model.canonicalize().unwrap_or(model);
            let quoted = toml_string(&model.to_string_lossy());
            template.recipe.replace("\"MODEL\"", &quoted)
        }
        None => template.recipe.to_owned(),
    };
    let data = args.dir.join("data");
    fs::create_dir_all(&data).map_err(|e| {
        Failure::new(
            format!("cannot create the folder {}: {e}", data.display()),
            "choose another folder",
        )
    })?;
    let recipe_path = args.dir.join("recipe.toml");
    let write = |path: &Path, text: &str| -> Result<(), Failure> {
        atomic::write(path, text.as_bytes())?;
        say!("wrote {}", path.display());
        Ok(())
    };
    write(&recipe_path, &recipe)?;
    write(&data.join("train.jsonl"), template.train)?;
    write(&data.join("validation.jsonl"), template.validation)?;
    say!("");
    say!("next:");
    if args.model.is_none() {
        say!(
            "  set `model.path` in {} to the folder of a pretrained model",
            recipe_path.display()
        );
    }
    say!("  {} train {}", invocation::program(), invocation::word(&recipe_path));
    Ok(())
}

/// A string of TOML, quoted.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
