//! Heads equal the reference's, from its files: scores, loss and gradients of each kind on the golden BERT.

use std::fs;
use std::path::Path;

use adapters::core::NamedParams;
use adapters::core::Tensors;
use adapters::models::heads::{HeadKind, Objective, Pooling, Routing, Scores, Targets};
use adapters::models::{Head, HeadConfig, Heads};
use adapters::store::{HeadSetup, LoadOptions, Setup, load_adapter, read_json, read_safetensors};
use adapters::{AdapterSet, Composition, Ctx, METHODS};
use adapters_testkit::contract::gradients_of;
use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, Tolerance};
use serde_json::Value;

use crate::head_cases::{case, close, encoder, input};

fn targets(kind: HeadKind, expected: &Tensors, device: &Device) -> Targets {
    let data = |key: &str| expected[key].clone();
    let ints = |key| Tensor::<1, Int>::from_data(data(key), device);
    match kind {
        HeadKind::QuestionAnswering => Targets::Spans {
            start: ints("start_positions"),
            end: ints("end_positions"),
        },
        HeadKind::MultiLabel { .. } => Targets::Labels(Tensor::from_data(data("labels"), device)),
        HeadKind::Tagging | HeadKind::LanguageModel { .. } => {
            Targets::Tokens(Tensor::from_data(data("labels"), device))
        }
        _ if data("labels").dtype().is_float() => Targets::Numbers(Tensor::from_data(data("labels"), device)),
        _ => Targets::Classes(ints("labels")),
    }
}

const CASES: [&str; 11] = [
    "causal_lm",
    "classification",
    "classification_deep",
    "classification_no_activation",
    "classification_pooler",
    "masked_lm",
    "multilabel",
    "multiple_choice",
    "question_answering",
    "regression",
    "tagging",
];

#[test]
fn scores_losses_and_gradients_are_the_references() {
    let device = Device::flex();
    let base = encoder(&device);
    for name in CASES {
        let (expected, _) = read_safetensors(&case(name).join("expected.safetensors")).unwrap();
        let (stored, head) = Head::load(&case(name), &base, false, &device).unwrap();
        assert_eq!(stored, "h");
        let head = head.train();
        let input = input(&expected, &device);
        let (padding, [_, seq]) = (input.padding.clone(), input.ids.dims());
        let mut cx = Ctx::plain();
        let hidden = base.forward(input, &mut cx).unwrap();
        let scores = head.forward(hidden, padding.clone(), &base, &mut cx);
        match scores.clone() {
            Scores::Rows(rows) => close(name, &rows.inner().into_data(), &expected["logits"]),
            Scores::Tokens(tokens) => close(name, &tokens.inner().into_data(), &expected["logits"]),
            Scores::Spans { start, end } => {
                close(name, &start.inner().into_data(), &expected["start"]);
                close(name, &end.inner().into_data(), &expected["end"]);
            }
        }
        let targets = targets(head.config().kind, &expected, &device);
        let loss = head.loss(scores, targets, padding, seq).unwrap();
        close(name, &loss.clone().inner().into_data(), &expected["loss"]);
        let gradients = gradients_of(&head, &loss.backward());
        let mut compared = 0;
        let last = head
            .named_params()
            .last()
            .unwrap()
            .0
            .split_once('.')
            .unwrap()
            .0
            .to_owned()
            + ".";
        for (key, id) in head.named_params() {
            let own = gradients[&id].clone().unwrap();
            // Burn holds the weights of the layers before the last the other way round.
            let own = match own.shape().to_vec().as_slice() {
                [rows, columns] if !key.starts_with(&last) => {
                    Tensor::<2>::from_data(TensorData::new(own.iter::<f32>().collect(), [*rows, *columns]), &device)
                        .transpose()
                        .into_data()
                }
                _ => own,
            };
            close(&format!("{name} {key}"), &own, &expected[&format!("grad/{key}")]);
            compared += 1;
        }
        assert_eq!(
            compared,
            expected.keys().filter(|key| key.starts_with("grad/")).count(),
            "{name}"
        );
    }
}

