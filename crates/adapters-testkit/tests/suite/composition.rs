//! Composition against what its blocks are defined to be, on inputs drawn at random, and what is refused.

use adapters::core::{Composition, Recorded, Role, SiteLayer};
use adapters::fusion::{self, FusionConfig, Temperature};
use adapters::models::TextInput;
use adapters::{AdapterSet, Ctx, Error, method};
use adapters_testkit::contract::{Bench, randomized, relative_error};
use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use proptest::prelude::*;

/// Adapters `a` and `b` of two configurations, and `twin`, the same as `a`.
fn set_of(bench: &Bench, a: &str, b: &str) -> AdapterSet {
    let mut set = AdapterSet::new();
    for (name, config) in [("a", a), ("b", b), ("twin", a)] {
        let method = method(config).unwrap();
        set.attach(name, method, &bench.model, 4, &Device::flex()).unwrap();
    }
    let mut set = randomized(set, 13);
    let values = set.get("a").unwrap().values();
    set.put_values("twin", values).unwrap();
    set
}

/// Token ids of these lengths, padded to the longest.
fn input(lengths: &[usize]) -> TextInput {
    let device = Device::flex();
    let (rows, seq) = (lengths.len(), lengths.iter().copied().max().unwrap_or(1));
    let ids = (0..rows * seq).map(|i| match i % seq < lengths[i / seq] {
        true => (i as i64 * 7 + 3) % 15 + 1,
        false => 0,
    });
    let ids: Vec<i64> = ids.collect();
    let padding: Vec<bool> = ids.iter().map(|id| *id == 0).collect();
    TextInput {
        ids: Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, seq]), &device),
        token_types: None,
        padding: Some(Tensor::<2, Bool>::from_data(
            TensorData::new(padding, [rows, seq]),
            &device,
        )),
        packing: None,
    }
}

fn output(bench: &Bench, set: &AdapterSet, input: &TextInput, block: impl Into<Composition>) -> Tensor<3> {
    let active = set.composition(block).unwrap();
    let mut cx = Ctx::with_composition(set, &active).unwrap();
    bench.model.forward(input.clone(), &mut cx).unwrap()
}

fn close(got: Tensor<3>, want: Tensor<3>) -> Result<(), TestCaseError> {
    let error = relative_error(&got.into_data(), &want.into_data());
    prop_assert!(error <= 1e-5, "off by {error:e}");
    Ok(())
}

/// Pairs whose members may differ: where adapters join the residual stream, one configuration opens and closes for both.
const PAIRS: [(&str, &str); 9] = [
    (
        "lora[r=3,alpha=5]",
        "lora[r=2,alpha=7,attn_matrices=[k,v],output_lora=true]",
    ),
    ("seq_bn[reduction_factor=2]", "seq_bn[reduction_factor=4]"),
    ("double_seq_bn", "double_seq_bn"),
    ("par_bn", "par_bn"),
    ("lora[r=2,alpha=3]", "ia3"),
    ("dora[r=2,alpha=3]", "lora[r=3,alpha=5]"),
    ("lora[r=2,alpha=3]", "seq_bn[reduction_factor=2]"),
    (
        "lora[r=2,alpha=3,bias=lora_only,target_modules=[query,value]]",
        "lora[r=2,alpha=3]",
    ),
    (
        "seq_bn_inv[reduction_factor=2]|lora[r=2,alpha=3]",
        "seq_bn_inv[reduction_factor=2]",
    ),
];

