//! Training as a library: repeatable, resumable, and learning something.

use std::fs;
use std::ops::ControlFlow;

use adapters::core::Format;
use adapters::store::read_safetensors;
use adapters::train::{Event, MetricsLog, Recipe, Run, TrainError, train};

use crate::common::runs::{finish, metrics, run, weights};
use crate::common::{Task, json_of};

#[test]
fn a_run_repeats_bit_for_bit_and_learns() {
    let task = Task::new();
    let (a, b) = (run(&task, &task.path("a"), &[]), run(&task, &task.path("b"), &[]));
    let (outcome, _) = (finish(&a), finish(&b));
    assert_eq!(weights(&a), weights(&b));
    assert_eq!(metrics(&a), metrics(&b));
    assert!(outcome.summary.test_score().unwrap() > 0.9, "{:?}", outcome.summary);
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
fn dropped_layers_are_not_trained_and_random_ones_repeat() {
    let task = Task::new();
    let first = run(&task, &task.path("first"), &["train.drop_layers=[1, 1]"]);
    let outcome = finish(&first);
    let (tensors, _) = read_safetensors(&outcome.adapter.join("adapter.safetensors")).unwrap();
    let moved = |layer: &str| {
        let of_layer = tensors
            .iter()
            .filter(|(key, _)| key.contains(layer) && key.contains("lora_B"));
        let values: Vec<f32> = of_layer.flat_map(|(_, data)| data.iter::<f32>()).collect();
        assert_eq!(values.len(), 2 * 16 * 4, "query and value of {layer}");
        values.iter().any(|x| *x != 0.0)
    };
    assert!(
        !moved("layer.0.") && moved("layer.1."),
        "B begins at zero and stays there in a dropped layer"
    );

    let (a, b) = (task.path("a"), task.path("b"));
    let random = [a, b].map(|dir| run(&task, &dir, &["train.drop_layers=[0, 1]"]));
    random.iter().for_each(|run| assert!(finish(run).finished));
    assert_eq!(weights(&random[0]), weights(&random[1]));
    assert_ne!(weights(&random[0]), weights(&first));

    let too_many = run(&task, &task.path("many"), &["train.drop_layers=[0, 2]"]);
    let error = train(&too_many, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`train.drop_layers` is [0, 2], expected fewer than the 2 layers of the model"
    );
    let backwards = Recipe::read(&task.recipe(), &["train.drop_layers=[1, 0]".to_owned()]).unwrap_err();
    assert!(
        backwards.to_string().contains("the fewest layers, then the most"),
        "{backwards}"
    );
}

#[test]
fn adapters_of_parts_of_the_data_are_fused() {
    let task = Task::new();
    let overrides = &[
        "adapter.config=seq_bn[reduction_factor=2]",
        "fusion.adapters=['short', 'middle', 'long']",
        "fusion.by=length",
        "train.epochs=6",
    ];
    let whole = run(&task, &task.path("whole"), overrides);
    let mut begun = Vec::new();
    let outcome = train(&whole, &mut |event| {
        if let Event::Stage { name, of: 4, .. } = event {
            begun.push(name);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(outcome.finished);
    assert_eq!(begun, ["short", "middle", "long", "fusion"]);

    // Width 16, two layers: query and key with a bias, value without, and a head of two classes.
    let trained = 2 * (2 * (16 * 16 + 16) + 16 * 16) + 2 * 16 + 2;
    assert_eq!(outcome.summary.trainable_params, trained);
    let summary = json_of(&whole.dir.join("summary.json"));
    for name in ["short", "middle", "long", "fusion"] {
        let accuracy = summary["scores"][name].as_f64().unwrap();
        let alone = json_of(&whole.dir.join(name).join("summary.json"));
        assert_eq!(alone["test_accuracy"], accuracy, "{name}");
    }
    assert!(outcome.summary.test_score().unwrap() > 0.9, "{summary}");
    for layer in 0..2 {
        let weights = ["short", "middle", "long"].map(|name| {
            let weight = summary["attention_by_layer"][name][layer].as_f64().unwrap();
            assert!(weight > 0.0, "{name}");
            weight
        });
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{weights:?}");
    }
    let svg = fs::read_to_string(whole.dir.join("attention.svg")).unwrap();
    assert!(svg.contains("middle") && svg.contains("layer"));
    assert!(whole.dir.join("attention.png").exists());

    // The fused adapters are as they were trained.
    for name in ["short", "middle", "long"] {
        let fused = fs::read(outcome.adapter.join(name).join("adapter.safetensors")).unwrap();
        let alone = fs::read(whole.dir.join(name).join("adapter/adapter.safetensors")).unwrap();
        assert_eq!(fused, alone, "{name}");
    }
    let fusion = "fusion/adapter/short,middle,long/model_adapter_fusion.safetensors";
    assert!(whole.dir.join(fusion).exists());

    // The command evaluates the saved setup, adapters, fusion and head, as the run did.
    let test = task.path("data/test.jsonl");
    let folder = outcome.adapter.to_str().unwrap();
    let eval = std::process::Command::new(env!("CARGO_BIN_EXE_adapters"))
        .args(["eval", "--adapter", folder, "--data", test.to_str().unwrap()])
        .output()
        .unwrap();
    let (said, erred) = (
        String::from_utf8_lossy(&eval.stdout),
        String::from_utf8_lossy(&eval.stderr),
    );
    let accuracy = format!("{:.4}", outcome.summary.test_score().unwrap());
    assert!(eval.status.success() && said.contains(&accuracy), "{said}{erred}");

    // A run that is stopped after a part does not train it again, and ends alike.
    let stopped = run(&task, &task.path("stopped"), overrides);
    let outcome = train(&stopped, &mut |event| match event {
        Event::Stage { index: 1, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    assert!(!outcome.finished);
    let (mut part, mut steps) = (String::new(), 0);
    let outcome = train(&stopped, &mut |event| {
        match event {
            Event::Stage { name, .. } => part = name,
            Event::Step { .. } if part == "short" => steps += 1,
            _ => {}
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(outcome.finished);
    assert_eq!(steps, 0);
    assert_eq!(
        fs::read(whole.dir.join(fusion)).unwrap(),
        fs::read(stopped.dir.join(fusion)).unwrap()
    );
}

#[test]
fn slips_in_a_fusion_are_named() {
    let task = Task::new();
    for (overrides, part) in [
        (
            &["fusion.adapters=['a']"][..],
            "`fusion.adapters` is 1, expected at least two names",
        ),
        (&["fusion.adapters=['a', 'a']"], "`fusion.adapters` is `a` twice"),
        (&["fusion.adapters=['a', '../b']"], "`fusion.adapters` is `../b`"),
        (
            &["fusion.adapters=['a', 'b']", "fusion.config=dinamic"],
            "did you mean `dynamic`?",
        ),
        (
            &["fusion.adapters=['a', 'b']", "fusion.learning_rate=0"],
            "`fusion.learning_rate` is 0",
        ),
        (
            &["adapter.fuse=['x']"],
            "`adapter.fuse` is 1, expected at least two folders",
        ),
        (&["adapter.fuse=['x', 'y']"], "a table with `fuse`, or with `config`"),
        (&["data.shard={index = 2, of = 2}"], "`data.shard` is 2 of 2"),
    ] {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        let error = Recipe::read(&task.recipe(), &overrides).unwrap_err();
        assert!(error.to_string().contains(part), "{overrides:?}: {error}");
    }
}

#[test]
fn an_adapter_is_trained_over_a_quantized_base_which_its_manifest_names() {
    let task = Task::new();
    let (float, int8) = (
        run(&task, &task.path("float"), &[]),
        run(&task, &task.path("int8"), &["model.precision=int8"]),
    );
    let (_, outcome) = (finish(&float), finish(&int8));
    assert!(outcome.summary.test_score().unwrap() > 0.9, "{:?}", outcome.summary);
    // Rounding the base changes what is learned, a little.
    assert_ne!(weights(&float), weights(&int8));
    let manifest = |run: &Run| json_of(&run.dir.join("adapter/manifest.json"));
    assert_eq!(manifest(&int8)["precision"], "int8");
    assert!(manifest(&float).get("precision").is_none());
    let bf16 = run(&task, &task.path("bf16"), &["model.precision=bf16"]);
    let outcome = finish(&bf16);
    assert!(outcome.summary.test_score().unwrap() > 0.9, "{:?}", outcome.summary);
    assert_ne!(weights(&float), weights(&bf16));
    assert_eq!(manifest(&bf16)["precision"], "bf16");
    let overrides = ["model.precision=int4".to_owned()];
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
    assert!(outcome.summary.test_score().unwrap() > 0.9, "{:?}", outcome.summary);
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
fn hidden_tokens_are_found_behind_a_prompt() {
    let task = Task::new();
    for combine in ["prefix", "prefix_after_bos"] {
        let config =
            format!("adapter.config=prompt_tuning[prompt_length=3,combine={combine}]|seq_bn[reduction_factor=2]");
        let masked = &[config.as_str(), "head.kind=masked_lm", "train.epochs=12"];
        let run = run(&task, &task.path(combine), masked);
        finish(&run);
        let records = MetricsLog::records(run.dir.join("metrics.jsonl")).unwrap();
        let losses: Vec<f64> = records.iter().filter_map(|r| r.get("eval_loss")?.as_f64()).collect();
        assert!(losses.last().unwrap() < &(losses[0] * 0.95), "{combine}: {losses:?}");
    }
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
fn a_prefix_trains_survives_a_kill_and_is_loaded() {
    let task = Task::new();
    let config = "adapter.config=prefix_tuning[prefix_length=3,bottleneck_size=8,dropout=0.1,use_gating=true]";
    let whole = run(&task, &task.path("whole"), &[config]);
    let outcome = finish(&whole);
    assert_eq!(outcome.format, Format::AdapterHub);
    let (tensors, _) = read_safetensors(&outcome.adapter.join("adapter.safetensors")).unwrap();
    // Embedding and two linear layers, once; a gate in each of two layers.
    assert_eq!(tensors.len(), 5 + 2 * 2, "{:?}", tensors.keys());

    let killed = run(&task, &task.path("killed"), &[config]);
    train(&killed, &mut |event| match event {
        Event::Step { step: 9, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    finish(&killed);
    assert_eq!(weights(&killed), weights(&whole));
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
fn gradient_checkpointing_ends_where_the_whole_graph_does() {
    let task = Task::new();
    let with = |out: &str, checkpointing: bool| {
        let overrides = [
            "adapter.config=lora[r=4,alpha=8,dropout=0.1]",
            &format!("train.gradient_checkpointing={checkpointing}"),
        ];
        let run = run(&task, &task.path(out), &overrides);
        finish(&run);
        let (tensors, _) = read_safetensors(&run.dir.join("adapter/adapter.safetensors")).unwrap();
        tensors
    };
    let (whole, blocks) = (with("whole", false), with("blocks", true));
    assert_eq!(whole.len(), blocks.len());
    for (key, data) in &whole {
        let pairs = data.iter::<f32>().zip(blocks[key].iter::<f32>());
        let worst = pairs.fold(0.0f32, |w, (a, b)| w.max((a - b).abs()));
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
        assert_eq!(outcome.format, Format::Peft);
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
    assert_eq!(plain, weights_with("one", &["train.learning_rate_ratio=1"]));
    assert_ne!(plain, weights_with("four", &["train.learning_rate_ratio=4"]));
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
        (
            &["adapter.method=lora", "adapter.rank_pattern={qery=2}"],
            &[
                "the pattern `qery` in `rank_pattern`",
                "did you mean `query`?",
                "adapted modules: query, value",
            ],
        ),
        (
            &["adapter.method=lora", "adapter.alpha_pattern={key=2.0}"],
            &["the pattern `key` in `alpha_pattern` matches no adapted module"],
        ),
        (
            &[
                "adapter.method=lora",
                "adapter.target_modules=['query']",
                "adapter.exclude_modules=['valu']",
            ],
            &["target `valu` matches nothing", "did you mean `value`?"],
        ),
        (
            &[
                "adapter.method=lora",
                "adapter.target_modules=['query']",
                "adapter.layers=[1, 7]",
            ],
            &["names layer 7", "expected 0 to 1"],
        ),
        (
            &[
                "adapter.method=lora",
                "adapter.target_modules=['query']",
                "adapter.exclude_modules=['query']",
            ],
            &["target `query` matches nothing"],
        ),
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
