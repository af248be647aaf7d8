//! From names on the command line to a model, an adapter and a head.

use std::path::{Path, PathBuf};

use adapters::core::Format;
use adapters::models::heads::HeadKind;
use adapters::models::{Head, Model, ModelKind, Pretrained, TextTokenizer};
use adapters::store::{LoadOptions, LoadReport, Manifest, Setup};
use adapters::train::{
    Evaluation, Fields, Labels, OpenTask, Records, TaskContext, TaskData, TaskKind, TaskModel, TaskOptions,
    tokenizer_of,
};
use adapters::{Adapted, AdapterFiles, AttachReport, Composition, Host, METHODS, parse_device};
use burn::module::Module;
use burn::tensor::Device;

use crate::failure::Failure;
use crate::folders;
use crate::options::{DeviceArgs, ModelArgs, PoolingArg, PrecisionArg};

/// Sets the number of threads and finds the device.
pub fn device(args: &DeviceArgs) -> Result<Device, Failure> {
    if let Some(threads) = args.threads {
        let failed =
            |e: &dyn std::fmt::Display| Failure::new(format!("cannot use {threads} threads: {e}"), "use fewer threads");
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|e| failed(&e))?;
    }
    Ok(parse_device(&args.device)?)
}

/// The manifest of an adapter folder, empty if there is none.
pub fn manifest(adapter: &Path) -> Result<Manifest, Failure> {
    Ok(Manifest::read(adapter)?.unwrap_or_default())
}

/// Refuses a command that names neither a model nor an adapter, which would name one.
pub fn check_named(model: Option<&Path>, adapter: Option<&Path>) -> Result<(), Failure> {
    match (model, adapter) {
        (None, None) => Err(Failure::new(
            "no model is named",
            "name a model with --model, or an adapter, which knows its base model, with --adapter",
        )),
        _ => Ok(()),
    }
}

/// The folder of the base: as given, else as the manifest says.
pub fn base_dir(given: Option<&Path>, manifest: &Manifest) -> Result<PathBuf, Failure> {
    match given {
        Some(path) => folders::model(&path.to_string_lossy()),
        None if manifest.base_model.is_empty() => Err(Failure::new(
            "no base model: the adapter folder does not name the model it was trained on",
            "name the folder of the base model with --model",
        )),
        None => folders::base_model(&manifest.base_model),
    }
}

/// A base with an active adapter, and below it the one it was trained on top of; or with a whole saved setup.
pub fn adapted<M: Host + Module + Sync>(
    base: M,
    adapter: &Path,
    allow_bin: bool,
    device: &Device,
) -> Result<(Adapted<M>, LoadReport), Failure> {
    let mut adapted = Adapted::new(base);
    let options = LoadOptions {
        allow_bin,
        ..LoadOptions::default()
    };
    if adapter.join(Setup::FILE).exists() {
        let (base, set) = adapted.parts_mut();
        let setup = Setup::load(adapter, set, base, &METHODS, &options, device)?;
        adapted.activate(setup.composition.clone())?;
        let all = || adapted.set.iter().chain(adapted.set.fusions());
        let report = LoadReport {
            format: Format::AdapterHub,
            weights: adapter.join(Setup::FILE),
            attached: AttachReport {
                adapter: setup.composition.to_string(),
                adapted: all().flat_map(|a| a.layers().map(|l| l.info.path.clone())).collect(),
                skipped: Vec::new(),
                unmatched: Vec::new(),
                num_params: all().map(adapters::core::Attached::num_params).sum(),
            },
        };
        return Ok((adapted, report));
    }
    let mut load = |dir: &Path| adapted.load_with(dir, &METHODS, &options);
    let report = load(adapter)?;
    let name = report.attached.adapter.as_str();
    let active = match manifest(adapter)?.stack_on {
        Some(below) => Composition::stack([load(Path::new(&below))?.attached.adapter.as_str(), name]),
        None => Composition::adapter(name),
    };
    adapted.activate(active)?;
    Ok((adapted, report))
}

/// Everything `eval` and `predict` need.
pub struct Loaded {
    /// The model with its head, on a plain device.
    pub model: TaskModel,
    /// The task of the head.
    pub task: &'static TaskKind,
    /// What was loaded.
    pub report: LoadReport,
    options: TaskOptions,
    pretrained: Pretrained,
    tokenizer: Option<TextTokenizer>,
    device: Device,
}