fn bench() -> Bench {
    Bench::new(2, 4, 5, &Device::flex())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn branches_are_separate_passes(pair in 0..PAIRS.len(), lengths in prop::collection::vec(1..8usize, 1..5)) {
        let (bench, input) = (bench(), input(&lengths));
        let set = set_of(&bench, PAIRS[pair].0, PAIRS[pair].1);
        let got = output(&bench, &set, &input, Composition::parallel(["a", "b"]));
        let want = ["a", "b"].map(|name| output(&bench, &set, &input, name));
        close(got, Tensor::cat(want.to_vec(), 0))?;
    }

    #[test]
    fn rows_are_what_they_are_alone(
        pair in 0..PAIRS.len(),
        lengths in prop::collection::vec(1..8usize, 2..6),
        cut in 0..5usize,
    ) {
        let (bench, input, rows) = (bench(), input(&lengths), lengths.len());
        let cut = cut % (rows + 1);
        let set = set_of(&bench, PAIRS[pair].0, PAIRS[pair].1);
        let (a, b) = (output(&bench, &set, &input, "a"), output(&bench, &set, &input, "b"));
        let parts = [(&a, 0..cut), (&b, cut..rows)].into_iter().filter(|(_, range)| !range.is_empty());
        let want = Tensor::cat(parts.map(|(x, range)| x.clone().slice_dim(0, range)).collect(), 0);
        let block = Composition::batch_split(["a", "b"], [cut, rows - cut]);
        close(output(&bench, &set, &input, block), want)?;
    }

    #[test]
    fn one_adapter_in_a_block_is_that_adapter(pair in 0..PAIRS.len(), lengths in prop::collection::vec(2..8usize, 1..4)) {
        let (bench, input) = (bench(), input(&lengths));
        let set = set_of(&bench, PAIRS[pair].0, PAIRS[pair].1);
        let alone = output(&bench, &set, &input, "a");
        let run = |block: Composition| output(&bench, &set, &input, block);
        let same = run(Composition::stack(["a"])).into_data();
        prop_assert_eq!(same, alone.clone().into_data());
        let sizes = [1, lengths.len() - 1];
        close(run(Composition::batch_split(["a", "twin"], sizes)), alone.clone())?;
        if PAIRS[pair].0.contains("lora_only") {
            // It changes a layer, of which an average would need several.
            prop_assert!(set.composition(Composition::average(["a", "twin"])).is_err());
            return Ok(());
        }
        // Half of the sum of weights is the factor of the reference: it divides by the number of children once more.
        close(run(Composition::unnormalized_average(["a", "twin"], [1.5, 0.5])), alone)?;
        let half = run(Composition::unnormalized_average(["a"], [0.5]));
        close(run(Composition::average(["a", "twin"])), half)?;
    }

    #[test]
    fn positions_shared_by_twins_are_those_of_one(
        config in prop::sample::select(vec!["lora[r=3,alpha=5]", "ia3", "double_seq_bn", "par_bn", "dora[r=2]"]),
        lengths in prop::collection::vec(2..8usize, 1..4),
        cut in 0..8usize,
    ) {
        let (bench, input) = (bench(), input(&lengths));
        let set = set_of(&bench, config, "lora");
        let [_, seq] = input.ids.dims();
        let cut = cut % (seq + 1);
        let got = output(&bench, &set, &input, Composition::split(["a", "twin"], [cut, seq - cut]));
        close(got, output(&bench, &set, &input, "a"))?;
    }

    #[test]
    fn a_fusion_without_values_of_twins_is_one_of_them(
        config in prop::sample::select(vec!["seq_bn[reduction_factor=2]", "double_seq_bn"]),
        lengths in prop::collection::vec(1..8usize, 1..4),
    ) {
        let (bench, input) = (bench(), input(&lengths));
        let mut set = set_of(&bench, config, config);
        let fixed = FusionConfig::fixed_values();
        fusion::attach(&mut set, &["a", "twin"], fixed, &bench.model, 3, &Device::flex()).unwrap();
        let fused = output(&bench, &set, &input, Composition::fuse(["a", "twin"]));
        let want = output(&bench, &set, &input, "a");
        close(fused, want)?;
    }
}

