//! What a run trains: a new adapter, on top of another or alone, or a fusion of adapters.

use std::path::Path;

use adapters_core::{Adapted, AttachOptions, Composition};
use adapters_models::{Model, TextTokenizer};
use adapters_store::{LoadOptions, Manifest, expressible, load_adapter};

use crate::error::TrainError;
use crate::run::Run;

/// What was attached.
pub(crate) struct Trained {
    /// In words.
    pub report: String,
    /// Adapters that act and do not train.
    pub frozen: Vec<String>,
}

/// Attaches and activates what the recipe names. An adapter that no format can hold is refused before it is trained.
pub(crate) fn attach(
    run: &Run,
    adapted: &mut Adapted<Model>,
    tokenizer: Option<&TextTokenizer>,
) -> Result<Trained, TrainError> {
    let (section, device) = (&run.recipe.adapter, &run.device);
    let seed = run.recipe.train.seed;
    let load = |dir: &Path, adapted: &mut Adapted<Model>| {
        let options = LoadOptions {
            name: Manifest::name_in(dir)?,
            ..LoadOptions::default()
        };
        let (base, set) = adapted.parts_mut();
        let report = load_adapter(dir, set, base, &run.registry, &options, device)?;
        Ok::<_, TrainError>(report.attached.adapter)
    };
    let mut frozen = Vec::new();
    let (report, trained) = match section.fuse.as_slice() {
        [] => {
            let method = section.method(&run.registry)?;
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
                seed,
                device: Some(device.clone()),
            };
            let report = adapted.attach_with(&section.name, method, &options)?;
            expressible(&adapted.set, &section.name, adapted.base())?;
            (report, Composition::adapter(&section.name))
        }
        folders => {
            for dir in folders {
                frozen.push(load(dir, adapted)?);
            }
            let names: Vec<&str> = frozen.iter().map(String::as_str).collect();
            let config = section.fusion_config()?;
            let (base, set) = adapted.parts_mut();
            let report = adapters_fusion::attach_named(set, &section.name, &names, config, base, seed, device)?;
            (report, Composition::named_fuse(&section.name, names))
        }
    };
    let composition = match &section.stack_on {
        Some(dir) => {
            let idle = adapted
                .set
                .get(&section.name)
                .into_iter()
                .flat_map(|adapter| adapter.layers());
            if let Some(layer) = idle.map(|layer| &layer.info).find(|info| info.kind.takes_one_adapter()) {
                return Err(TrainError::Value {
                    field: "adapter.stack_on",
                    expected: "none for an adapter that acts where only the first of a stack does".to_owned(),
                    found: format!("one, and an adapter that would never train at `{}`", layer.path),
                });
            }
            let below = load(dir, adapted)?;
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
