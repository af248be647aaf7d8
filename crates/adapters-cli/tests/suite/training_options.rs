//! Options of training: optimizers, schedules, what decides which weights are the best, and where a run begins.

use std::ops::ControlFlow;
use std::path::Path;

use adapters::store::{read_safetensors, write_safetensors};
use adapters::train::{Event, MetricsLog, Run, Truncated, train};

use crate::common::runs::{finish, metrics, run, weights};
use crate::common::{Task, json_of};

#[test]
fn an_adapter_of_either_format_is_trained_further_with_its_head() {
    let task = Task::new();
    let first = run(&task, &task.path("first"), &[]);
    let outcome = finish(&first);
    let loss_of = |run: &Run, at: usize| {
        let losses = MetricsLog::records(run.dir.join("metrics.jsonl")).unwrap();
        let losses: Vec<f64> = losses.iter().filter_map(|r| r.get("eval_loss")?.as_f64()).collect();
        losses[if at == 0 { 0 } else { losses.len() - 1 }]
    };
    for folder in [outcome.adapter.clone(), outcome.peft.unwrap()] {
        let from = format!("adapter.from={}", folder.display());
        // With a rate of almost nothing the weights of the adapter and of its head are the values of the first run.
        let still = format!("still-{}", folder.file_name().unwrap().display());
        let overrides = [&from, "train.learning_rate=1e-12", "train.epochs=1", "train.keep=last"];
        let still = run(&task, &task.path(&still), &overrides);
        finish(&still);
        let before = read_safetensors(&first.dir.join("adapter/adapter.safetensors"))
            .unwrap()
            .0;
        let after = read_safetensors(&still.dir.join("adapter/adapter.safetensors"))
            .unwrap()
            .0;
        assert_eq!(before.len(), after.len());
        for ((key, before), after) in before.iter().zip(after.values()) {
            for (before, after) in before.iter::<f32>().zip(after.iter::<f32>()) {
                assert!((before - after).abs() < 1e-6, "{key}: {before} became {after}");
            }
        }
        let summaries =
            [&first, &still].map(|run| json_of(&run.dir.join("summary.json"))["test_loss"].as_f64().unwrap());
        assert!((summaries[0] - summaries[1]).abs() < 1e-4, "{summaries:?}");
    }
    let further = run(
        &task,
        &task.path("further"),
        &[&format!("adapter.from={}", outcome.adapter.display()), "train.seed=7"],
    );
    finish(&further);
    assert!(loss_of(&further, 0) < loss_of(&first, 0));
}