#[test]
fn a_head_is_written_as_the_reference_writes_it() {
    let device = Device::flex();
    let base = encoder(&device);
    for name in CASES {
        let (_, head) = Head::load(&case(name), &base, false, &device).unwrap();
        let out = tempfile::tempdir().unwrap();
        head.save(out.path(), "h", &base).unwrap();
        let config = |dir: &Path| read_json::<Value>(&dir.join("head_config.json")).unwrap();
        assert_eq!(config(out.path()), config(&case(name)), "{name}");
        let weights = |dir: &Path| read_safetensors(&dir.join("model_head.safetensors")).unwrap().0;
        assert_eq!(weights(out.path()), weights(&case(name)), "{name}");
    }
}

#[test]
fn an_average_is_the_references() {
    let device = Device::flex();
    let base = encoder(&device);
    let mut heads = Heads::new();
    for name in ["a", "b"] {
        heads.load(&case("average").join(name), None, &base, &device).unwrap();
    }
    heads.average("ab", &[("a".into(), 0.25), ("b".into(), 0.75)]).unwrap();
    let out = tempfile::tempdir().unwrap();
    heads.get("ab").unwrap().save(out.path(), "ab", &base).unwrap();
    let weights = |dir: &Path| read_safetensors(&dir.join("model_head.safetensors")).unwrap().0;
    let (own, wanted) = (weights(out.path()), weights(&case("average/ab")));
    assert!(own.keys().eq(wanted.keys()));
    for (key, wanted) in wanted {
        close(&key, &own[&key], &wanted);
    }
    let error = heads.average("ab", &[("a".into(), 1.0)]).unwrap_err().to_string();
    assert!(error.contains("`ab`"), "{error}");
    let error = heads.average("c", &[("aa".into(), 1.0)]).unwrap_err().to_string();
    assert!(error.contains("did you mean `a`") || error.contains("`a`"), "{error}");
    let other = HeadConfig::new(HeadKind::Tagging, ["x", "y", "z"]);
    heads.insert("t", Head::new(other, &base, 0, &device).unwrap()).unwrap();
    let error = heads
        .average("c", &[("a".into(), 0.5), ("t".into(), 0.5)])
        .unwrap_err()
        .to_string();
    assert!(error.contains("different"), "{error}");
}

#[test]
fn rows_go_to_the_heads_of_their_branches() {
    let device = Device::flex();
    let base = encoder(&device);
    let mut heads = Heads::new();
    for name in ["a", "b"] {
        heads.load(&case("average").join(name), None, &base, &device).unwrap();
    }
    let input = input(&Tensors::new(), &device);
    let padding = input.padding.clone();
    let mut cx = Ctx::plain();
    let hidden = base.forward(input, &mut cx).unwrap();
    let [batch, _, _] = hidden.dims();
    let mut rows = |routing: &Routing, hidden: Tensor<3>| -> Vec<TensorData> {
        let scores = heads.forward(routing, hidden, padding.clone(), &base, &mut cx).unwrap();
        let rows = scores.into_iter().map(|scores| match scores {
            Scores::Rows(rows) => rows.into_data(),
            other => panic!("{other:?}"),
        });
        rows.collect()
    };
    let all = Routing::All(vec!["a".into(), "b".into()]);
    let wanted = rows(&all, hidden.clone());
    assert_ne!(wanted[0], wanted[1]);

    let branch = |name: &str| Composition::stack([Composition::adapter("below"), Composition::adapter(name)]);
    let parallel = Routing::of(&Composition::Parallel(vec![Composition::adapter("a"), branch("b")])).unwrap();
    assert_eq!(parallel, Routing::EqualRanges(vec!["a".into(), "b".into()]));
    let twice = hidden.clone().repeat_dim(0, 2);
    for (own, wanted) in rows(&parallel, twice).iter().zip(&wanted) {
        own.assert_approx_eq::<f32>(wanted, Tolerance::absolute(1e-6));
    }

    let split = Routing::of(&Composition::BatchSplit {
        children: vec![Composition::adapter("a"), Composition::adapter("b")],
        batch_sizes: vec![1, batch - 1],
    })
    .unwrap();
    let own = rows(&split, hidden.clone());
    let values = |data: &TensorData| data.iter::<f32>().collect::<Vec<_>>();
    assert_eq!(values(&own[0]), values(&wanted[0])[..3]);
    assert_eq!(values(&own[1]), values(&wanted[1])[3..]);

    let wrong = Routing::Rows(vec![("a".into(), batch + 1)]);
    let error = heads
        .forward(&wrong, hidden, None, &base, &mut Ctx::plain())
        .unwrap_err();
    assert!(error.to_string().contains(&format!("{batch}")), "{error}");
    let last = Routing::of(&branch("b")).unwrap();
    assert_eq!(last.names().collect::<Vec<_>>(), ["b"]);
    assert_eq!(Routing::of(&"Fuse(a, b)".parse().unwrap()), None);
}

