//! Training as a library: repeatable, resumable, and learning something.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use adapters::METHODS;
use adapters::store::{Grammar, read_safetensors};
use adapters::train::{Event, MetricsLog, Outcome, Recipe, Run, TrainError, train};
use burn::tensor::Device;

use common::Task;

fn run(task: &Task, out: &Path, overrides: &[&str]) -> Run {
    let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::read(&task.recipe(), &overrides).unwrap();
    Run {
        model_dir: recipe.model.path.clone().into(),
        dir: out.to_owned(),
        registry: METHODS,
        device: Device::flex(),
        recipe,
    }
}

fn finish(run: &Run) -> Outcome {
    let outcome = train(run, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(outcome.finished);
    outcome
}

fn weights(run: &Run) -> Vec<u8> {
    let mut bytes = fs::read(run.dir.join("adapter/adapter.safetensors")).unwrap();
    bytes.extend(fs::read(run.dir.join("adapter/head.safetensors")).unwrap());
    bytes
}

/// The metrics, without what depends on the clock.
fn metrics(run: &Run) -> String {
    let records = MetricsLog::records(run.dir.join("metrics.jsonl")).unwrap();
    records
        .into_iter()
        .map(|r| serde_json::Value::Object(r).to_string() + "\n")
        .collect()
}

#[test]
fn a_run_repeats_bit_for_bit_and_learns() {
    let task = Task::new();
    let (a, b) = (run(&task, &task.path("a"), &[]), run(&task, &task.path("b"), &[]));
    let (outcome, _) = (finish(&a), finish(&b));
    assert_eq!(weights(&a), weights(&b));
    assert_eq!(metrics(&a), metrics(&b));
    assert!(outcome.summary.test_accuracy.unwrap() > 0.9, "{:?}", outcome.summary);
    let other_seed = run(&task, &task.path("c"), &["train.seed=1"]);
    finish(&other_seed);
    assert_ne!(weights(&a), weights(&other_seed));
    for file in [
        "summary.json",
        "curve.svg",
        "curve.png",
        "recipe.toml",
        "adapter/manifest.json",
    ] {
        assert!(a.dir.join(file).exists(), "{file}");
    }
    assert!(outcome.peft.is_ok());
    assert!(!a.dir.join("checkpoint.safetensors").exists());
}

#[test]
fn an_adapter_is_trained_over_a_quantised_base_which_its_manifest_names() {
    let task = Task::new();
    let (float, int8) = (
        run(&task, &task.path("float"), &[]),
        run(&task, &task.path("int8"), &["model.quantize=int8"]),
    );
    let (_, outcome) = (finish(&float), finish(&int8));
    assert!(outcome.summary.test_accuracy.unwrap() > 0.9, "{:?}", outcome.summary);
    // Rounding the base changes what is learned, a little.
    assert_ne!(weights(&float), weights(&int8));
    let manifest = |run: &Run| common::json_of(&run.dir.join("adapter/manifest.json"));
    assert_eq!(manifest(&int8)["quantize"], "int8");
    assert!(manifest(&float).get("quantize").is_none());
    let overrides = ["model.quantize=int4".to_owned()];
    let error = Recipe::read(&task.recipe(), &overrides).unwrap_err();
    let error = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.contains("int4") && error.contains("int8"), "{error}");
}

#[test]
fn a_task_adapter_is_trained_on_top_of_a_language_adapter() {
    let task = Task::new();
    let masked = &[
        "adapter.name=language",
        "adapter.config=seq_bn_inv[reduction_factor=2]",
        "head.kind=masked_lm",
        "train.epochs=12",
    ];
    let language = run(&task, &task.path("language"), masked);
    finish(&language);
    let records = MetricsLog::records(language.dir.join("metrics.jsonl")).unwrap();
    let losses: Vec<f64> = records.iter().filter_map(|r| r.get("eval_loss")?.as_f64()).collect();
    assert!(losses.last().unwrap() < &(losses[0] * 0.95), "{losses:?}");
    let folder = language.dir.join("adapter");
    for file in ["adapter.safetensors", "head_config.json", "model_head.safetensors"] {
        assert!(folder.join(file).exists(), "{file}");
    }

    let before = fs::read(folder.join("adapter.safetensors")).unwrap();
    let below = format!("adapter.stack_on={}", folder.display());
    let stacked = &[below.as_str(), "adapter.config=seq_bn[reduction_factor=2]"];
    let sentiment = run(&task, &task.path("sentiment"), stacked);
    let outcome = finish(&sentiment);
    assert!(outcome.summary.test_accuracy.unwrap() > 0.9, "{:?}", outcome.summary);
    assert_eq!(fs::read(folder.join("adapter.safetensors")).unwrap(), before);
    // The adapter below is frozen: width 16 to 8 and back in two layers, and a head of two classes, are what trains.
    assert_eq!(
        outcome.summary.trainable_params,
        2 * (16 * 8 + 8 + 8 * 16 + 16) + 2 * 16 + 2
    );
    let alone = read_safetensors(&outcome.adapter.join("adapter.safetensors"))
        .unwrap()
        .0;
    assert!(alone.keys().all(|key| key.contains(".tiny.")), "{:?}", alone.keys());
}

