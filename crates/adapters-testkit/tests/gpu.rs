//! Another backend beside `flex`: golden cases of every method and model, twenty steps of training, twenty tokens.
//!
//! `ADAPTERS_DEVICE` names the device; without it these tests do nothing:
//!
//! ```text
//! ADAPTERS_DEVICE=wgpu cargo test -p adapters-testkit --features wgpu --test gpu
//! ```

use std::path::{Path, PathBuf};

use adapters::models::heads::{HeadKind, Pooling, Targets};
use adapters::models::{Encoded, Generation, Head, HeadConfig, Model, Pretrained};
use adapters::train::{Classifier, LabeledText, TaskModel, TextBatcher, adamw, text_input};
use adapters::{Adapted, AttachOptions, method, parse_device};
use adapters_testkit::contract::randomized;
use adapters_testkit::golden::{Options, Selection, Tolerance, Verdict, walk};
use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::InMemDataset;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{ExecutionStrategy, Learner, MultiDeviceOptim, SupervisedTraining};

/// Cases of BERT, one a method and a way to compose; of the other models all in the repository are run.
const BERT: &[&str] = &[
    "act_prelu",
    "adapter_plus",
    "batchsplit_lora",
    "bn_gating",
    "compacter",
    "direft",
    "double_seq_bn_inv",
    "dvora",
    "fuse_dynamic3",
    "lora_gating",
    "loreft_suffix",
    "merge_dora",
    "mtl_lora_multitask",
    "nest_stack_parallel",
    "peft_adalora",
    "peft_boft",
    "peft_delora",
    "peft_fourierft",
    "peft_hira",
    "peft_hra",
    "peft_ia3",
    "peft_ln_tuning",
    "peft_loha",
    "peft_lokr",
    "peft_miss",
    "peft_oft_coft",
    "peft_p_tuning_lstm",
    "peft_road",
    "peft_trainable_tokens",
    "peft_vblora",
    "peft_vera",
    "prefix_gating_split",
    "prompt_after_bos",
    "reft_tied",
    "unipelt",
];

