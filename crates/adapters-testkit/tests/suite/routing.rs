//! Routers over LoRAs: Arrow and X-LoRA.

use adapters::core::{AnyMethod, Format};
use adapters::lora::{Arrow, Xlora, subtract_general};
use adapters::models::TextInput;
use adapters::store::{LoadOptions, load_adapter, save_adapter};
use adapters::{AdapterSet, Composition, Ctx, Error, METHODS, method};
use adapters_testkit::contract::{Bench, gradients_of, randomized, relative_error};
use burn::module::Module;
use burn::tensor::{Device, TensorData};

const LORA: &str = "lora[r=3,alpha=5,target_modules=[query,output.dense]]";

fn bench() -> Bench {
    Bench::new(2, 4, 11, &Device::flex())
}

/// LoRAs `a`, `b` and `twin`, which is the same as `a`.
fn set_of(bench: &Bench) -> AdapterSet {
    let mut set = AdapterSet::new();
    for name in ["a", "b", "twin"] {
        let config = method(LORA).unwrap();
        set.attach(name, config, &bench.model, 4, &Device::flex()).unwrap();
    }
    let mut set = randomized(set, 13);
    let values = set.get("a").unwrap().values();
    set.put_values("twin", values).unwrap();
    set
}

fn arrow(adapters: [&str; 2], top_k: usize) -> AnyMethod {
    let mut arrow = Arrow::new(adapters);
    arrow.top_k = top_k;
    AnyMethod::new(arrow).unwrap()
}

fn xlora(adapters: [&str; 2], change: impl Fn(&mut Xlora)) -> AnyMethod {
    let mut xlora = Xlora::default();
    xlora.adapters = adapters
        .iter()
        .map(|name| ((*name).to_owned(), String::new()))
        .collect();
    change(&mut xlora);
    AnyMethod::new(xlora).unwrap()
}

/// A set with a router `r` that is active.
fn routed(bench: &Bench, router: AnyMethod) -> AdapterSet {
    let mut set = set_of(bench);
    set.attach("r", router, &bench.model, 4, &Device::flex()).unwrap();
    set.activate("r").unwrap();
    set
}

fn alone(bench: &Bench, name: &str) -> TensorData {
    let mut set = set_of(bench);
    set.activate(name).unwrap();
    bench.output(&set)
}

#[test]
fn a_mixture_of_equal_adapters_is_one_of_them() {
    let bench = bench();
    let a = alone(&bench, "a");
    for (router, factor) in [
        (arrow(["a", "twin"], 2), 1.0),
        (arrow(["a", "twin"], 5), 1.0),
        (xlora(["a", "twin"], |_| {}), 1.0),
        (xlora(["a", "twin"], |x| x.xlora_depth = 3), 1.0),
        (xlora(["a", "twin"], |x| x.layerwise_scalings = true), 1.0),
        (
            xlora(["a", "twin"], |x| {
                (x.top_k_lora, x.enable_softmax_topk) = (Some(1), true)
            }),
            1.0,
        ),
        (xlora(["a", "twin"], |x| x.global_scaling_weight = 1.5), 1.5),
    ] {
        let text = format!("{router:?}");
        let error = relative_error(&bench.output(&routed(&bench, router)), &a);
        assert_eq!(error < 1e-5, factor == 1.0, "{text}: {error:e}");
    }
    // Of different ones it is neither.
    for router in [arrow(["a", "b"], 1), arrow(["a", "b"], 2), xlora(["a", "b"], |_| {})] {
        let output = bench.output(&routed(&bench, router));
        for name in ["a", "b"] {
            assert!(relative_error(&output, &alone(&bench, name)) > 1e-3);
        }
    }
}

#[test]
fn what_all_have_in_common_is_taken_out() {
    let bench = bench();
    let mut set = set_of(&bench);
    // Of an adapter that is the mean itself nothing is left.
    subtract_general(&mut set, &["twin"], &["a"]).unwrap();
    set.activate("twin").unwrap();
    assert_eq!(bench.output(&set), bench.plain());
    assert!(matches!(
        subtract_general(&mut set, &["b"], &[]),
        Err(Error::CannotFuse { .. })
    ));
}