impl Loaded {
    /// Names of the fields of data files.
    pub fn fields(&mut self) -> &mut Fields {
        &mut self.options.fields
    }

    /// Encodes records. Where `labeled` is false, targets may be absent.
    pub fn examples(&self, records: &Records, labeled: bool) -> Result<Box<dyn TaskData>, Failure> {
        let cx = TaskContext {
            options: &self.options,
            pretrained: &self.pretrained,
            model: self.model.adapted.base(),
            tokenizer: self.tokenizer.as_ref(),
        };
        let task: Box<dyn OpenTask> = self.task.open(&cx)?;
        Ok(task.examples(records, labeled, &cx)?)
    }

    /// Scores examples.
    pub fn evaluate(&self, data: &dyn TaskData, batch: usize) -> Result<Evaluation, Failure> {
        Ok(data.evaluate(&self.model, batch, &self.device)?)
    }
}

/// Loads what the arguments name.
pub fn model(args: &ModelArgs) -> Result<Loaded, Failure> {
    let device = device(&args.device)?;
    let folder = folders::adapter(&args.adapter)?;
    let manifest = manifest(&folder)?;
    let dir = base_dir(args.model.as_deref(), &manifest)?;
    let precision = args.precision.map_or(manifest.precision, PrecisionArg::precision);
    let pretrained = Pretrained::open(&dir)?.with_precision(precision);
    let (adapted, report) = adapted(pretrained.model(&device)?, &folder, args.allow_bin, &device)?;
    let longest = adapted.base().max_length().saturating_sub(adapted.set.positions());
    let max_length = args.max_length.or(manifest.max_length).unwrap_or(128.min(longest));
    let reads_text = pretrained.kind() != ModelKind::ImageEncoder;
    if reads_text && (max_length == 0 || max_length > longest) {
        return Err(Failure::new(
            format!("--max-length is {max_length}, expected 1 to {longest}"),
            "the model has no more positions than that; the adapter may take some of them",
        ));
    }
    let head = head(args, &folder, &manifest, &dir, adapted.base(), &device)?;
    let config = head.config();
    let Some(task) = TaskKind::of_head(config, pretrained.kind()) else {
        return Err(Failure::new(
            format!(
                "no task uses a head of type `{}` on a `{}` model",
                config.kind.name(),
                pretrained.model_type()
            ),
            "this command supports the heads of the tasks in `adapters train --help`",
        ));
    };
    let options = TaskOptions {
        labels: match config.kind {
            HeadKind::MultipleChoice { choices, .. } => Labels::Count(choices),
            _ => Labels::Names(config.labels.clone()),
        },
        fields: Fields::default(),
        pooling: Some(config.kind.pooling().unwrap_or_default()),
        head_dropout: 0.0,
        mask_probability: 0.0,
        class_weights: None,
        max_length,
        template: None,
        pack: false,
    };
    Ok(Loaded {
        model: TaskModel {
            adapted,
            head: Some(head),
        },
        task,
        report,
        options,
        tokenizer: tokenizer_of(&pretrained, max_length)?,
        pretrained,
        device,
    })
}

/// The head that the arguments name, or else the manifest, or else the adapter folder in its own format.
fn head(
    args: &ModelArgs,
    adapter: &Path,
    manifest: &Manifest,
    checkpoint: &Path,
    base: &Model,
    device: &Device,
) -> Result<Head, Failure> {
    if let Some(path) = &args.head {
        let pooling = args.pooling.unwrap_or(PoolingArg::Mean).pooling();
        return Ok(Head::load_linear(path, pooling, base, device)?);
    }
    let mut manifest = manifest.clone();
    if let (Some(head), Some(pooling)) = (&mut manifest.head, args.pooling) {
        head.config.insert("pooling".to_owned(), pooling.name().into());
    }
    match Head::find(adapter, &manifest, checkpoint, args.allow_bin, base, device)? {
        Some(head) => Ok(head),
        None => Err(Failure::new(
            format!(
                "the adapter folder {} has no head, so there is nothing to predict with",
                adapter.display()
            ),
            "name a file with the tensors `weight` and `bias` with --head; for a language model, use `adapters generate`",
        )),
    }
}