#[test]
fn heads_follow_the_branches_of_a_composition_as_in_the_reference() {
    let device = Device::flex();
    let base = encoder(&device);
    let (expected, _) = read_safetensors(&case("parallel/expected.safetensors")).unwrap();
    let (mut set, mut heads) = (AdapterSet::new(), Heads::new());
    for name in ["a", "b"] {
        let dir = case("parallel").join(name);
        load_adapter(&dir, &mut set, &base, &METHODS, &LoadOptions::default(), &device).unwrap();
        heads.load(&dir, None, &base, &device).unwrap();
    }
    let [rows, _] = input(&Tensors::new(), &device).ids.dims();
    for (text, own) in [
        ("Parallel(a, b)".to_owned(), ["a", "b"]),
        (
            format!("BatchSplit(a, b, batch_sizes=[1, {}])", rows - 1),
            ["split_a", "split_b"],
        ),
    ] {
        let composition: Composition = text.parse().unwrap();
        set.activate(composition.clone()).unwrap();
        let mut cx = Ctx::new(&set);
        let hidden = base.forward(input(&Tensors::new(), &device), &mut cx).unwrap();
        let padding = cx.pass().padding.clone();
        let routing = Routing::of(&composition).unwrap();
        let scores = heads.forward(&routing, hidden, padding, &base, &mut cx).unwrap();
        for (scores, key) in scores.into_iter().zip(own) {
            let Scores::Rows(rows) = scores else { panic!("rows") };
            close(&format!("{text} {key}"), &rows.into_data(), &expected[key]);
        }
    }
}

#[test]
fn a_setup_keeps_its_heads() {
    let device = Device::flex();
    let base = encoder(&device);
    let (expected, _) = read_safetensors(&case("parallel/expected.safetensors")).unwrap();
    let (mut set, mut heads) = (AdapterSet::new(), Heads::new());
    let options = LoadOptions::default();
    for name in ["a", "b"] {
        let dir = case("parallel").join(name);
        load_adapter(&dir, &mut set, &base, &METHODS, &options, &device).unwrap();
    }
    // Neither head is called like its adapter; the second branch's comes first in the list of heads.
    for (stored, name) in [("b", "of b"), ("a", "of a")] {
        let dir = case("parallel").join(stored);
        heads.load(&dir, Some(name), &base, &device).unwrap();
    }
    let composition = Composition::Parallel(vec!["a".into(), "b".into()]);
    let own = ["of a", "of b"].map(str::to_owned);
    let of_branches = Composition::Parallel(own.clone().map(Composition::Adapter).to_vec());
    for named in [HeadSetup::Composed(of_branches), HeadSetup::Several(own.to_vec())] {
        let setup = Setup::new(composition.clone()).with_heads(named);
        let dir = tempfile::tempdir().unwrap();
        heads.save_setup(dir.path(), &setup, &set, &base).unwrap();
        assert!(dir.path().join("of b/model_head.safetensors").exists());

        let (mut set, mut heads) = (AdapterSet::new(), Heads::new());
        let load = |set: &mut AdapterSet, heads: &mut Heads| {
            heads.load_setup(dir.path(), set, &base, &METHODS, false, &device)
        };
        let again = load(&mut set, &mut heads).unwrap();
        assert_eq!(again, setup);
        set.activate(again.composition.clone()).unwrap();
        let mut cx = Ctx::new(&set);
        let hidden = base.forward(input(&Tensors::new(), &device), &mut cx).unwrap();
        let padding = cx.pass().padding.clone();
        let routing = Routing::of_setup(&again).unwrap();
        let scores = heads.forward(&routing, hidden, padding, &base, &mut cx).unwrap();
        assert_eq!(scores.len(), 2);
        for (scores, key) in scores.into_iter().zip(["a", "b"]) {
            let Scores::Rows(rows) = scores else { panic!("rows") };
            close(key, &rows.into_data(), &expected[key]);
        }

        // What is there already stays, and so does what was there before.
        let mut empty = AdapterSet::new();
        let taken = load(&mut empty, &mut heads).unwrap_err().to_string();
        assert!(taken.contains("`of a`"), "{taken}");
        assert_eq!((empty.iter().count(), heads.iter().count()), (0, 2));
    }
}