#[test]
fn the_metric_of_a_recipe_decides_which_weights_are_the_best() {
    let task = Task::new();
    // A rate so high that the figures go up and down.
    let overrides = ["train.evaluate_every=1", "train.epochs=1", "train.learning_rate=0.3"];
    for metric in ["loss", "f1", "matthews"] {
        let metric_override = format!("train.metric={metric}");
        let run = run(
            &task,
            &task.path(metric),
            &[&overrides[..], &[&metric_override]].concat(),
        );
        let mut seen = Vec::new();
        train(&run, &mut |event| {
            if let Event::Evaluated { evaluation, best, .. } = event {
                seen.push((evaluation.figure(metric).unwrap(), best));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        let rising = |value: f64| if metric == "loss" { -value } else { value };
        let mut highest = f64::NEG_INFINITY;
        for (value, best) in &seen {
            assert_eq!(*best, rising(*value) > highest, "{metric}: {seen:?}");
            highest = highest.max(rising(*value));
        }
        assert!(seen.iter().any(|(_, best)| !best), "{metric}: {seen:?}");
        let summary = json_of(&run.dir.join("summary.json"));
        assert!(
            summary[&format!("test_{metric}")].is_number() && summary["test_accuracy"].is_number(),
            "{summary}"
        );
    }
}

#[test]
fn every_optimizer_and_schedule_survives_a_kill() {
    let task = Task::new();
    let mut seen = Vec::new();
    for overrides in [
        &["train.optimizer=sgd", "train.momentum=0.9", "train.schedule=cosine"][..],
        &["train.optimizer=sgd", "train.weight_decay=0.1", "train.schedule=linear"],
        &["train.optimizer=adafactor", "train.schedule=constant"],
        &["train.optimizer=lion", "train.schedule=wsd", "train.decay=0.5"],
    ] {
        let name = seen.len();
        let whole = run(&task, &task.path(&format!("whole{name}")), overrides);
        finish(&whole);
        let killed = run(&task, &task.path(&format!("killed{name}")), overrides);
        train(&killed, &mut |event| match event {
            Event::Step { step: 16, .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .unwrap();
        finish(&killed);
        let (ended, expected) = (weights(&killed), weights(&whole));
        assert!(ended == expected, "{overrides:?}");
        assert_eq!(metrics(&killed), metrics(&whole), "{overrides:?}");
        assert!(!seen.contains(&ended), "{overrides:?} trains like another");
        seen.push(ended);
    }
}

#[test]
fn a_resumed_run_keeps_the_batch_size_that_was_found() {
    let task = Task::new();
    let overrides = ["train.batch_size=auto", "train.checkpoint_every=1"];
    let given = run(&task, &task.path("given"), &["train.batch_size=64"]);
    finish(&given);
    let found = run(&task, &task.path("found"), &overrides);
    assert_eq!(finish(&found).summary.batch_size, 64);
    assert_eq!(weights(&found), weights(&given));

    // As if the first process had found less memory.
    let killed = run(&task, &task.path("killed"), &overrides);
    train(&killed, &mut |event| match event {
        Event::Step { step: 1, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    let path = killed.dir.join("checkpoint.safetensors");
    let (tensors, mut metadata) = read_safetensors(&path).unwrap();
    let position = metadata.get_mut("adapters.checkpoint").unwrap();
    assert!(position.contains(r#""batch_size":64,"step":1"#), "{position}");
    *position = position.replace(r#""batch_size":64,"step":1"#, r#""batch_size":16,"step":1"#);
    write_safetensors(&path, &tensors, metadata).unwrap();
    let mut begun = None;
    let outcome = train(&killed, &mut |event| {
        if let Event::Ready { steps, batch_size, .. } = event {
            begun = Some((steps, batch_size));
        }
        ControlFlow::Continue(())
    });
    assert_eq!(begun, Some((9, 16)), "three epochs of forty sentences");
    assert_eq!(outcome.unwrap().summary.batch_size, 16);
}

#[test]
fn a_run_that_keeps_frozen_layers_ends_where_it_would_without() {
    let task = Task::new();
    let adapter = "adapter.config=lora[r=4,alpha=8,dropout=0.1,leave_out=[0]]";
    let with = |out: &str, cache: bool| {
        let cache = format!("train.cache_frozen={cache}");
        run(&task, &task.path(out), &[adapter, &cache, "train.base_dropout=0.0"])
    };
    let (whole, cached, killed) = (with("whole", false), with("cached", true), with("killed", true));
    finish(&whole);
    finish(&cached);
    let tensors = |run: &Run| {
        read_safetensors(&run.dir.join("adapter/adapter.safetensors"))
            .unwrap()
            .0
    };
    let expected = tensors(&whole);
    let found = tensors(&cached);
    assert_eq!(expected.len(), found.len());
    for (key, data) in &expected {
        let pairs = data.iter::<f32>().zip(found[key].iter::<f32>());
        let worst = pairs.fold(0.0f32, |w, (a, b)| w.max((a - b).abs()));
        assert!(worst < 1e-4, "{key}: {worst}");
    }
    train(&killed, &mut |event| match event {
        Event::Step { step: 16, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    finish(&killed);
    assert!(weights(&killed) == weights(&cached));
    assert_eq!(metrics(&killed), metrics(&cached));

    for (overrides, reason) in [
        (&["train.base_dropout=0.0"][..], "leave_out"),
        (&[adapter], "train.base_dropout"),
        (
            &[adapter, "train.base_dropout=0.0", "train.gradient_checkpointing=true"],
            "gradient_checkpointing",
        ),
    ] {
        let overrides = [overrides, &["train.cache_frozen=true"]].concat();
        let refused = run(&task, &task.path("refused"), &overrides);
        let error = train(&refused, &mut |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("train.cache_frozen") && error.contains(reason),
            "{error}"
        );
    }
}

#[test]
fn texts_that_are_cut_off_are_counted() {
    let task = Task::new();
    for (max_length, half) in [("model.max_length=4", true), ("model.max_length=8", false)] {
        let run = run(&task, &task.path(max_length), &[max_length, "train.epochs=1"]);
        let mut counted = None;
        let outcome = train(&run, &mut |event| {
            if let Event::Ready { truncated, .. } = event {
                counted = Some(truncated);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        let lines = |file: &Path| std::fs::read_to_string(file).unwrap().lines().count();
        let data = &run.recipe.data;
        // Two of four sentences have three words or four, and there is a token at each end.
        let of = |file: &Path| if half { lines(file) / 2 } else { 0 };
        let expected = Truncated {
            train: of(&data.train),
            validation: of(data.validation.as_ref().unwrap()),
            test: data.test.as_deref().map(of),
        };
        assert_eq!(counted, Some(expected), "{max_length}");
        assert_eq!(outcome.summary.truncated, expected);
        let written = json_of(&run.dir.join("summary.json"));
        assert_eq!(written["truncated"]["train"], expected.train);
    }
}

#[test]
fn adapters_are_told_tasks_and_begin_with_what_they_read() {
    let task = Task::new();
    // Any whole number may be the task: here it is the label.
    let poly = "adapter.config=poly[n_tasks=2,n_skills=2,r=2]";
    let told = run(&task, &task.path("told"), &[poly, "data.fields.task=label"]);
    finish(&told);
    let untold = run(&task, &task.path("untold"), &[poly]);
    let error = train(&untold, &mut |_| ControlFlow::Continue(()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("task"), "{error}");

    let eva = run(
        &task,
        &task.path("eva"),
        &["adapter.config=lora[r=2,alpha=4,init_weights=eva]"],
    );
    finish(&eva);
    let ga = run(
        &task,
        &task.path("ga"),
        &["adapter.config=lora[r=2,alpha=4,init_weights=lora_ga]"],
    );
    finish(&ga);
    let drawn = run(&task, &task.path("drawn"), &["adapter.config=lora[r=2,alpha=4]"]);
    finish(&drawn);
    assert!(weights(&eva) != weights(&drawn) && weights(&ga) != weights(&drawn));
}