#[test]
fn a_killed_run_ends_like_one_that_was_not() {
    let task = Task::new();
    let whole = run(&task, &task.path("whole"), &["train.evaluate_every=4"]);
    finish(&whole);
    let killed = run(&task, &task.path("killed"), &["train.evaluate_every=4"]);
    for kill_at in [3, 9, 16, 24] {
        let outcome = train(&killed, &mut |event| match event {
            Event::Step { step, .. } if step == kill_at => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .unwrap();
        assert!(!outcome.finished);
    }
    let (checkpoint, _) = read_safetensors(&killed.dir.join("checkpoint.safetensors")).unwrap();
    assert!(
        checkpoint.keys().all(|key| !key.contains("embeddings")),
        "a checkpoint holds no base weights"
    );
    let mut resumed_after = None;
    train(&killed, &mut |event| {
        if let Event::Resumed { step } = event {
            resumed_after = Some(step);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(
        resumed_after,
        Some(21),
        "the last multiple of checkpoint_every before the kill"
    );
    assert_eq!(weights(&killed), weights(&whole));
    assert_eq!(metrics(&killed), metrics(&whole));
}

#[test]
fn adalora_cuts_ranks_to_the_target_and_survives_a_kill() {
    let task = Task::new();
    let config = "adapter.config=adalora[init_r=4,target_r=2,tinit=2,tfinal=4]";
    let whole = run(&task, &task.path("whole"), &[config]);
    let outcome = finish(&whole);
    let (tensors, _) = read_safetensors(&outcome.adapter.join("adapter_model.safetensors")).unwrap();
    let ranks: Vec<usize> = tensors
        .iter()
        .filter(|(key, _)| key.ends_with("lora_E"))
        .map(|(_, e)| e.iter::<f32>().filter(|e| *e != 0.0).count())
        .collect();
    assert!(!ranks.is_empty() && ranks.iter().all(|rank| *rank <= 4), "{ranks:?}");
    assert_eq!(ranks.iter().sum::<usize>(), 2 * ranks.len(), "{ranks:?}");

    let killed = run(&task, &task.path("killed"), &[config]);
    for kill_at in [9, 16] {
        train(&killed, &mut |event| match event {
            Event::Step { step, .. } if step == kill_at => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .unwrap();
    }
    assert_eq!(finish(&killed).adapter, killed.dir.join("adapter"));
    let bytes = |run: &Run| fs::read(run.dir.join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(bytes(&killed), bytes(&whole));
    assert_eq!(metrics(&killed), metrics(&whole));
}

#[test]
fn a_checkpoint_of_another_recipe_is_refused() {
    let task = Task::new();
    let first = run(&task, &task.path("run"), &[]);
    train(&first, &mut |event| match event {
        Event::Step { step: 8, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    let other = run(&task, &task.path("run"), &["train.learning_rate=0.5"]);
    let error = train(&other, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(
        matches!(&error, TrainError::OtherRun { field, .. } if field == "train.learning_rate"),
        "{error}"
    );
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let task = Task::new();
    let no_dropout = [
        "train.base_dropout=0.0",
        "head.dropout=0.0",
        "adapter.config=lora[r=4,alpha=8]",
        "train.batching=random",
    ];
    let with = |out: &str, more: &[&str]| {
        let overrides: Vec<&str> = no_dropout.iter().chain(more).copied().collect();
        let run = run(&task, &task.path(out), &overrides);
        finish(&run);
        let (tensors, _) = read_safetensors(&run.dir.join("adapter/adapter.safetensors")).unwrap();
        tensors
    };
    let large = with("large", &["train.batch_size=8"]);
    let small = with("small", &["train.batch_size=4", "train.accumulate=2"]);
    for (key, data) in &large {
        let worst = data
            .iter::<f32>()
            .zip(small[key].iter::<f32>())
            .fold(0.0f32, |w, (a, b)| w.max((a - b).abs()));
        assert!(worst < 1e-4, "{key}: {worst}");
    }
}

#[test]
fn a_method_of_one_format_is_saved_in_it() {
    let task = Task::new();
    for config in ["loha[r=2]", "lora[r=2,target_modules=all-linear]"] {
        let name = config.split('[').next().unwrap();
        let overrides = [&format!("adapter.config={config}")[..], "train.epochs=2"];
        let run = run(&task, &task.path(name), &overrides);
        let outcome = finish(&run);
        assert_eq!(outcome.grammar, Grammar::Peft);
        assert_eq!(outcome.peft.unwrap(), outcome.adapter);
        assert!(run.dir.join("adapter/adapter_model.safetensors").exists());
        assert!(run.dir.join("adapter/head.safetensors").exists());
    }
    // What no format can hold is refused before it is trained.
    let both = "lora[r=2,target_modules=all-linear,use_gating=true]";
    let run = run(&task, &task.path("none"), &[&format!("adapter.config={both}")]);
    let refused = train(&run, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(refused, TrainError::Adapter(_)), "{refused}");
    assert!(!run.dir.join("metrics.jsonl").exists());
}

#[test]
fn lora_plus_changes_the_rate_of_b_alone() {
    let task = Task::new();
    let weights_with = |name: &str, overrides: &[&str]| {
        let run = run(&task, &task.path(name), &[overrides, &["train.epochs=1"]].concat());
        finish(&run);
        weights(&run)
    };
    let plain = weights_with("plain", &[]);
    assert_eq!(plain, weights_with("one", &["train.lora_plus_ratio=1"]));
    assert_ne!(plain, weights_with("four", &["train.lora_plus_ratio=4"]));
}

#[test]
fn early_stopping_and_keeping_the_best() {
    let task = Task::new();
    // A learning rate of almost nothing: the first evaluation is never beaten.
    let run = run(
        &task,
        &task.path("run"),
        &[
            "train.learning_rate=1e-12",
            "train.early_stopping=2",
            "train.evaluate_every=2",
        ],
    );
    let mut stopped = None;
    let outcome = train(&run, &mut |event| {
        if let Event::StoppedEarly { step } = event {
            stopped = Some(step);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(stopped, Some(6));
    assert_eq!(outcome.summary.steps, 6);
}

#[test]
fn bad_recipes_and_data_name_what_is_wrong() {
    let task = Task::new();
    let failing = |overrides: &[&str]| {
        let run = run(&task, &task.path("bad"), overrides);
        let error = train(&run, &mut |_| ControlFlow::Continue(())).unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        text
    };
    fs::write(task.path("data/empty.jsonl"), "").unwrap();
    fs::write(task.path("data/label.jsonl"), "{\"text\": \"good\", \"label\": 7}\n").unwrap();
    for (overrides, parts) in [
        (&["data.train=data/empty.jsonl"][..], &["empty.jsonl"][..]),
        (&["data.train=data/label.jsonl"], &["label.jsonl", "7"]),
        (&["data.train=data/none.jsonl"], &["none.jsonl"]),
        (&["data.fields.text=body"], &["body", "text"]),
        (&["adapter.config=lora[r=0]"], &["`r` is 0"]),
        (&["adapter.config=lora[ranks=2]"], &["unknown field `ranks`"]),
        (
            &["adapter.config=lora[target_modules=[qery]]"],
            &["qery", "did you mean `query`?"],
        ),
        (&["model.max_length=9"], &["model.max_length", "at most 8"]),
    ] {
        let text = failing(overrides);
        for part in parts {
            assert!(text.contains(part), "{overrides:?}: {text}");
        }
    }
    let file = task.path("file");
    fs::write(&file, "").unwrap();
    let run = run(&task, &file.join("out"), &[]);
    let error = train(&run, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(
        error.contains("cannot make the folder") && error.contains("file"),
        "{error}"
    );
}
