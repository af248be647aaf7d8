//! From names on the command line to a model, an adapter and a head.

use std::path::{Path, PathBuf};

use adapters::core::Format;
use adapters::models::heads::HeadKind;
use adapters::models::{ClassificationHead, Encoder, Head, Pretrained, SequenceClassifier, TextTokenizer};
use adapters::store::{LoadOptions, LoadReport, Manifest, Pooling, Setup, load_adapter};
use adapters::train::{EncodedData, Evaluation, LabelKind, Labels, evaluate, evaluate_head};
use adapters::{Adapted, AttachReport, Composition, Host, METHODS, parse_device};
use burn::module::Module;
use burn::tensor::Device;

use crate::args::{DeviceArgs, ModelArgs, PoolingArg};
use crate::failure::Failure;

/// Sets the number of threads and finds the device.
pub fn device(args: &DeviceArgs) -> Result<Device, Failure> {
    if let Some(threads) = args.threads {
        let failed =
            |e: &dyn std::fmt::Display| Failure::new(format!("cannot use {threads} threads: {e}"), "try fewer");
        if threads == 0 {
            return Err(failed(&"expected at least 1"));
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|e| failed(&e))?;
    }
    Ok(parse_device(&args.device)?)
}

/// The folder of a model: itself, or what the Hub has under that id.
pub fn model_dir(name: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(name);
    if path.is_dir() {
        return Ok(path);
    }
    hub(name)
}

#[cfg(feature = "hub")]
fn hub(name: &str) -> Result<PathBuf, Failure> {
    Ok(adapters::models::download(name)?)
}

#[cfg(not(feature = "hub"))]
fn hub(name: &str) -> Result<PathBuf, Failure> {
    Err(Failure::new(
        format!("there is no model folder {name}"),
        "name a folder with config.json and model.safetensors; Hub ids work in a build with `--features hub`",
    ))
}

/// The manifest of an adapter folder, empty if there is none.
pub fn manifest(adapter: &Path) -> Result<Manifest, Failure> {
    Ok(Manifest::read(adapter)?.unwrap_or_default())
}