/// The name and the device under test.
fn device() -> Option<(String, Device)> {
    let name = std::env::var("ADAPTERS_DEVICE").ok()?;
    let device = parse_device(&name).unwrap();
    Some((name, device))
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn model(name: &str, device: &Device) -> Model {
    let folder = golden().join(name).join("base");
    Pretrained::open(&folder).unwrap().model(device).unwrap()
}

#[test]
fn golden_cases() {
    let Some((name, device)) = device() else { return };
    let options = Options {
        added: Tolerance::of_backend(&name),
        ..Options::new(device)
    };
    let mut models: Vec<String> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|model| golden().join(model).join("cases").is_dir())
        .collect();
    models.sort();
    let mut wrong = Vec::new();
    let mut right = 0;
    for model in models {
        let cases = if model == "bert" { BERT } else { &["*"] };
        for case in cases {
            let selection = Selection {
                model: Some(model.clone()),
                case: Some((*case).to_owned()),
            };
            walk(&golden(), &selection, &options, |outcome| match outcome.verdict {
                Verdict::Ok => right += 1,
                _ => wrong.push(outcome.to_string()),
            })
            .unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "{right} are right, these are not:\n{}",
        wrong.join("\n")
    );
    assert!(right > 60, "{right}");
}

/// Losses of twenty steps with dropout, and what the adapter is then.
fn train(device: &Device) -> (Vec<f64>, Vec<TensorData>) {
    let mut adapted = Adapted::new(model("bert", device));
    let config = method("lora[r=4,alpha=8,dropout=0.1]|seq_bn").unwrap();
    let options = AttachOptions {
        seed: 1,
        ..AttachOptions::default()
    };
    adapted.attach_with("a", config, &options).unwrap();
    adapted.activate("a").unwrap();
    let head = HeadConfig::new(HeadKind::Classification { pooling: Pooling::Mean }, ["0", "1", "2"]);
    let head = Head::new(head.with_dropout(0.1), adapted.base(), 2, device).unwrap();
    let head = Some(head);
    let mut model = TaskModel { adapted, head }.train();
    let (mut of_set, mut of_head) = (adamw(1e-2), adamw(1e-2));
    let vocab = model.adapted.base().vocab_size();
    let mut losses = Vec::new();
    for step in 0..20usize {
        let rows: Vec<Encoded> = (0..8)
            .map(|row| Encoded {
                ids: (0..5 + row)
                    .map(|t| ((row * 79 + t * 47 + step * 13) % vocab) as u32)
                    .collect(),
                type_ids: vec![0; 5 + row],
                truncated: false,
            })
            .collect();
        let rows: Vec<&Encoded> = rows.iter().collect();
        let input = text_input(&rows, model.adapted.base(), device);
        let labels = TensorData::new((0..8).map(|row| (row + step as i64) % 3).collect::<Vec<i64>>(), [8]);
        let targets = Targets::Classes(Tensor::<1, Int>::from_data(labels, device));
        let seq = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let scores = model.scores(input, Some(step as u64)).unwrap();
        let loss = model.head().unwrap().loss(scores, targets, None, seq).unwrap();
        let mut gradients = loss.backward();
        let for_set = GradientsParams::from_module(&mut gradients, &model.adapted.set);
        let for_head = GradientsParams::from_module(&mut gradients, &model.head);
        losses.push(f64::from(loss.into_scalar::<f32>()));
        model.adapted.set = of_set.step(1e-3, model.adapted.set, for_set);
        model.head = of_head.step(1e-3, model.head, for_head);
    }
    let values = model.adapted.set.attached("a").unwrap().values();
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    (losses, values.into_iter().map(|(_, value)| value).collect())
}

#[test]
fn twenty_steps_are_those_of_flex() {
    let Some((name, device)) = device() else { return };
    let added = Tolerance::of_backend(&name);
    let (want, got) = (train(&Device::flex()), train(&device));
    assert!(
        (want.0[0] - want.0[19]).abs() > 1e-3,
        "nothing is learned: {:?}",
        want.0
    );
    for (step, (want, got)) in want.0.iter().zip(&got.0).enumerate() {
        let allowed = 1e-4 + added.relative;
        assert!(
            (want - got).abs() <= allowed * want.abs(),
            "step {step}: {got}, not {want}"
        );
    }
    // AdamW moves a parameter by its rate however small its gradient is: a sign that rounding decides moves it the other way.
    let moved = 20.0 * 1e-3;
    for (want, got) in want.1.iter().zip(&got.1) {
        let (want, got): (Vec<f64>, Vec<f64>) = (want.iter().collect(), got.iter().collect());
        let off: f64 = want.iter().zip(&got).map(|(w, g)| (w - g).powi(2)).sum();
        let size = want.len() as f64;
        assert!(
            (off / size).sqrt() < 0.05 * moved,
            "off by {} on average",
            (off / size).sqrt()
        );
    }
}

#[test]
fn twenty_tokens_are_those_of_flex() {
    let Some((_, device)) = device() else { return };
    let generation = Generation {
        max_new_tokens: 20,
        ..Generation::default()
    };
    for name in ["llama", "gpt2"] {
        let tokens = |device: &Device| {
            let mut lm = Adapted::new(model(name, device));
            lm.attach("a", method("seq_bn").unwrap()).unwrap();
            lm.activate("a").unwrap();
            lm.set = randomized(lm.set, 7);
            let prompts: [&[u32]; 2] = [&[5, 17, 42, 8, 61], &[33, 7]];
            generation.run(&lm, &prompts, |_, _| ()).unwrap()
        };
        assert_eq!(tokens(&device), tokens(&Device::flex()), "{name}");
    }
}

/// An adapter of BERT and its classification head after Burn's own loop has trained them with this strategy, on batches of
/// four of these texts in their order.
fn by_burns_loop(
    texts: Vec<LabeledText>,
    strategy: ExecutionStrategy,
    accumulate: usize,
    epochs: usize,
) -> Vec<Vec<f32>> {
    let folder = golden().join("bert/base");
    let base = Pretrained::open(&folder)
        .unwrap()
        .with_dropout(0.0)
        .model(&Device::flex());
    let mut adapted = Adapted::new(base.unwrap());
    adapted
        .attach("a", method("lora[r=4,alpha=8]|seq_bn").unwrap())
        .unwrap();
    adapted.activate("a").unwrap();
    let loader = || {
        let loader = DataLoaderBuilder::new(TextBatcher::new(&adapted)).batch_size(4);
        loader.build(InMemDataset::new(texts.clone()))
    };
    let (train, valid) = (loader(), loader());
    let classifier = Classifier::new(adapted, ["0", "1"], 3).unwrap().train();
    let runs = tempfile::tempdir().unwrap();
    let trained = SupervisedTraining::new(runs.path(), train, valid)
        .with_training_strategy(strategy.into())
        .grads_accumulation(accumulate)
        .num_epochs(epochs)
        .launch(Learner::new(classifier, adamw(0.0), 1e-3));
    assert!(trained.error.is_none(), "{:?}", trained.error);
    struct Values(Vec<Vec<f32>>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().into_data().iter().collect());
        }
    }
    let mut values = Values(Vec::new());
    trained.model.visit(&mut values);
    values.0
}

/// Data-parallel training: each device has half of the texts, and gradients are added up on the first.
#[test]
fn two_devices_train_as_one_with_the_batches_of_both() {
    let Some((_, device)) = device() else { return };
    let text = |row: usize| LabeledText {
        text: Encoded {
            ids: (0..4 + row % 3).map(|t| ((row * 7 + t * 5) % 32) as u32).collect(),
            type_ids: vec![0; 4 + row % 3],
            truncated: false,
        },
        class: row % 2,
    };
    let flex = Device::flex().autodiff();
    let devices = vec![flex.clone(), device.autodiff()];
    let two = ExecutionStrategy::multi(devices, MultiDeviceOptim::OptimMainDevice);
    let parallel = by_burns_loop((0..16).map(text).collect(), two, 1, 3);
    // What the two devices have at the same time, one after the other.
    let in_turn = [0..4, 8..12, 4..8, 12..16].into_iter().flatten().map(text);
    let [untrained, single] = [0, 3].map(|epochs| {
        let strategy = ExecutionStrategy::single(flex.clone());
        by_burns_loop(in_turn.clone().collect(), strategy, 2, epochs)
    });
    let distance = |a: &[Vec<f32>], b: &[Vec<f32>]| {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs.fold(0.0f32, |most, (a, b)| most.max((a - b).abs()))
    };
    assert!(distance(&untrained, &single) > 3e-3, "it learned");
    assert!(distance(&parallel, &single) < 1e-4, "{}", distance(&parallel, &single));
}
