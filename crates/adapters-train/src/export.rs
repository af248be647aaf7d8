//! Export of a finished run: the adapter or the fusion, its head, its manifest and its model card.

use std::path::{Path, PathBuf};

use adapters_core::{Format, Host};
use adapters_models::{AdapterFolder, Pretrained};
use adapters_store::{Manifest, ModelCard, Setup, atomic, base_name, expressible};

use crate::error::TrainError;
use crate::run::Run;
use crate::run_files::Summary;
use crate::task_model::TaskModel;
use crate::tasks::chat_template;

/// What was written.
pub(crate) struct Saved {
    /// The first format that can hold what was trained.
    pub(crate) format: Format,
    /// The folder in peft's format, or why there is none.
    pub(crate) peft: Result<PathBuf, String>,
    /// Which libraries do not find the head in their folder, and how they would.
    pub(crate) head_note: Option<String>,
}

/// A folder to write.
struct Folder<'a> {
    run: &'a Run,
    model: &'a TaskModel,
    summary: &'a Summary,
    format: Format,
    dir: &'a Path,
}

/// Writes what was trained into the run folder, in every format that can hold it.
pub(crate) fn save_all(run: &Run, model: &TaskModel, summary: &Summary) -> Result<Saved, TrainError> {
    let (adapter, peft) = (run.dir.join("adapter"), run.dir.join("adapter-peft"));
    let write = |format, dir: &Path, save: fn(&Folder<'_>) -> Result<bool, TrainError>| {
        atomic::write_folder(dir, |dir| {
            save(&Folder {
                run,
                model,
                summary,
                format,
                dir,
            })
        })
    };
    if !run.recipe.adapter.fuse.is_empty() {
        let is_elsewhere = !write(Format::AdapterHub, &adapter, |folder| folder.save_setup())?;
        return Ok(Saved {
            format: Format::AdapterHub,
            peft: Err("the PEFT format cannot express a fusion".to_owned()),
            head_note: head_note(model, &[(Format::AdapterHub, is_elsewhere)]),
        });
    }
    // The tables of an adapter over other tokens than its base have a place in peft's format only.
    let format = match run.pretrained()?.resized() {
        Some(_) => Format::Peft,
        None => expressible(&model.adapted.set, &run.recipe.adapter.name, model.adapted.base())?,
    };
    let is_elsewhere = !write(format, &adapter, |folder| folder.save())?;
    let mut heads = vec![(format, is_elsewhere)];
    let peft = match format {
        Format::Peft => Ok(adapter),
        Format::AdapterHub => match write(Format::Peft, &peft, |folder| folder.save()) {
            Ok(holds_head) => {
                heads.push((Format::Peft, !holds_head));
                Ok(peft)
            }
            Err(TrainError::Adapter(error @ adapters_core::Error::Config { .. })) => Err(with_source(&error)),
            Err(error) => return Err(error),
        },
    };
    Ok(Saved {
        format,
        peft,
        head_note: head_note(model, &heads),
    })
}

/// What to say of a head that some folders hold in this library's own file only.
fn head_note(model: &TaskModel, elsewhere: &[(Format, bool)]) -> Option<String> {
    let missing: Vec<Format> = elsewhere.iter().filter(|(_, is)| *is).map(|(of, _)| *of).collect();
    let (config, base) = (model.head.as_ref()?.config(), model.adapted.base());
    let names = missing.iter().map(Format::to_string).collect::<Vec<_>>();
    let names = (!names.is_empty()).then(|| names.join(" and "))?;
    let have = if missing.len() > 1 { "have" } else { "has" };
    let stored = format!("the head is in head.safetensors, which only this library reads: {names} {have} no such head");
    let read = config.kind.pooling().and_then(|read| serde_json::to_value(read).ok());
    let published = config
        .published_pooling(base)
        .filter(|of| Some(*of) != config.kind.pooling());
    let published = published.and_then(|pooling| serde_json::to_value(pooling).ok());
    Some(match (read, published) {
        (Some(read), Some(published)) => {
            format!("{stored} over `head.pooling = {read}`; `head.pooling = {published}` writes one that it reads")
        }
        _ => stored,
    })
}