/// The folder of the base: as given, else as the manifest says.
pub fn base_dir(given: Option<&Path>, manifest: &Manifest) -> Result<PathBuf, Failure> {
    match given {
        Some(path) => model_dir(&path.to_string_lossy()),
        None if manifest.base_model.is_empty() => Err(Failure::new(
            "no base model: the adapter folder has no manifest that names one",
            "name its checkpoint folder with --model",
        )),
        None => model_dir(&manifest.base_model),
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
        let Adapted { base, set } = &mut adapted;
        let setup = Setup::load(adapter, set, &**base, &METHODS, &options, device)?;
        set.activate(setup.composition.clone())?;
        let all = || set.iter().chain(set.fusions());
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
    let mut load = |dir: &Path| load_adapter(dir, &mut adapted.set, &*adapted.base, &METHODS, &options, device);
    let report = load(adapter)?;
    let name = report.attached.adapter.as_str();
    let active = match manifest(adapter)?.stack_on {
        Some(below) => Composition::stack([load(Path::new(&below))?.attached.adapter.as_str(), name]),
        None => Composition::adapter(name),
    };
    adapted.set.activate(active)?;
    Ok((adapted, report))
}

/// Everything `eval` and `predict` need.
pub struct Loaded {
    /// The model, on a plain device.
    pub model: Model,
    /// The tokenizer of the base.
    pub tokenizer: TextTokenizer,
    /// The classes.
    pub labels: Labels,
    /// How a file of examples gives its labels.
    pub label_kind: LabelKind,
    /// What was loaded.
    pub report: LoadReport,
    /// Where it is.
    pub device: Device,
}

/// A base with its adapter, and the head.
#[allow(clippy::large_enum_variant)] // One a command.
pub enum Model {
    /// With a classification head of this library's own file.
    Classifier(SequenceClassifier),
    /// With a head in the reference's files.
    Flexible {
        /// Base and adapter.
        adapted: Adapted<Encoder>,
        /// The head.
        head: Head,
    },
}

impl Model {
    /// The base.
    pub fn base(&self) -> &Encoder {
        match self {
            Self::Classifier(model) => &model.adapted.base,
            Self::Flexible { adapted, .. } => &adapted.base,
        }
    }

    /// Numbers it says of a text.
    pub fn outputs(&self) -> usize {
        match self {
            Self::Classifier(model) => model.head.classes(),
            Self::Flexible { head, .. } => head.config().labels.len(),
        }
    }

    /// Scores it.
    pub fn evaluate(&self, data: &EncodedData, batch: usize, device: &Device) -> Result<Evaluation, Failure> {
        Ok(match self {
            Self::Classifier(model) => evaluate(model, data, batch, device)?,
            Self::Flexible { adapted, head } => evaluate_head(&adapted.base, &adapted.set, head, data, batch, device)?,
        })
    }
}

/// Loads what the arguments name.
pub fn model(args: &ModelArgs) -> Result<Loaded, Failure> {
    let device = device(&args.device)?;
    let manifest = manifest(&args.adapter)?;
    let dir = base_dir(args.model.as_deref(), &manifest)?;
    let quantization = match args.quantize {
        Some(given) => given.quantization(),
        None => manifest.quantize,
    };
    let base = Pretrained::open(&dir)?
        .with_quantization(quantization)
        .encoder(&device)?;
    let (adapted, report) = adapted(base, &args.adapter, args.allow_bin, &device)?;
    let taken = adapted.set.iter().map(|adapter| adapter.method().positions()).max();
    let longest = adapted.base.max_length().saturating_sub(taken.unwrap_or(0));
    let max_length = args.max_length.or(manifest.max_length).unwrap_or(128.min(longest));
    if max_length == 0 || max_length > longest {
        return Err(Failure::new(
            format!("--max-length is {max_length}, expected 1 to {longest}"),
            "the model has no positions beyond that, less those an adapter takes",
        ));
    }
    let tokenizer = Pretrained::open(&dir)?.tokenizer(max_length)?;
    let (model, labels, label_kind) = with_head(args, manifest, adapted, &device)?;
    Ok(Loaded {
        model,
        tokenizer,
        labels,
        label_kind,
        report,
        device,
    })
}

/// The head that the arguments, the manifest or the adapter folder name.
fn with_head(
    args: &ModelArgs,
    manifest: Manifest,
    adapted: Adapted<Encoder>,
    device: &Device,
) -> Result<(Model, Labels, LabelKind), Failure> {
    let head_file = match (&args.head, &manifest.head) {
        (Some(path), _) => path.clone(),
        (None, Some(head)) => args.adapter.join(&head.file),
        (None, None) if Head::is_in(&args.adapter) => {
            let (_, head) = Head::load(&args.adapter, &*adapted.base, args.allow_bin, device)?;
            let kind = match head.config().kind {
                HeadKind::Classification { .. } if head.config().is_regression() => LabelKind::Number,
                HeadKind::Classification { .. } => LabelKind::Class,
                HeadKind::MultiLabel { .. } => LabelKind::Several,
                other => {
                    return Err(Failure::new(
                        format!("the head beside the adapter is of type {}", other.name()),
                        "this command scores heads that say something of a whole text; use the library for others",
                    ));
                }
            };
            let labels = Labels::Names(head.config().labels.clone());
            return Ok((Model::Flexible { adapted, head }, labels, kind));
        }
        (None, None) => {
            return Err(Failure::new(
                format!("no head: {} has no manifest that names one", args.adapter.display()),
                "name a file with tensors `weight` and `bias` with --head",
            ));
        }
    };
    let pooling = match args.pooling {
        Some(PoolingArg::Mean) => Pooling::Mean,
        Some(PoolingArg::First) => Pooling::First,
        None => manifest.head.as_ref().map_or(Pooling::Mean, |head| head.pooling),
    };
    let d_model = adapters::Host::d_model(&*adapted.base);
    let head = ClassificationHead::load(&head_file, d_model, pooling, device)?;
    let labels = match manifest.head {
        Some(head_manifest) if head_manifest.labels.len() == head.classes() => Labels::Names(head_manifest.labels),
        _ => Labels::Count(head.classes()),
    };
    let model = Model::Classifier(SequenceClassifier { adapted, head });
    Ok((model, labels, LabelKind::Class))
}