#[test]
fn the_classifier_trains_and_its_adapters_where_it_is_said() {
    let bench = bench();
    for trained in [false, true] {
        let set = routed(
            &bench,
            xlora(["a", "b"], |x| {
                (x.use_trainable_adapters, x.xlora_depth, x.layerwise_scalings) = (trained, 2, true);
            }),
        );
        let set = set.train();
        let mut cx = Ctx::new(&set);
        let output = bench
            .model
            .forward(TextInput::new(bench.input.ids.clone()), &mut cx)
            .unwrap();
        let gradients = gradients_of(&set, &output.powi_scalar(3).sum().backward());
        let moved = |data: &Option<TensorData>| data.as_ref().is_some_and(|data| data.iter::<f32>().any(|x| x != 0.0));
        for param in set.fusion("r").unwrap().params() {
            assert!(moved(&gradients[&param.id]), "{}", param.param);
        }
        for param in set.attached("a").unwrap().params() {
            assert_eq!(gradients.get(&param.id).is_some_and(moved), trained, "{}", param.param);
        }
    }
}

#[test]
fn x_lora_is_saved_next_to_its_adapters_and_generates_without_a_cache() {
    let bench = bench();
    let set = routed(&bench, xlora(["a", "b"], |x| (x.xlora_depth, x.xlora_size) = (2, 6)));
    assert!(!Ctx::new(&set).is_causal());
    assert!(Ctx::new(&routed(&bench, arrow(["a", "b"], 1))).is_causal());
    let dir = tempfile::tempdir().unwrap();
    save_adapter(dir.path(), Format::Peft, &set, "r", &bench.model).unwrap();
    assert!(save_adapter(dir.path(), Format::AdapterHub, &set, "r", &bench.model).is_err());
    let options = LoadOptions {
        name: Some("r".to_owned()),
        ..LoadOptions::default()
    };
    let load = |set: &mut AdapterSet| load_adapter(dir.path(), set, &bench.model, &METHODS, &options, &Device::flex());
    let mut loaded = set_of(&bench);
    load(&mut loaded).unwrap();
    loaded.activate("r").unwrap();
    assert_eq!(bench.output(&loaded), bench.output(&set));
    let error = load(&mut AdapterSet::new()).unwrap_err().to_string();
    assert!(error.contains("`a`"), "{error}");
}

#[test]
fn what_cannot_be_routed_is_refused() {
    let bench = bench();
    let mut set = set_of(&bench);
    let bottleneck = method("seq_bn[reduction_factor=4]").unwrap();
    set.attach("bottleneck", bottleneck, &bench.model, 4, &Device::flex())
        .unwrap();
    let other = method("lora[r=3,target_modules=[key]]").unwrap();
    set.attach("other", other, &bench.model, 4, &Device::flex()).unwrap();
    for router in [
        arrow(["a", "bottleneck"], 1),
        arrow(["a", "other"], 1),
        xlora(["a", "bottleneck"], |_| {}),
    ] {
        let error = set.attach("r", router, &bench.model, 4, &Device::flex()).unwrap_err();
        assert!(matches!(error, Error::CannotFuse { .. }), "{error}");
    }
    let none = AnyMethod::new(Xlora::default()).unwrap();
    assert!(matches!(
        set.attach("r", none, &bench.model, 4, &Device::flex()),
        Err(Error::CannotFuse { .. })
    ));
    let unknown = set.attach("r", arrow(["a", "c"], 1), &bench.model, 4, &Device::flex());
    assert!(matches!(unknown, Err(Error::NoSuchAdapter { .. })));
    let tied = xlora_error(|x| (x.scaling_pass_value, x.top_k_lora) = (0.5, Some(1)));
    assert!(tied.contains("scaling_pass_value"), "{tied}");

    set.attach("r", xlora(["a", "b"], |_| {}), &bench.model, 4, &Device::flex())
        .unwrap();
    let turned = Composition::named_fuse("r", ["b", "a"]);
    assert!(matches!(set.activate(turned), Err(Error::BlockNotRunnable { .. })));
    let inside = Composition::parallel([Composition::named_fuse("r", ["a", "b"]), "twin".into()]);
    assert!(set.activate(inside).is_err());
}

fn xlora_error(change: impl Fn(&mut Xlora)) -> String {
    let mut xlora = Xlora::default();
    change(&mut xlora);
    let error = AnyMethod::new(xlora).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}
