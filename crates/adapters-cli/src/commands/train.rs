//! `adapters train`

use std::ops::ControlFlow;

use adapters::METHODS;
use adapters::train::{Recipe, Records, Run, TaskKind, train};

use crate::args::TrainArgs;
use crate::failure::Failure;
use crate::folders;
use crate::invocation;
use crate::loading::device;
use crate::progress::Progress;
use crate::run_folder;

/// Finds what a recipe names and is not there, before anything is loaded.
fn check_paths(recipe: &Recipe) -> Result<(), Failure> {
    let (data, adapter) = (&recipe.data, &recipe.adapter);
    let files = [&data.train].into_iter().chain(&data.validation).chain(&data.test);
    for file in files {
        folders::check_exists("data file", file)?;
    }
    for below in adapter.stack_on.iter().chain(&adapter.fuse) {
        folders::check_exists("adapter folder", below)
            .map_err(|failure| failure.with_help("train that adapter first, with a recipe of its own"))?;
    }
    Ok(())
}

/// Runs a recipe and says what it left.
pub(crate) fn run(args: TrainArgs) -> Result<(), Failure> {
    folders::check_exists("recipe", &args.recipe)?;
    let mut recipe = Recipe::read(&args.recipe, &args.overrides)?;
    check_paths(&recipe)?;
    if let Some(given) = args.precision {
        recipe.model.precision = given.precision();
    }
    let asked = args.out.as_deref().or(recipe.output.dir.as_deref());
    let run = Run {
        dir: run_folder::choose(asked, &args.recipe)?,
        model_dir: folders::model(&recipe.model.path)?,
        device: device(&args.device)?,
        registry: METHODS,
        recipe,
    };
    let mut progress = Progress::new(args.tui)?;
    let outcome = train(&run, &mut |event| {
        progress.show(&event);
        ControlFlow::Continue(())
    })?;
    drop(progress);

    let (dir, task): (_, &TaskKind) = (outcome.dir.display(), &run.recipe.head.kind);
    let summary = &outcome.summary;
    if let Some(score) = summary.test_score() {
        say!(
            "test {} {score:.4} after {} steps in {:.0} s",
            summary.metric,
            summary.steps,
            summary.seconds
        );
    }
    say!(
        "{} of {} parameters trained",
        summary.trainable_params,
        summary.total_params
    );
    say!(
        "wrote {dir}/adapter          adapter ({} format), {}manifest",
        outcome.format,
        if task.is_generative { "" } else { "head, " }
    );
    match &outcome.peft {
        Ok(peft) if *peft == outcome.adapter => {}
        Ok(peft) => say!("wrote {}     the same adapter in PEFT format", peft.display()),
        Err(reason) => say!("no PEFT folder: {reason}"),
    }
    if let Some(note) = &outcome.head_note {
        say!("{note}");
    }
    say!("wrote {dir}/summary.json, metrics.jsonl, curve.svg, curve.png, recipe.toml");
    say!("");
    say!("next:");
    let adapter = invocation::word(format!("{dir}/adapter"));
    let program = invocation::program();
    if let Some(test) = run.recipe.data.test.as_ref().filter(|_| task.usage.predicts()) {
        say!("  {program} eval --adapter {adapter} --data {}", invocation::word(test));
    }
    say!("  {program} {}", task.usage.command(&adapter, &example(&run.recipe)));
    Ok(())
}

/// A text of the test data in quotes, for a command that works as it is printed; a placeholder where there is none.
fn example(recipe: &Recipe) -> String {
    const LONGEST: usize = 120;
    let (data, fields) = (&recipe.data, &recipe.data.fields);
    let records = Records::read(
        data.test.as_ref().or(data.validation.as_ref()).unwrap_or(&data.train),
        fields,
    );
    let records = records.map(|records| records.records).unwrap_or_default();
    let texts = records.iter().filter_map(|record| {
        let field = [&fields.text, &fields.prompt]
            .into_iter()
            .find_map(|field| record.text(field).ok())?;
        let plain = field.chars().all(|c| !c.is_control() && !"'\"\\$`!".contains(c));
        (plain && field.chars().count() <= LONGEST).then(|| field.to_string())
    });
    match texts.into_iter().next() {
        Some(text) => format!("\"{text}\""),
        None => "TEXT".to_owned(),
    }
}
