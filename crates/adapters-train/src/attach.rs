//! What a run trains: a new adapter, on top of another or alone, or a fusion of adapters.

use std::path::Path;

use adapters_adapted::{Adapted, AttachOptions};
use adapters_core::{AttachReport, Attached, Causality, Composition, Ctx, SiteKind};
use adapters_models::heads::HeadConfig;
use adapters_models::{Head, Model, ModelKind, Pretrained, TextTokenizer};
use adapters_store::{BaseMatch, LoadOptions, Manifest, expressible, load_adapter};

use crate::error::TrainError;
use crate::inputs::{Batch, hidden_states};
use crate::recipe::Recipe;
use crate::run::Run;
use crate::task_model::TaskModel;
use crate::tasks::TaskData;

/// What was attached.
pub(crate) struct Trained {
    /// In words.
    pub(crate) report: String,
    /// Adapters that act and do not train.
    pub(crate) frozen: Vec<String>,
}

/// Refuses an adapter whose manifest names another base.
fn check_base(run: &Run, dir: &Path) -> Result<(), TrainError> {
    let manifest = Manifest::read(dir)?.unwrap_or_default();
    let Some(expected) = &manifest.base_fingerprint else {
        return Ok(());
    };
    let found = run.pretrained()?.fingerprint(expected.whole)?;
    match expected.compare(&found) {
        BaseMatch::Same | BaseMatch::OtherTypes => Ok(()),
        BaseMatch::OtherShapes | BaseMatch::OtherValues => Err(TrainError::Value {
            field: "model.path",
            expected: format!("`{}`, which {} was trained on", manifest.base_model, dir.display()),
            found: format!("`{}`, which has different weights", run.recipe.model.path),
        }),
    }
}

/// Refuses an adapter over other tokens than the model has.
fn check_tokens(run: &Run, dir: &Path, field: &'static str) -> Result<(), TrainError> {
    let count = |of: Pretrained| of.resized().map(|[_, tokens]| tokens);
    let (own, found) = (count(run.pretrained()?), count(run.base()?.for_adapter(dir)?));
    if own == found {
        return Ok(());
    }
    let in_words = |count: Option<usize>| match count {
        Some(tokens) => format!("{tokens} tokens"),
        None => "the tokens of the base".to_owned(),
    };
    Err(TrainError::Value {
        field,
        expected: format!(
            "an adapter over {}, as the adapters of a composition have one table of tokens: with `adapters merge` write a base with \
             the other tokens, and train all of its adapters on it",
            in_words(own)
        ),
        found: format!("{} over {}", dir.display(), in_words(found)),
    })
}

