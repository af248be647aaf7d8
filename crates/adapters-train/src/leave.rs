//! What a finished run leaves: the adapter or the fusion, its head and its manifest.

use std::path::{Path, PathBuf};

use adapters_core::{Format, Host};
use adapters_store::{HeadManifest, Manifest, Setup, StoreError, expressible, save_adapter};

use crate::completions::chat_template;
use crate::error::TrainError;
use crate::task::{Head, Learner};
use crate::trainer::Run;

/// File of a classification head.
const HEAD: &str = "head.safetensors";

/// Writes what was trained into the run folder, in every format that can hold it; the first of them, and the folder of
/// peft's, or why there is none.
pub(crate) fn save_all(run: &Run, model: &Learner) -> Result<(Format, Result<PathBuf, String>), TrainError> {
    let (adapter, peft) = (run.dir.join("adapter"), run.dir.join("adapter-peft"));
    if !run.recipe.adapter.fuse.is_empty() {
        save_setup(run, model, &adapter)?;
        return Ok((
            Format::AdapterHub,
            Err("the PEFT format cannot express a fusion".to_owned()),
        ));
    }
    let set = &model.adapted.set;
    let format = expressible(set, &run.recipe.adapter.name, &*model.adapted.base)?;
    save(run, model, format, &adapter)?;
    let peft = match format {
        Format::Peft => Ok(adapter),
        Format::AdapterHub => match save(run, model, Format::Peft, &peft) {
            Ok(()) => Ok(peft),
            Err(TrainError::Store(StoreError::Adapter(error @ adapters_core::Error::Config { .. }))) => {
                Err(with_source(&error))
            }
            Err(error) => return Err(error),
        },
    };
    Ok((format, peft))
}

/// Writes the adapter, its head and its manifest into `dir`.
fn save(run: &Run, model: &Learner, format: Format, dir: &Path) -> Result<(), TrainError> {
    let name = &run.recipe.adapter.name;
    let set = &model.adapted.set;
    save_adapter(dir, format, set, name, &*model.adapted.base)?;
    let config = set.attached(name)?.method().to_string();
    save_head(run, model, dir, config)
}

/// Writes the whole composition, its head and its manifest into `dir`.
fn save_setup(run: &Run, model: &Learner, dir: &Path) -> Result<(), TrainError> {
    let set = &model.adapted.set;
    if let Some(active) = set.active() {
        Setup::new(active.composition().clone()).save(dir, set, &*model.adapted.base)?;
    }
    let config = set.fusion(&run.recipe.adapter.name)?.method().to_string();
    save_head(run, model, dir, config)
}

fn save_head(run: &Run, model: &Learner, dir: &Path, config: String) -> Result<(), TrainError> {
    let recipe = &run.recipe;
    model.save_head(dir, &recipe.adapter.name, HEAD)?;
    let labels = &recipe.data.labels;
    let manifest = Manifest {
        name: recipe.adapter.name.clone(),
        config,
        base_architecture: model.adapted.base.architecture().to_owned(),
        base_model: recipe.model.path.clone(),
        max_length: Some(recipe.model.max_length),
        quantize: recipe.model.quantize,
        chat: recipe.head.kind.writes() && chat_template(recipe.data.template, &run.model_dir)?.is_some(),
        stack_on: recipe
            .adapter
            .stack_on
            .as_ref()
            .map(|dir| dir.to_string_lossy().into_owned()),
        head: matches!(model.head, Some(Head::Classification(_))).then(|| HeadManifest {
            file: HEAD.to_owned(),
            pooling: recipe.head.pooling,
            labels: (0..labels.count()).map(|class| labels.name(class)).collect(),
        }),
        written_by: concat!("adapters ", env!("CARGO_PKG_VERSION")).to_owned(),
        ..Manifest::default()
    };
    Ok(manifest.write(dir)?)
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
