//! Export of a finished run: the adapter or the fusion, its head and its manifest.

use std::path::{Path, PathBuf};

use adapters_core::{Format, Host};
use adapters_models::Pretrained;
use adapters_store::{Manifest, Setup, expressible, save_adapter};

use crate::error::TrainError;
use crate::run::Run;
use crate::task_model::TaskModel;
use crate::tasks::chat_template;

/// Writes what was trained into the run folder, in every format that can hold it; the first of them, and the folder of
/// peft's, or why there is none.
pub(crate) fn save_all(run: &Run, model: &TaskModel) -> Result<(Format, Result<PathBuf, String>), TrainError> {
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
            Err(TrainError::Adapter(error @ adapters_core::Error::Config { .. })) => Err(with_source(&error)),
            Err(error) => return Err(error),
        },
    };
    Ok((format, peft))
}

/// Writes the adapter, its head and its manifest into `dir`.
fn save(run: &Run, model: &TaskModel, format: Format, dir: &Path) -> Result<(), TrainError> {
    let name = &run.recipe.adapter.name;
    let set = &model.adapted.set;
    save_adapter(dir, format, set, name, &*model.adapted.base)?;
    let config = set.attached(name)?.method().to_string();
    save_head(run, model, format, dir, config)
}

/// Writes the whole composition, its head and its manifest into `dir`.
fn save_setup(run: &Run, model: &TaskModel, dir: &Path) -> Result<(), TrainError> {
    let set = &model.adapted.set;
    if let Some(active) = set.active() {
        Setup::new(active.composition().clone()).save(dir, set, &*model.adapted.base)?;
    }
    let config = set.fusion(&run.recipe.adapter.name)?.method().to_string();
    save_head(run, model, Format::AdapterHub, dir, config)
}

/// Writes the head in the format of the folder if that has such a head, else in the manifest's; and the manifest.
fn save_head(run: &Run, model: &TaskModel, format: Format, dir: &Path, config: String) -> Result<(), TrainError> {
    let (recipe, base) = (&run.recipe, &*model.adapted.base);
    let head = match (&model.head, format) {
        (None, _) => None,
        (Some(head), Format::AdapterHub) if head.fits_adapterhub(base) => {
            head.save(dir, &recipe.adapter.name, base)?;
            None
        }
        (Some(head), Format::Peft) if head.save_peft(dir, base)? => None,
        (Some(head), _) => Some(head.save_manifest(dir, base)?),
    };
    let manifest = Manifest {
        name: recipe.adapter.name.clone(),
        config,
        base_architecture: model.adapted.base.architecture().to_owned(),
        base_model: recipe.model.path.clone(),
        base_fingerprint: Some(Pretrained::open(&run.model_dir)?.fingerprint(recipe.output.whole_fingerprint)?),
        max_length: Some(recipe.model.max_length),
        quantize: recipe.model.quantize,
        chat: recipe.head.kind.is_generative && chat_template(recipe.data.template, &run.model_dir)?.is_some(),
        stack_on: recipe
            .adapter
            .stack_on
            .as_ref()
            .map(|dir| dir.to_string_lossy().into_owned()),
        labels: match (&head, &model.head, format) {
            (None, Some(head), Format::Peft) => head.config().labels.clone(),
            _ => Vec::new(),
        },
        head,
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
