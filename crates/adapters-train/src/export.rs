//! Export of a finished run: the adapter or the fusion, its head, its manifest and its model card.

use std::path::{Path, PathBuf};

use adapters_core::{Format, Host};
use adapters_models::{Head, copy_tokenizer};
use adapters_store::{Manifest, ModelCard, Setup, atomic, base_name, expressible, name_base, save_adapter};

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
    /// Writes the adapter, its head and its manifest; whether the format holds the head, if there is one.
    fn save(&self) -> Result<bool, TrainError> {
        let name = &self.run.recipe.adapter.name;
        let (set, base) = (&self.model.adapted.set, self.model.adapted.base());
        save_adapter(self.dir, self.format, set, name, base)?;
        self.run.pretrained()?.save_token_tables(self.dir)?;
        let config = set.attached(name)?.method().to_string();
        let holds_head = self.save_head(&config)?;
        // A head in PEFT's files has decided it.
        let has_own = self.model.head.is_some() && holds_head;
        let task_type = base.kind().peft_task_type().filter(|_| !has_own);
        let task_type = name_base(self.dir, self.format, &self.base(), base.class_name(), task_type)?;
        self.write_card(config, task_type, holds_head)?;
        Ok(holds_head)
    }

    /// Writes the whole composition, its head and its manifest.
    fn save_setup(&self) -> Result<bool, TrainError> {
        let set = &self.model.adapted.set;
        if let Some(active) = set.active() {
            Setup::new(active.composition().clone()).save(self.dir, set, self.model.adapted.base())?;
        }
        let config = set.fusion(&self.run.recipe.adapter.name)?.method().to_string();
        self.save_head(&config)
    }

    /// The base as other programs find it.
    fn base(&self) -> String {
        base_name(&self.run.recipe.model.path)
    }

    /// Writes the head in the format of the folder if that has such a head, which is the answer, else in the manifest's; and the
    /// manifest.
    fn save_head(&self, config: &str) -> Result<bool, TrainError> {
        let Self { run, model, dir, .. } = self;
        let (recipe, base) = (&run.recipe, model.adapted.base());
        let head = match &model.head {
            Some(head) => head.save_in(dir, self.format, &recipe.adapter.name, base)?,
            None => None,
        };
        let holds_head = head.is_none();
        // What PEFT's files do not say of a head that they hold.
        let in_peft = model.head.as_ref().map(Head::config);
        let in_peft = in_peft.filter(|_| holds_head && self.format == Format::Peft);
        let pretrained = run.pretrained()?;
        let manifest = Manifest {
            name: recipe.adapter.name.clone(),
            config: config.to_owned(),
            base_architecture: base.architecture().to_owned(),
            base_model: recipe.model.path.clone(),
            base_fingerprint: Some(pretrained.fingerprint(recipe.output.whole_fingerprint)?),
            max_length: Some(recipe.model.max_length),
            precision: recipe.model.precision,
            chat: recipe.head.kind.is_generative && chat_template(recipe.data.template, &pretrained)?.is_some(),
            stack_on: recipe
                .adapter
                .stack_on
                .as_ref()
                .map(|dir| dir.to_string_lossy().into_owned()),
            labels: in_peft.map_or_else(Vec::new, |head| head.labels.clone()),
            several_labels: in_peft.is_some_and(|head| head.has_several_labels()),
            head,
            written_by: concat!("adapters ", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Manifest::default()
        };
        manifest.write(dir)?;
        if let Some(from) = &recipe.adapter.from {
            copy_tokenizer(from, dir)?;
        }
        Ok(holds_head)
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
            base: self.base(),
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