/// Refuses an adapter that was trained on top of another, without the other.
fn check_below(dir: &Path, stack_on: Option<&Path>) -> Result<(), TrainError> {
    let manifest = Manifest::read(dir)?.unwrap_or_default();
    match manifest.stack_on {
        Some(below) if stack_on.is_none() => Err(TrainError::Value {
            field: "adapter.stack_on",
            expected: format!("`{below}`, which {} was trained on top of", dir.display()),
            found: "none".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The head of a task: that of the adapter which is trained further, if it has one for the same outputs, else a new one.
pub(crate) fn head(run: &Run, config: HeadConfig, base: &Model) -> Result<Head, TrainError> {
    if let Some(dir) = &run.recipe.adapter.from {
        let manifest = Manifest::read(dir)?.unwrap_or_default();
        let stored = Head::find(dir, &manifest, &run.model_dir, false, base, &run.device)?;
        let same = |head: &Head| head.config().kind == config.kind && head.config().labels == config.labels;
        if let Some(head) = stored.filter(same) {
            return Ok(head);
        }
    }
    Ok(Head::new(config, base, run.recipe.train.seed, &run.device)?)
}

/// Attaches and activates what the recipe names. An adapter that no format can hold is refused before it is trained.
pub(crate) fn attach(
    run: &Run,
    adapted: &mut Adapted<Model>,
    head: Option<&Head>,
    tokenizer: Option<&TextTokenizer>,
    data: &dyn TaskData,
) -> Result<Trained, TrainError> {
    let section = &run.recipe.adapter;
    let mut frozen = Vec::new();
    let (report, trained) = match (section.fuse.as_slice(), &section.from) {
        ([], Some(dir)) => {
            check_below(dir, section.stack_on.as_deref())?;
            let report = load(run, dir, Some(section.name.clone()), adapted)?;
            (report, Composition::adapter(&section.name))
        }
        ([], None) => {
            let report = attach_new(run, adapted, head, tokenizer, data)?;
            (report, Composition::adapter(&section.name))
        }
        (folders, _) => {
            for dir in folders {
                frozen.push(load_below(run, dir, "adapter.fuse", adapted)?);
            }
            let names: Vec<&str> = frozen.iter().map(String::as_str).collect();
            let (seed, config) = (run.recipe.train.seed, section.fusion_config()?);
            let (base, set) = adapted.base_and_set_mut();
            let report = adapters_fusion::attach_named(set, &section.name, &names, config, base, seed, &run.device)?;
            (report, Composition::named_fuse(&section.name, names))
        }
    };
    if section.fuse.is_empty() {
        expressible(&adapted.set, &section.name, adapted.base())?;
    }
    let composition = match &section.stack_on {
        Some(dir) => {
            check_trains_above(adapted, &section.name)?;
            let below = load_below(run, dir, "adapter.stack_on", adapted)?;
            frozen.push(below.clone());
            Composition::stack([Composition::adapter(below), trained])
        }
        None => trained,
    };
    adapted.activate(composition)?;
    Ok(Trained {
        report: report.to_string(),
        frozen,
    })
}

/// Loads the adapter of a folder.
fn load(run: &Run, dir: &Path, name: Option<String>, adapted: &mut Adapted<Model>) -> Result<AttachReport, TrainError> {
    check_base(run, dir)?;
    let options = LoadOptions {
        name,
        ..LoadOptions::default()
    };
    let (base, set) = adapted.base_and_set_mut();
    Ok(load_adapter(dir, set, base, &run.registry, &options, &run.device)?.attached)
}

/// Loads an adapter that `field` names and that does not train; its name.
fn load_below(run: &Run, dir: &Path, field: &'static str, adapted: &mut Adapted<Model>) -> Result<String, TrainError> {
    check_tokens(run, dir, field)?;
    Ok(load(run, dir, Manifest::name_in(dir)?, adapted)?.adapter)
}

/// Attaches a new adapter, with initial values from the first examples where its method reads data.
fn attach_new(
    run: &Run,
    adapted: &mut Adapted<Model>,
    head: Option<&Head>,
    tokenizer: Option<&TextTokenizer>,
    data: &dyn TaskData,
) -> Result<AttachReport, TrainError> {
    let name = &run.recipe.adapter.name;
    let method = run.recipe.adapter.method(&run.registry)?;
    let encode = |text: &str| {
        let tokenizer = tokenizer.ok_or("a model of images or sounds has no tokenizer for it")?;
        let encoded = tokenizer.encode([(text, None)])?;
        Ok(encoded.into_iter().flat_map(|row| row.ids).collect())
    };
    let with_tokens = match method.capabilities().tokenizer {
        Some(text) => text.with_tokens(&encode)?,
        None => None,
    };
    let method = with_tokens.unwrap_or(method);
    let options = AttachOptions {
        seed: run.recipe.train.seed,
        device: Some(run.device.clone()),
    };
    let start = method.capabilities().from_inputs;
    let reads_gradients = start.map(|start| start.reads_gradients());
    let batches = match reads_gradients {
        Some(_) => first_batches(run, data, adapted.base())?,
        None => Vec::new(),
    };
    if reads_gradients != Some(true) {
        let inputs = batches.into_iter().map(|batch| batch.input);
        return Ok(adapted.attach_from_inputs(name, method, inputs, &options)?);
    }
    let loss = |adapted: &Adapted<Model>, batch: Batch| {
        let model = TaskModel {
            adapted: adapted.clone(),
            head: head.cloned(),
        };
        let mut cx = Ctx::new(&adapted.set);
        let hidden = hidden_states(adapted.base(), batch.input.clone(), &mut cx)?;
        data.loss(&model, hidden, &batch, &mut cx)
    };
    adapted.attach_from_gradients(name, method, batches, loss, &options)
}

/// Refuses to stack an adapter that acts where only the lowest of a stack does.
fn check_trains_above(adapted: &Adapted<Model>, name: &str) -> Result<(), TrainError> {
    let mut layers = adapted.set.get(name).into_iter().flat_map(|adapter| adapter.layers());
    match layers.find(|layer| layer.info.kind.takes_one_adapter()) {
        Some(layer) => Err(TrainError::Value {
            field: "adapter.stack_on",
            expected: "none for a method that acts where only the lowest adapter of a stack does".to_owned(),
            found: format!(
                "an adapter above which the new one would never train: `{}` has one adapter at most",
                layer.info.path
            ),
        }),
        None => Ok(()),
    }
}

/// Examples that a method reads whose initial values follow from data.
const FIRST_EXAMPLES: usize = 256;

/// The first examples of the data, in batches.
fn first_batches(run: &Run, data: &dyn TaskData, model: &Model) -> Result<Vec<Batch>, TrainError> {
    let examples: Vec<usize> = (0..data.lengths().len().min(FIRST_EXAMPLES)).collect();
    let batches = examples.chunks(run.recipe.train.eval_batch_size);
    let batches = batches.map(|examples| data.batch(examples, 0, model, &run.device));
    batches.collect()
}

/// Refuses texts longer than the positions the model has, less those an adapter takes. Images have as many as they have.
pub(crate) fn check_length(recipe: &Recipe, model: &Model, taken: usize) -> Result<(), TrainError> {
    let Some(longest) = model.max_length().filter(|_| model.kind() != ModelKind::ImageEncoder) else {
        return Ok(());
    };
    let allowed = longest.saturating_sub(taken);
    if recipe.model.max_length <= allowed {
        return Ok(());
    }
    Err(TrainError::Value {
        field: "model.max_length",
        expected: match taken {
            0 => format!("at most {allowed}, the model's longest input"),
            _ => format!("at most {allowed}, as the adapter takes {taken} of the model's {longest} positions"),
        },
        found: recipe.model.max_length.to_string(),
    })
}

/// Refuses rows of several texts for an adapter that reads a row as one text.
pub(crate) fn check_packing(recipe: &Recipe, adapted: &Adapted<Model>) -> Result<(), TrainError> {
    let set = &adapted.set;
    let by_row = |adapter: &Attached| {
        let mut layers = adapter.layers();
        adapter
            .method()
            .capabilities()
            .embeddings
            .is_some_and(|edits| edits.inserts().is_some())
            || layers.any(|layer| matches!(layer.info.kind, SiteKind::LayerOutput { .. }))
    };
    let refused = set.iter().find(|adapter| by_row(adapter)).map(Attached::name);
    let reads_ends = Ctx::new(set).causality() != Causality::Causal;
    let refused = refused.or(reads_ends.then_some(recipe.adapter.name.as_str()));
    match refused.filter(|_| recipe.data.pack) {
        Some(name) => Err(TrainError::Value {
            field: "data.pack",
            expected: "false for an adapter that inserts positions, acts at the ends of a row or looks ahead"
                .to_owned(),
            found: format!("true, and `{name}` does"),
        }),
        None => Ok(()),
    }
}

/// Refuses to drop as many layers as the model has.
pub(crate) fn check_drop_layers(recipe: &Recipe, model: &Model) -> Result<(), TrainError> {
    let layers = model.num_layers();
    match recipe.train.drop_layers.filter(|drop| drop.most >= layers) {
        Some(drop) => Err(TrainError::Value {
            field: "train.drop_layers",
            expected: format!("fewer than the {layers} layers of the model"),
            found: drop.to_string(),
        }),
        None => Ok(()),
    }
}