#[test]
fn parts_of_a_sequence_go_through_their_own_adapter() {
    // Without attention between them, positions would not mix: only what the last layer adds is looked at.
    let (bench, input) = (bench(), input(&[6, 6]));
    let last = "lora[r=3,alpha=5,leave_out=[0],selfattn_lora=false,output_lora=true]";
    let set = set_of(&bench, last, last);
    let (a, b) = (output(&bench, &set, &input, "a"), output(&bench, &set, &input, "b"));
    let got = output(&bench, &set, &input, Composition::split(["a", "b"], [2, 4]));
    let want = Tensor::cat(vec![a.slice_dim(1, 0..2), b.slice_dim(1, 2..6)], 1);
    let error = relative_error(&got.into_data(), &want.into_data());
    assert!(error <= 1e-6, "off by {error:e}");
}

#[test]
fn what_has_no_meaning_is_refused_by_name() {
    let bench = bench();
    let mut set = set_of(&bench, "lora", "seq_bn");
    let attach = |set: &mut AdapterSet, name: &str, config: &str| {
        set.attach(name, method(config).unwrap(), &bench.model, 0, &Device::flex())
            .unwrap();
    };
    attach(&mut set, "norm", "ln_tuning");
    attach(&mut set, "biased", "lora[bias=all,target_modules=[query]]");
    attach(&mut set, "changed", "lora[bias=lora_only,target_modules=[query]]");
    attach(&mut set, "scales", "ia3[attn_matrices=[q,v]]");
    for (block, adapter) in [
        (Composition::batch_split(["a", "norm"], [1, 1]), "norm"),
        (Composition::multi_task(["norm", "a"]), "norm"),
        (Composition::parallel(["biased", "a"]), "biased"),
        (Composition::split(["norm", "a"], [1, 1]), "norm"),
        (Composition::average(["a", "changed"]), "changed"),
        (Composition::average(["a", "scales"]), "scales"),
        (
            Composition::stack(["a".into(), Composition::split(["twin", "scales"], [1, 1])]),
            "scales",
        ),
        (
            Composition::stack([Composition::parallel(["a", "twin"]), Composition::parallel(["b"])]),
            "b",
        ),
    ] {
        let error = set.composition(block.clone()).unwrap_err();
        assert!(
            matches!(&error, Error::BlockNotRunnable { adapter: named, .. } if named == adapter),
            "{block}: {error}"
        );
    }
    // Rows are finished one adapter at a time, so that one may change the layer, in a Stack too.
    let input = input(&[4, 3]);
    let stack = |name: &str| Composition::stack(["a", name]);
    let mixed = Composition::stack(["a".into(), Composition::batch_split(["twin", "changed"], [1, 1])]);
    let got = output(&bench, &set, &input, mixed);
    let rows = ["twin", "changed"].map(|name| output(&bench, &set, &input, stack(name)));
    for (row, want) in rows.into_iter().enumerate() {
        let of = |x: &Tensor<3>| x.clone().slice_dim(0, row..row + 1).into_data();
        let error = relative_error(&of(&got), &of(&want));
        assert!(error <= 1e-5, "row {row} is off by {error:e}");
    }
}

