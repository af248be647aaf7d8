//! From names on the command line to a model, an adapter and a head.

use std::path::{Path, PathBuf};

use adapters::core::Format;
use adapters::models::heads::HeadKind;
use adapters::models::{ChatTime, Head, Model, ModelKind, Pretrained, TextTokenizer};
use adapters::store::{BaseMatch, LoadOptions, LoadReport, Manifest, Setup, layer_replication, read_json_if_there};
use adapters::train::{
    Evaluation, Fields, Labels, OpenTask, Records, TaskContext, TaskData, TaskKind, TaskModel, TaskOptions, Template,
    tokenizer_of,
};
use adapters::{Adapted, AdapterFiles, AttachReport, Composition, METHODS, device_caution, parse_device};
use burn::tensor::Device;

use crate::failure::Failure;
use crate::folders;
use crate::options::{AcceptArgs, DeviceArgs, MOST_THREADS, ModelArgs, PoolingArg, PrecisionArg, WriterArgs};

/// Sets up the threads that compute and finds the device.
pub(crate) fn device(args: &DeviceArgs) -> Result<Device, Failure> {
    let threads = args.threads.or_else(named_threads).unwrap_or_else(available_threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    // This thread computes too, so that it need not sleep and be woken for every operation. Alone in the pool it would not
    // take up what other threads ask of it.
    let pool = if threads > 1 { pool.use_current_thread() } else { pool };
    pool.build_global()
        .map_err(|e| Failure::new(format!("cannot use {threads} threads: {e}"), "use fewer threads"))?;
    let device = parse_device(&args.device)?;
    if let Some(caution) = device_caution(&args.device) {
        note!("warning: {caution}");
    }
    Ok(device)
}

/// The number of threads that the environment names for the pool.
fn named_threads() -> Option<usize> {
    let named = std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok()?;
    (1..=MOST_THREADS).contains(&named).then_some(named)
}

/// One for each processor.
fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The manifest of an adapter folder, empty if there is none.
pub(crate) fn manifest(adapter: &Path) -> Result<Manifest, Failure> {
    Ok(Manifest::read(adapter)?.unwrap_or_default())
}

/// What a manifest calls its base; its folder where it does not say.
pub(crate) fn named_base(manifest: &Manifest, dir: &Path) -> String {
    match manifest.base_model.as_str() {
        "" => dir.to_string_lossy().into_owned(),
        named => named.to_owned(),
    }
}

/// The folder of the base: as given, else as the manifest of `adapter` says. Another base than the one the adapter was trained on is
/// refused, unless `accept.any_base`.
pub(crate) fn base_dir(
    given: Option<&Path>,
    manifest: &Manifest,
    adapter: &Path,
    accept: AcceptArgs,
) -> Result<PathBuf, Failure> {
    let dir = match given {
        Some(path) => folders::model(&path.to_string_lossy()),
        None if manifest.base_model.is_empty() => Err(Failure::new(
            "no base model: the adapter folder does not name the model it was trained on",
            "name the folder of the base model with --model",
        )),
        None => folders::base_model(&manifest.base_model),
    }?;
    check_base(&dir, manifest, adapter, accept)?;
    Ok(dir)
}

/// Refuses a base whose tensors are not those that the manifest of `adapter` has a fingerprint of, unless
/// `accept.any_base`.
pub(crate) fn check_base(dir: &Path, manifest: &Manifest, adapter: &Path, accept: AcceptArgs) -> Result<(), Failure> {
    let Some(expected) = manifest.base_fingerprint.as_ref().filter(|_| !accept.any_base) else {
        return Ok(());
    };
    let found = pretrained(dir, None, accept)?.fingerprint(expected.whole)?;
    let (base, dir, adapter) = (&manifest.base_model, dir.display(), adapter.display());
    let what = match expected.compare(&found) {
        BaseMatch::Same => return Ok(()),
        BaseMatch::OtherTypes => {
            note!(
                "the adapter {adapter} was trained on {base} in {}, and {dir} is in {}: whether the weights are the same is not known",
                expected.types,
                found.types
            );
            return Ok(());
        }
        BaseMatch::OtherShapes => "other tensors",
        BaseMatch::OtherValues => "tensors of the same shapes with other values",
    };
    Err(Failure::new(
        format!("the adapter {adapter} was trained on {base}, and {dir} has {what}"),
        "name the base it was trained on with --model, or accept this one with --any-base",
    ))
}

/// The base in a folder, as the adapter in another was trained with it.
pub(crate) fn pretrained(dir: &Path, adapter: Option<&Path>, accept: AcceptArgs) -> Result<Pretrained, Failure> {
    let base = Pretrained::open(dir)?.with_bin(accept.allow_bin);
    let Some(adapter) = adapter else { return Ok(base) };
    let base = base.for_adapter(adapter)?;
    if let Some([tokens, with_adapter]) = base.resized() {
        note!("the adapter has {with_adapter} tokens and its base {tokens}: the token tables are resized");
    }
    Ok(base)
}

/// Refuses to write the adapter of a folder, over other tokens than its base, in a format that has no place for their tables.
pub(crate) fn check_holds_tokens(base: &Pretrained, format: Format, adapter: &Path) -> Result<(), Failure> {
    match (base.resized(), format) {
        (Some([tokens, with_adapter]), Format::AdapterHub) => Err(Failure::new(
            format!(
                "{} has {with_adapter} tokens and its base {tokens}: the {format} format cannot store the embeddings of the added tokens",
                adapter.display()
            ),
            "keep PEFT's format, or write a base with these tokens by `adapters merge`",
        )),
        _ => Ok(()),
    }
}

/// A base with an active adapter, and below it the one it was trained on top of; or with a whole saved setup.
///
/// What an adapter of peft needs besides its own files is there, too: the layers of a base that uses some of them several times
/// (`layer_replication`), and the adapters that X-LoRA weighs.
pub(crate) fn adapted(
    base: Model,
    adapter: &Path,
    allow_bin: bool,
    device: &Device,
) -> Result<(Adapted<Model>, LoadReport), Failure> {
    let needs = Needs::read(adapter)?;
    let mut adapted = Adapted::new(match needs.layer_replication.as_slice() {
        [] => base,
        ranges => base.with_layer_replication(ranges)?,
    });
    let options = LoadOptions {
        allow_bin,
        ..LoadOptions::default()
    };
    if adapter.join(Setup::FILE).exists() {
        let (base, set) = adapted.base_and_set_mut();
        let setup = Setup::load(adapter, set, base, &METHODS, allow_bin, device)?;
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
    for (name, folder) in &needs.experts {
        let options = LoadOptions {
            name: Some(name.clone()),
            ..options.clone()
        };
        adapted.load_with(folder, &METHODS, &options)?;
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

/// What the adapter of a folder needs besides its own files.
#[derive(Default)]
struct Needs {
    layer_replication: Vec<[usize; 2]>,
    /// Names and folders.
    experts: Vec<(String, PathBuf)>,
}

impl Needs {
    fn read(adapter: &Path) -> Result<Self, Failure> {
        let path = adapter.join("adapter_config.json");
        let Some(config) = read_json_if_there::<serde_json::Value>(&path)? else {
            return Ok(Self::default());
        };
        let experts = match (config["peft_type"].as_str(), config["adapters"].as_object()) {
            (Some("XLORA"), Some(experts)) => experts.clone(),
            _ => serde_json::Map::new(),
        };
        // A folder is named as it was when the adapter was trained, or next to that of the router.
        let found = |(name, folder): (String, serde_json::Value)| {
            let folder = PathBuf::from(folder.as_str().unwrap_or_default());
            let beside = adapter.join(&folder);
            (name, if beside.exists() { beside } else { folder })
        };
        Ok(Self {
            layer_replication: layer_replication(adapter)?.unwrap_or_default(),
            experts: experts.into_iter().map(found).collect(),
        })
    }
}

/// What `generate` and `chat` write with: a base model and, where one is named, an adapter.
pub(crate) struct Writer {
    /// Folder of the base.
    pub(crate) dir: PathBuf,
    /// The base.
    pub(crate) pretrained: Pretrained,
    /// What the folder of the adapter says; nothing without one.
    pub(crate) manifest: Manifest,
    adapter: Option<PathBuf>,
    allow_bin: bool,
}

impl Writer {
    /// Finds what the arguments name, without loading the weights.
    pub(crate) fn open(args: &WriterArgs) -> Result<Self, Failure> {
        if (&args.model, &args.adapter) == (&None, &None) {
            return Err(Failure::new(
                "no model is named",
                "name a model with --model, or an adapter, which knows its base model, with --adapter",
            ));
        }
        let adapter = args.adapter.as_deref().map(folders::adapter).transpose()?;
        let manifest = adapter.as_deref().map(manifest).transpose()?.unwrap_or_default();
        let folder = adapter.as_deref().unwrap_or(Path::new(""));
        let dir = base_dir(args.model.as_deref(), &manifest, folder, args.accept)?;
        let precision = args.precision.map_or(manifest.precision, PrecisionArg::precision);
        Ok(Self {
            pretrained: pretrained(&dir, adapter.as_deref(), args.accept)?.with_precision(precision),
            dir,
            manifest,
            adapter,
            allow_bin: args.accept.allow_bin,
        })
    }

    /// Loads the base and activates the adapter.
    pub(crate) fn load(&self, device: &Device) -> Result<Adapted<Model>, Failure> {
        let model = self.pretrained.model(device)?;
        match &self.adapter {
            Some(adapter) => Ok(adapted(model, adapter, self.allow_bin, device)?.0),
            None => Ok(Adapted::new(model)),
        }
    }
}

/// Everything `eval` and `predict` need.
pub(crate) struct Loaded {
    /// The model with its head, on a plain device.
    pub(crate) model: TaskModel,
    /// The task of the head.
    pub(crate) task: &'static TaskKind,
    /// What was loaded.
    pub(crate) report: LoadReport,
    options: TaskOptions,
    pretrained: Pretrained,
    tokenizer: Option<TextTokenizer>,
    device: Device,
}

impl Loaded {
    /// Names of the fields of data files.
    pub(crate) fn fields(&mut self) -> &mut Fields {
        &mut self.options.fields
    }

    /// Whether an evaluation of a language model writes answers, for ROUGE-L and exact match.
    pub(crate) fn write_answers(&mut self, write: bool) {
        self.options.answers = write;
    }

    /// Encodes records, and says how many texts were cut off. Where `labeled` is false, targets may be absent.
    pub(crate) fn examples(&self, records: &Records, labeled: bool) -> Result<Box<dyn TaskData>, Failure> {
        let cx = TaskContext {
            options: &self.options,
            pretrained: &self.pretrained,
            model: self.model.adapted.base(),
            tokenizer: self.tokenizer.as_ref(),
        };
        let task: Box<dyn OpenTask> = self.task.open(&cx)?;
        let data = task.examples(records, labeled, &cx)?;
        if data.truncated() > 0 {
            note!(
                "{} of {} inputs have texts longer than {} tokens, which were cut off; --max-length sets the longest",
                data.truncated(),
                records.records.len(),
                self.options.max_length
            );
        }
        Ok(data)
    }

    /// Scores examples.
    pub(crate) fn evaluate(&self, data: &dyn TaskData, batch: usize) -> Result<Evaluation, Failure> {
        let evaluation = data.evaluate(&self.model, batch, &self.device)?;
        evaluation.check_finite()?;
        Ok(evaluation)
    }
}

/// Loads what the arguments name.
pub(crate) fn model(args: &ModelArgs) -> Result<Loaded, Failure> {
    let device = device(&args.device)?;
    let folder = folders::adapter(&args.adapter)?;
    let manifest = manifest(&folder)?;
    let dir = base_dir(args.model.as_deref(), &manifest, &folder, args.accept)?;
    let precision = args.precision.map_or(manifest.precision, PrecisionArg::precision);
    let pretrained = pretrained(&dir, Some(&folder), args.accept)?.with_precision(precision);
    let (adapted, report) = adapted(pretrained.model(&device)?, &folder, args.accept.allow_bin, &device)?;
    let longest = adapted.base().max_length();
    let longest = longest.map(|longest| longest.saturating_sub(adapted.set.positions()));
    let max_length = args.max_length.or(manifest.max_length);
    let max_length = max_length.unwrap_or_else(|| longest.unwrap_or(128).min(128));
    let reads_text = pretrained.kind() != ModelKind::ImageEncoder;
    if reads_text && (max_length == 0 || longest.is_some_and(|longest| max_length > longest)) {
        let expected = longest.map_or_else(|| "at least 1".to_owned(), |longest| format!("1 to {longest}"));
        let named = match args.max_length {
            Some(_) => "--max-length".to_owned(),
            None => format!("{}: `max_length`", folder.join(Manifest::FILE).display()),
        };
        return Err(Failure::new(
            format!("{named} is {max_length}, expected {expected}"),
            "the model has no more positions than that; the adapter may take some of them",
        ));
    }
    let head = head(args, &folder, &manifest, &dir, adapted.base(), &device)?;
    let task = match &head {
        Some(head) => TaskKind::of_head(head.config(), pretrained.kind()),
        // The model's own head serves.
        None => TaskKind::of_writer(pretrained.kind()),
    };
    let Some(task) = task else {
        let Some(head) = &head else {
            return Err(no_head(&folder));
        };
        return Err(Failure::new(
            format!(
                "no task uses a head of type `{}` on a `{}` model",
                head.config().kind.name(),
                pretrained.model_type()
            ),
            "this command supports the heads of the tasks in `adapters train --help`",
        ));
    };
    let config = head.as_ref().map(Head::config);
    let options = TaskOptions {
        labels: match config {
            Some(config) => match config.kind {
                HeadKind::MultipleChoice { choices, .. } => Labels::Count(choices),
                _ => Labels::Names(config.labels.clone()),
            },
            None => Labels::Count(0),
        },
        fields: Fields::default(),
        pooling: config.map(|config| config.kind.pooling().unwrap_or_default()),
        head_dropout: 0.0,
        mask_probability: MASKED,
        class_weights: None,
        max_length,
        template: (!manifest.chat).then_some(Template::Plain),
        answers: false,
        time: ChatTime::now(),
        pack: false,
    };
    Ok(Loaded {
        model: TaskModel { adapted, head },
        task,
        report,
        options,
        tokenizer: tokenizer_of(&pretrained, max_length)?,
        pretrained,
        device,
    })
}

/// Fraction of the tokens that are hidden in the evaluation of a masked language model, the default of recipes.
const MASKED: f64 = 0.15;

/// An adapter without a head, for a command that needs one.
pub(crate) fn no_head(adapter: &Path) -> Failure {
    Failure::new(
        format!(
            "the adapter folder {} has no head, so there is nothing to predict with",
            adapter.display()
        ),
        "name a file with the tensors `weight` and `bias` with --head; for a language model, use `adapters generate`",
    )
}

/// The head that the arguments name, or else the manifest, or else the adapter folder in its own format, if there is one.
fn head(
    args: &ModelArgs,
    adapter: &Path,
    manifest: &Manifest,
    checkpoint: &Path,
    base: &Model,
    device: &Device,
) -> Result<Option<Head>, Failure> {
    if let Some(path) = &args.head {
        let pooling = args.pooling.unwrap_or(PoolingArg::Mean).pooling();
        return Ok(Some(Head::load_linear(path, pooling, base, device)?));
    }
    let mut manifest = manifest.clone();
    if let (Some(head), Some(pooling)) = (&mut manifest.head, args.pooling) {
        head.config.insert("pooling".to_owned(), pooling.name().into());
    }
    Ok(Head::find(
        adapter,
        &manifest,
        checkpoint,
        args.accept.allow_bin,
        base,
        device,
    )?)
}