impl Folder<'_> {
    /// Writes the adapter, its head, its manifest and its card; whether the format holds the head, if there is one.
    fn save(&self) -> Result<bool, TrainError> {
        let pretrained = self.run.pretrained()?;
        let set = &self.model.adapted.set;
        let recipe = &self.run.recipe;
        let written = self
            .files(&pretrained)
            .write(self.dir, set, &recipe.model.path, self.manifest(&pretrained)?)?;
        let config = set.attached(&recipe.adapter.name)?.method().to_string();
        self.write_card(config, written.task_type, written.holds_head)?;
        Ok(written.holds_head)
    }

    /// Writes the whole composition, its head and its manifest.
    fn save_setup(&self) -> Result<bool, TrainError> {
        let set = &self.model.adapted.set;
        if let Some(active) = set.active() {
            Setup::new(active.composition().clone()).save(self.dir, set, self.model.adapted.base())?;
        }
        let config = set.fusion(&self.run.recipe.adapter.name)?.method().to_string();
        let pretrained = self.run.pretrained()?;
        let manifest = self.manifest(&pretrained)?;
        Ok(self.files(&pretrained).write_head(self.dir, config, manifest)?)
    }

    fn files<'a>(&'a self, pretrained: &'a Pretrained) -> AdapterFolder<'a> {
        let section = &self.run.recipe.adapter;
        AdapterFolder {
            name: &section.name,
            format: self.format,
            pretrained,
            base: self.model.adapted.base(),
            head: self.model.head.as_ref(),
            tokenizer: section.from.as_deref(),
        }
    }

    /// What the manifest says of the run.
    fn manifest(&self, pretrained: &Pretrained) -> Result<Manifest, TrainError> {
        let recipe = &self.run.recipe;
        let stack_on = recipe.adapter.stack_on.as_ref();
        Ok(Manifest {
            base_model: recipe.model.path.clone(),
            base_fingerprint: Some(pretrained.fingerprint(recipe.output.whole_fingerprint)?),
            max_length: Some(recipe.model.max_length),
            precision: recipe.model.precision,
            chat: recipe.head.kind.is_generative && chat_template(recipe.data.template, pretrained)?.is_some(),
            stack_on: stack_on.map(|dir| dir.to_string_lossy().into_owned()),
            ..Manifest::default()
        })
    }

    fn write_card(&self, config: String, task_type: Option<String>, holds_head: bool) -> Result<(), TrainError> {
        let (recipe, summary) = (&self.run.recipe, self.summary);
        let (task, train) = (&recipe.head.kind, &recipe.train);
        let metric = &summary.metric;
        let scores = [("test", summary.test_score()), ("validation", summary.validation_score)];
        let mut figures: Vec<(String, String)> = scores
            .into_iter()
            .filter_map(|(part, score)| Some((format!("{part} {metric}"), format!("{:.4}", score?))))
            .collect();
        let parameters = format!("{} of {}", summary.trainable_params, summary.total_params);
        let rows = summary.batch_size * train.accumulate;
        let of_run = [
            ("trained parameters", parameters),
            ("steps", summary.steps.to_string()),
            ("epochs", train.epochs.to_string()),
            ("batch size", rows.to_string()),
            ("learning rate", train.learning_rate.to_string()),
            ("seed", train.seed.to_string()),
        ];
        figures.extend(of_run.map(|(name, value)| (name.to_owned(), value)));
        let head = self.model.head.as_ref();
        let card = ModelCard {
            name: recipe.adapter.name.clone(),
            format: self.format,
            base: base_name(&recipe.model.path),
            architecture: self.model.adapted.base().architecture().to_owned(),
            config,
            task_type,
            pipeline: task.pipeline.map(str::to_owned),
            labels: head.map_or_else(Vec::new, |head| head.config().labels.clone()),
            with_head: head.is_some() && holds_head,
            command: task.usage.command("path/to/this/folder", "TEXT"),
            figures,
        };
        Ok(card.write(self.dir)?)
    }
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