#[test]
fn fusions_are_refused_with_reasons() {
    let bench = bench();
    let mut set = set_of(&bench, "seq_bn[reduction_factor=2]", "double_seq_bn");
    let mut lora = AdapterSet::new();
    lora.attach("lora", method("lora").unwrap(), &bench.model, 0, &Device::flex())
        .unwrap();
    set.insert(lora.remove("lora").unwrap()).unwrap();
    let mut fuse = |names: &[&str]| {
        fusion::attach(
            &mut set,
            names,
            FusionConfig::dynamic(),
            &bench.model,
            0,
            &Device::flex(),
        )
    };
    for (names, part) in [
        (
            vec!["a", "lora"],
            "AdapterFusion needs adapters that add to the residual stream",
        ),
        (vec!["a", "b"], "`b` adapts other modules than `a`"),
        (vec![], "no adapter is named"),
    ] {
        let error = fuse(&names).unwrap_err();
        assert!(matches!(error, Error::CannotFuse { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(matches!(fuse(&["a", "c"]), Err(Error::NoSuchAdapter { .. })));
    fuse(&["a", "twin"]).unwrap();
    assert!(matches!(fuse(&["a", "twin"]), Err(Error::NameTaken { .. })));
    let error = set.composition(Composition::fuse(["twin", "a"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no fusion named `twin,a`; did you mean `a,twin`?; attached: a,twin"
    );
    // Of its adapters one now acts at more sites than the fusion.
    let named = Composition::named_fuse("a,twin", ["a", "b"]);
    let error = set.composition(named).unwrap_err();
    assert!(
        error.to_string().contains("adapts a layer where the fusion has none"),
        "{error}"
    );
    set.activate(Composition::fuse(["a", "twin"])).unwrap();
    assert!(
        set.to_string().contains("a,twin: dynamic fusion of a, twin at 2 sites"),
        "{set}"
    );
    set.remove_fusion("a,twin").unwrap();
    assert!(set.active().is_none());
}

#[test]
fn a_fusion_trains_without_its_adapters_and_is_kept_near_the_identity() {
    let bench = bench();
    let mut set = set_of(&bench, "seq_bn[reduction_factor=2]", "seq_bn[reduction_factor=2]");
    let device = Device::flex();
    fusion::attach(&mut set, &["a", "b"], FusionConfig::dynamic(), &bench.model, 0, &device).unwrap();
    set.activate(Composition::fuse(["a", "b"])).unwrap();
    let mut set = set.train();
    for name in ["a", "b", "twin"] {
        set.set_trainable(name, false).unwrap();
    }
    let fusion_only = set.fusion("a,b").unwrap().num_params();
    assert_eq!(set.num_trainable_params(), fusion_only);
    // 0.01 (1e-6)^2 off the diagonal of two layers of width 8.
    let penalty = |set: &AdapterSet| set.penalty().map(|p| p.into_scalar::<f32>());
    let expected = 2.0 * 0.01 * 56.0 * 1e-12;
    assert!((penalty(&set).unwrap() / expected - 1.0).abs() < 1e-3);
    let loss = output(&bench, &set, &bench.input, Composition::fuse(["a", "b"]))
        .square()
        .sum();
    let gradients = loss.backward();
    let found = adapters_testkit::contract::gradients_of(&set, &gradients);
    for param in set.params() {
        assert_eq!(found[&param.id].is_some(), param.adapter == "a,b", "{}", param.param);
    }
    set.set_trainable("a,b", false).unwrap();
    assert_eq!((penalty(&set), set.num_trainable_params()), (None, 0));
}

#[test]
fn a_temperature_cools_with_the_passes() {
    let bench = bench();
    let mut set = set_of(&bench, "seq_bn[reduction_factor=2]", "seq_bn[reduction_factor=2]");
    let config = FusionConfig {
        temperature: Temperature::Falling,
        ..FusionConfig::dynamic()
    };
    fusion::attach(&mut set, &["a", "b"], config, &bench.model, 0, &Device::flex()).unwrap();
    // Scores large enough to tell temperatures apart.
    let set = randomized(set, 5);
    let active = set.composition(Composition::fuse(["a", "b"])).unwrap();
    let sharpest = |passes: u64| {
        let mut cx = Ctx::with_composition(&set, &active)
            .unwrap()
            .after_passes(passes)
            .recording();
        bench.model.forward(bench.input.clone(), &mut cx).unwrap();
        let records = cx.records();
        assert_eq!(records.len(), 2, "one a layer");
        let Recorded::FusionAttention { fusion, scores } = &records[0].value else {
            panic!("not the attention of a fusion: {:?}", records[0]);
        };
        assert_eq!((fusion.as_str(), records[0].site.role), ("a,b", Role::AfterFfn));
        scores.clone().max().into_scalar::<f32>()
    };
    let (start, half, end) = (sharpest(0), sharpest(500), sharpest(980));
    assert!(start < half && half < end, "{start} {half} {end}");
    // 50 - 0.05 * 980 = 1, and no colder.
    assert_eq!(end, sharpest(5000));
}

#[test]
fn shares_that_do_not_fit_are_refused_before_the_pass() {
    let bench = bench();
    let set = set_of(&bench, "lora", "lora");
    let check = |block: Composition, tasks: Option<usize>| {
        let active = set.composition(block).unwrap();
        let cx = Ctx::with_composition(&set, &active).unwrap();
        let mut cx = cx.with_tasks((0..tasks.unwrap_or(0)).map(|_| Some(0))).unwrap();
        bench.model.forward(input(&[5, 5, 5]), &mut cx).map(|_| ())
    };
    let split = |a, b| Composition::batch_split(["a", "b"], [a, b]);
    assert!(check(split(1, 2), None).is_ok());
    let error = check(split(2, 2), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`BatchSplit(a, b, batch_sizes=[2, 2])` covers 4 rows, but the input has 3"
    );
    let nested = Composition::split([split(1, 1), "a".into()], [2, 3]);
    assert!(matches!(
        check(nested, None),
        Err(Error::WrongSizes {
            what: "rows",
            assigned: 2,
            found: 3,
            ..
        })
    ));
    assert!(check(Composition::split(["a", "b"], [2, 3]), None).is_ok());
    assert!(matches!(
        check(Composition::split(["a", "b"], [2, 4]), None),
        Err(Error::WrongSizes { what: "positions", .. })
    ));
    assert!(check(Composition::multi_task(["a", "b"]), Some(3)).is_ok());
    for tasks in [None, Some(2)] {
        let error = check(Composition::multi_task(["a", "b"]), tasks).unwrap_err();
        assert!(matches!(error, Error::WrongSizes { .. }), "{error}");
    }
}

#[test]
fn borrowed_parameters_follow_their_owner() {
    let bench = bench();
    let mut set = set_of(&bench, "mtl_lora", "mtl_lora");
    set.tie_parameters("a", &["b"]).unwrap();
    let values = randomized(set.clone(), 29).get("a").unwrap().values();
    set.put_values("a", values.clone()).unwrap();
    let of_borrower = set.get("b").unwrap().values();
    for (key, value) in &values {
        let is_borrowed = key.1.starts_with("lora_");
        assert_eq!(of_borrower[key] == *value, is_borrowed, "{key:?}");
    }
}

#[test]
fn one_base_serves_two_sets_at_once() {
    let bench = bench();
    let base = std::sync::Arc::new(bench.model.clone());
    let sets = ["lora[r=3,alpha=5]", "seq_bn_inv[reduction_factor=2]"].map(|config| {
        let set = bench.attach_random(config);
        let alone = bench.output(&set);
        (set, alone)
    });
    let barrier = std::sync::Barrier::new(sets.len());
    std::thread::scope(|scope| {
        for (set, alone) in &sets {
            let (base, input, barrier) = (base.clone(), bench.input.clone(), &barrier);
            scope.spawn(move || {
                barrier.wait();
                for pass in 0..8 {
                    let got = base.forward(input.clone(), &mut Ctx::new(set)).unwrap().into_data();
                    assert_eq!(&got, alone, "pass {pass}");
                }
            });
        }
    });
    assert_ne!(sets[0].1, sets[1].1);
}

#[test]
fn switching_changes_no_weight() {
    let bench = bench();
    let mut set = set_of(&bench, "lora", "seq_bn");
    let ids = |set: &AdapterSet| set.params().map(|p| p.id).collect::<Vec<_>>();
    let layers = |set: &AdapterSet| {
        let layers = set.iter().flat_map(|a| a.layers().map(|l| &raw const l.layer));
        layers.collect::<Vec<*const SiteLayer>>()
    };
    let (params, layers_before, before) = (ids(&set), layers(&set), set.num_params());
    for block in [
        "a",
        "Stack(a, b)",
        "Parallel(a, twin)",
        "BatchSplit(a, b, batch_sizes=[1, 2])",
    ] {
        set.activate(block.parse::<Composition>().unwrap()).unwrap();
        assert_eq!(
            (ids(&set), layers(&set), set.num_params()),
            (params.clone(), layers_before.clone(), before)
        );
    }
    set.deactivate();
    assert_eq!(layers(&set), layers_before);
}