#[test]
fn heads_called_like_adapters_go_with_them() {
    let device = Device::flex();
    let base = encoder(&device);
    let (mut set, mut heads) = (AdapterSet::new(), Heads::new());
    let options = LoadOptions::default();
    for name in ["a", "b"] {
        let dir = case("parallel").join(name);
        load_adapter(&dir, &mut set, &base, &METHODS, &options, &device).unwrap();
        heads.load(&dir, None, &base, &device).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new("a");
    heads.save_setup(dir.path(), &setup, &set, &base).unwrap();
    assert!(!dir.path().join("b").exists());
    let (mut set_again, mut heads_again) = (AdapterSet::new(), Heads::new());
    let again = heads_again
        .load_setup(dir.path(), &mut set_again, &base, &METHODS, false, &device)
        .unwrap();
    assert_eq!(heads_again.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(Routing::of_setup(&again), Some(Routing::All(vec!["a".into()])));

    for (named, says) in [
        (HeadSetup::One("bb".to_owned()), "did you mean `b`"),
        (HeadSetup::Own, "head_setup"),
    ] {
        let none = tempfile::tempdir().unwrap();
        let setup = Setup::new("a").with_heads(named);
        let refused = heads.save_setup(none.path(), &setup, &set, &base).unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
        assert_eq!(fs::read_dir(none.path()).unwrap().count(), 0);
    }
}

#[test]
fn heads_read_a_sequence_with_a_prompt_as_in_the_reference() {
    let device = Device::flex();
    let base = encoder(&device);
    let (expected, _) = read_safetensors(&case("prompt/expected.safetensors")).unwrap();
    let mut set = AdapterSet::new();
    let options = LoadOptions::default();
    load_adapter(&case("prompt/p"), &mut set, &base, &METHODS, &options, &device).unwrap();
    set.activate("p").unwrap();
    let input = input(&Tensors::new(), &device);
    let (padding, [_, seq]) = (input.padding.clone(), input.ids.dims());
    let mut cx = Ctx::new(&set);
    let hidden = base.forward(input, &mut cx).unwrap();
    let grown = cx.pass().padding.clone();
    let (_, tagging) = Head::load(&case("prompt/p"), &base, false, &device).unwrap();
    let scores = tagging.forward(hidden.clone(), grown.clone(), &base, &mut cx);
    let Scores::Tokens(tokens) = scores.clone() else {
        panic!("tokens")
    };
    close("tagging", &tokens.into_data(), &expected["logits"]);
    let tags = Targets::Tokens(Tensor::from_data(expected["labels"].clone(), &device));
    let loss = tagging.loss(scores, tags, padding, seq).unwrap();
    close("loss", &loss.into_data(), &expected["loss"]);
    let (_, first) = Head::load(&case("prompt/c"), &base, false, &device).unwrap();
    let Scores::Rows(rows) = first.forward(hidden, grown, &base, &mut cx) else {
        panic!("rows")
    };
    close(
        "the first position is the prompt's",
        &rows.into_data(),
        &expected["classification"],
    );
}

#[test]
fn prompt_positions_in_front_are_not_scored() {
    let device = Device::flex();
    let base = encoder(&device);
    let input = input(&Tensors::new(), &device);
    let (padding, [batch, seq]) = (input.padding.clone(), input.ids.dims());
    let ids = input.ids.clone();
    let hidden = base.forward(input, &mut Ctx::plain()).unwrap();
    let longer = Tensor::cat(vec![hidden.clone().slice_dim(1, 0..2) * 3.0, hidden.clone()], 1);
    let losses = |kind: HeadKind, targets: Targets| {
        let config = HeadConfig::new(kind, ["x", "y", "z"]).with_dropout(0.0);
        let head = Head::new(config, &base, 4, &device).unwrap();
        let loss = |hidden: Tensor<3>| {
            let scores = head.forward(hidden, None, &base, &mut Ctx::plain());
            head.loss(scores, targets.clone(), padding.clone(), seq)
                .unwrap()
                .into_scalar::<f32>()
        };
        (loss(hidden.clone()), loss(longer.clone()))
    };
    let (short, long) = losses(HeadKind::Tagging, Targets::Tokens(ids.clone() % 3));
    assert!((short - long).abs() < 1e-6, "{short} and {long}");
    let causal = HeadKind::LanguageModel {
        objective: Objective::Causal,
        layer_norm: false,
        shift_labels: true,
    };
    let (short, long) = losses(causal, Targets::Tokens(ids));
    assert!((short - long).abs() < 1e-5, "{short} and {long}");

    // An answer is somewhere in the input, wherever a prompt moves it.
    let starts = Tensor::<1, Int>::from_data(TensorData::new(vec![1i64; batch], [batch]), &device);
    let head = Head::new(HeadConfig::new(HeadKind::QuestionAnswering, [""]), &base, 4, &device).unwrap();
    let spans = |hidden| head.forward(hidden, None, &base, &mut Ctx::plain());
    let loss = |scores| {
        let targets = Targets::Spans {
            start: starts.clone(),
            end: starts.clone() + 1,
        };
        head.loss(scores, targets, None, seq).unwrap().into_scalar::<f32>()
    };
    let Scores::Spans { start, end } = spans(longer) else {
        panic!("spans")
    };
    // With the prompt's own scores out of the way the loss is that of the input alone.
    let hide = |scores: Tensor<2>| {
        let front = Tensor::full([batch, 2], -1e9, &device);
        Tensor::cat(vec![front, scores.slice_dim(1, 2..2 + seq)], 1)
    };
    let hidden_front = Scores::Spans {
        start: hide(start),
        end: hide(end),
    };
    assert!((loss(spans(hidden)) - loss(hidden_front)).abs() < 1e-5);
}

#[test]
fn the_mean_is_read_back_and_targets_and_files_that_do_not_fit_are_named() {
    let device = Device::flex();
    let base = encoder(&device);
    let kind = HeadKind::Classification { pooling: Pooling::Mean };
    let head = Head::new(HeadConfig::new(kind, ["no", "yes"]).with_layers(1), &base, 0, &device).unwrap();
    let out = tempfile::tempdir().unwrap();
    head.save(out.path(), "mine", &base).unwrap();
    let (name, again) = Head::load(out.path(), &base, false, &device).unwrap();
    assert_eq!((name.as_str(), again.config()), ("mine", head.config()));
    let hidden = Tensor::<3>::ones([2, 3, 32], &device);
    let padding = Tensor::<2, Bool>::from_data(TensorData::from([[false, true, true], [false, false, false]]), &device);
    let Scores::Rows(rows) = head.forward(hidden, Some(padding), &base, &mut Ctx::plain()) else {
        panic!("rows")
    };
    let rows: Vec<f32> = rows.into_data().iter().collect();
    assert!((rows[0] - rows[2]).abs() < 1e-6 && (rows[1] - rows[3]).abs() < 1e-6);

    let scores = Scores::Rows(Tensor::zeros([2, 2], &device));
    let error = head
        .loss(scores, Targets::Numbers(Tensor::zeros([2], &device)), None, 3)
        .unwrap_err()
        .to_string();
    assert!(error.contains("classes") && error.contains("numbers"), "{error}");

    for (from, to, expected) in [
        ("\"classification\"", "\"clasification\"", "classification"),
        ("\"layers\": 1", "\"layers\": 0", "layers"),
        ("\"layers\": 1", "\"layers\": 2", "1.weight"),
        ("\"yes\": 1", "\"yes\": 5", "label2id"),
        ("\"num_labels\": 2", "\"num_labels\": 3", "label2id"),
        (
            "\"activation_function\": \"tanh\"",
            "\"activation_function\": \"tahn\"",
            "tanh",
        ),
        ("\"pooling\": \"mean\"", "\"pooling\": \"max\"", "pooling"),
    ] {
        let path = out.path().join("head_config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let error = Head::load(out.path(), &base, false, &device).unwrap_err();
        let error = format!("{error} {:?}", std::error::Error::source(&error));
        assert!(error.contains(expected), "{to}: {error}");
        fs::write(&path, text).unwrap();
    }
}
