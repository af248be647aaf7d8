//! A run of several: an adapter for each shard of the data, then their fusion.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use adapters_adapted::Adapted;
use adapters_core::{Ctx, Format, Recorded};
use adapters_store::Setup;
use burn::tensor::Tensor;
use serde_json::{Map, Value, json};

use crate::batches::eval_batches;
#[cfg(feature = "plots")]
use crate::curve::{LayerWeights, draw_layer_weights};
use crate::error::TrainError;
use crate::inputs::hidden_states;
use crate::recipe::{FUSION, FusionSection, Recipe};
use crate::report::{Event, Outcome};
use crate::run::Run;
use crate::run_data::RunData;
use crate::run_files::{Summary, peak_rss_bytes};
use crate::tasks::{EVALUATION, TaskContext, tokenizer_of};
use crate::training_loop::train;

/// How much a fusion attends to each adapter, on average over the tokens: by adapter, then by layer from the first.
type Attention = Vec<(String, Vec<f64>)>;

/// Trains the adapters one after the other, each in a folder of its name, then the fusion, and sums up. An adapter
/// that is finished is not trained again; the fusion is.
pub(crate) fn train_stages(
    run: &Run,
    section: &FusionSection,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome, TrainError> {
    let started = Instant::now();
    let of = section.adapters.len() + 1;
    let mut scores = Map::new();
    let mut folders = Vec::new();
    for (index, name) in section.adapters.iter().enumerate() {
        let stage = Run {
            recipe: run.recipe.of_shard(section, index),
            dir: run.dir.join(name),
            ..run.clone()
        };
        let stopped = on_event(Event::Stage {
            name: name.clone(),
            index,
            of,
        })
        .is_break();
        let summary = match finished(&stage) {
            Some(summary) => summary,
            None if stopped => return Ok(Outcome::stopped(&run.dir)),
            None => {
                let outcome = train(&stage, on_event)?;
                if !outcome.finished {
                    return Ok(Outcome::stopped(&run.dir));
                }
                outcome.summary
            }
        };
        scores.insert(name.clone(), json!(summary.test_score()));
        folders.push(stage.dir.join("adapter"));
    }
    let fusion = Run {
        recipe: run.recipe.of_fusion(section, folders),
        dir: run.dir.join(FUSION),
        ..run.clone()
    };
    let (name, index) = (FUSION.to_owned(), section.adapters.len());
    if on_event(Event::Stage { name, index, of }).is_break() {
        return Ok(Outcome::stopped(&run.dir));
    }
    let outcome = train(&fusion, on_event)?;
    if !outcome.finished {
        return Ok(Outcome::stopped(&run.dir));
    }
    scores.insert(FUSION.to_owned(), json!(outcome.summary.test_score()));
    let attention = attention(&fusion, &outcome.adapter)?;
    #[cfg(feature = "plots")]
    draw(run, &attention, &outcome.summary)?;
    let mut summary = Summary {
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
        ..outcome.summary.clone()
    };
    let by_layer: Map<String, Value> = attention
        .into_iter()
        .map(|(name, weights)| (name, json!(weights)))
        .collect();
    summary.extra.insert("scores".to_owned(), Value::Object(scores));
    summary
        .extra
        .insert("attention_by_layer".to_owned(), Value::Object(by_layer));
    summary.write(run.dir.join(Summary::FILE))?;
    Ok(Outcome {
        dir: run.dir.clone(),
        summary,
        ..outcome
    })
}

/// The summary of a finished run of the same recipe in that folder.
fn finished(run: &Run) -> Option<Summary> {
    let summary = Summary::read(run.dir.join(Summary::FILE)).ok()?;
    let recipe = fs::read_to_string(run.dir.join("recipe.toml")).ok()?;
    let recipe: Recipe = toml::from_str(&recipe).ok()?;
    recipe.difference(&run.recipe).is_none().then_some(summary)
}

/// The attention of a trained fusion over the validation data, without padding.
fn attention(run: &Run, dir: &Path) -> Result<Attention, TrainError> {
    let (recipe, device) = (&run.recipe, &run.device);
    let pretrained = run.pretrained()?;
    let mut adapted = Adapted::new(pretrained.model(device)?);
    let (base, set) = adapted.base_and_set_mut();
    let setup = Setup::load(dir, set, base, &run.registry, false, device)?;
    adapted.activate(setup.composition)?;
    let tokenizer = tokenizer_of(&pretrained, recipe.model.max_length)?;
    let data = RunData::read(recipe)?;
    let cx = TaskContext {
        options: &data.options,
        pretrained: &pretrained,
        model: adapted.base(),
        tokenizer: tokenizer.as_ref(),
    };
    let data = recipe.head.kind.open(&cx)?.examples(&data.validation, true, &cx)?;
    // Sums by site, and the tokens they are over.
    let mut sums: BTreeMap<(usize, String), (Vec<f64>, f64)> = BTreeMap::new();
    for indices in eval_batches(data.lengths(), recipe.train.eval_batch_size) {
        let batch = data.batch(&indices, EVALUATION, adapted.base(), device)?;
        let keep = batch.padding().map(|padding| padding.bool_not().float());
        let mut cx = Ctx::new(&adapted.set).recording();
        hidden_states(adapted.base(), batch.input, &mut cx)?;
        for record in cx.records() {
            let Recorded::FusionAttention { scores, .. } = record.value else {
                continue;
            };
            let [rows, seq, adapters] = scores.dims();
            let keep = keep.clone().unwrap_or_else(|| Tensor::ones([rows, seq], device));
            let tokens = f64::from(keep.clone().sum().into_scalar::<f32>());
            let kept = (scores * keep.unsqueeze_dim(2))
                .reshape([rows * seq, adapters])
                .sum_dim(0);
            let key = (record.site.layer.unwrap_or(0), record.site.role.to_string());
            let (sum, count) = sums.entry(key).or_insert_with(|| (vec![0.0; adapters], 0.0));
            for (sum, weight) in sum.iter_mut().zip(kept.into_data().iter::<f32>()) {
                *sum += f64::from(weight);
            }
            *count += tokens;
        }
    }
    // Several sites of a layer count alike.
    let mut layers: BTreeMap<usize, (Vec<f64>, f64)> = BTreeMap::new();
    for ((layer, _), (sum, count)) in sums {
        let (total, sites) = layers.entry(layer).or_insert_with(|| (vec![0.0; sum.len()], 0.0));
        total.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum / count);
        *sites += 1.0;
    }
    let names = recipe.adapter.name.split(',').map(str::to_owned).enumerate();
    Ok(names
        .map(|(index, name)| {
            (
                name,
                layers.values().map(|(total, sites)| total[index] / sites).collect(),
            )
        })
        .collect())
}

#[cfg(feature = "plots")]
fn draw(run: &Run, attention: &Attention, summary: &Summary) -> Result<(), TrainError> {
    let score = summary.test_score();
    let score = score.map_or_else(String::new, |score| format!(" · {} {score:.4}", summary.metric));
    let weights = LayerWeights {
        title: format!("Attention of the fusion by layer{score}"),
        lines: attention.clone(),
    };
    Ok(draw_layer_weights(
        &weights,
        &run.dir.join("attention.svg"),
        &run.dir.join("attention.png"),
    )?)
}

impl Outcome {
    /// What a run leaves that its caller stopped.
    pub(crate) fn stopped(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            adapter: dir.join("adapter"),
            format: Format::AdapterHub,
            peft: Err("the run was stopped".to_owned()),
            head_note: None,
            summary: Summary::default(),
            finished: false,
        }
    }
}
