//! What is refused before a hook runs: stale compositions, other models, inputs that do not fit; and finishers.

use std::borrow::Cow;

use adapters_core::{
    AttachedLayer, Call, Causality, Composition, Ctx, Effect, Erased, Error, Finisher, LinearState, NamedParams, Role,
    SiteAdapter, SiteLayer, Sited, Source,
};
use adapters_nn::ops;
use burn::module::{Module, Param, ParamId};
use burn::nn::LinearConfig;
use burn::tensor::Tensor;

use crate::toy::{Bench, D, Mine};

/// A model that hands its hooks other rows than those of its batch.
#[test]
#[should_panic(expected = "a model begins a pass with `Ctx::begin`")]
fn hooks_get_the_rows_of_the_batch() {
    let bench = Bench::new()
        .with("a", &[Role::Query], 0.5)
        .with("b", &[Role::Query], 3.0);
    let active = bench.set.composition(Composition::parallel(["a", "b"])).unwrap();
    let mut cx = Ctx::with_composition(&bench.set, &active).unwrap();
    let (hooks, _) = cx.begin(&bench.model, bench.x.clone()).unwrap();
    hooks.linear(&bench.model.query, bench.x.clone());
}

fn is_stale(result: Result<Ctx<'_>, Error>) -> bool {
    matches!(result, Err(Error::StaleComposition { composition }) if composition == "a")
}

#[test]
fn a_composition_is_checked_against_one_state_of_one_set() {
    let mut bench = Bench::new().with("a", &[Role::Query], 0.5);
    let other = Bench::new().with("a", &[Role::Query], 3.0);
    let of_other = other.set.composition("a").unwrap();
    assert!(is_stale(Ctx::with_composition(&bench.set, &of_other)));
    // A copy is the same until one of the two is changed.
    let active = bench.set.composition("a").unwrap();
    let mut copy = bench.set.clone();
    assert!(Ctx::with_composition(&copy, &active).is_ok());
    let removed = copy.remove("a").unwrap();
    assert!(is_stale(Ctx::with_composition(&copy, &active)));
    assert!(Ctx::with_composition(&bench.set, &active).is_ok());
    bench.set.replace("a", removed).unwrap();
    assert!(is_stale(Ctx::with_composition(&bench.set, &active)));
    let active = bench.set.composition("a").unwrap();
    let bench = bench.with("b", &[Role::Query], 3.0);
    assert!(is_stale(Ctx::with_composition(&bench.set, &active)));
}

#[test]
fn an_active_composition_is_checked_again_when_an_adapter_is_replaced() {
    let mut bench = Bench::new()
        .with("a", &[Role::Query], 0.5)
        .with("b", &[Role::Query], 3.0);
    let average = Composition::average(["a", "b"]);
    bench.set.activate(average.clone()).unwrap();
    let before = bench.output(average.clone());
    let stronger = Bench::new().with("a", &[Role::Query], 2.0).set.remove("a").unwrap();
    bench.set.replace("a", stronger).unwrap();
    assert!(bench.set.active().is_some());
    let run = |bench: &Bench| {
        let mut cx = Ctx::new(&bench.set);
        bench.model.forward(bench.x.clone(), &mut cx).unwrap().into_data()
    };
    assert_ne!(run(&bench), before);
    assert_eq!(run(&bench), bench.output(average));
    // Keys and values have no mean.
    let unfit = Bench::new().with("a", &[Role::KeyValue], 2.0).set.remove("a").unwrap();
    bench.set.replace("a", unfit).unwrap();
    assert!(bench.set.active().is_none());
    assert_eq!(run(&bench), bench.plain());
}

#[test]
fn a_set_of_one_model_is_refused_on_another() {
    let bench = Bench::new().with("a", &[Role::KeyValue], 0.5);
    let active = bench.set.composition("a").unwrap();
    let begun = |model: &Mine| {
        let mut cx = Ctx::with_composition(&bench.set, &active).unwrap();
        cx.begin(model, bench.x.clone()).map(|_| ())
    };
    assert!(begun(&bench.model).is_ok());
    let mut wider = bench.model.clone();
    let layer = LinearConfig::new(D, D + 1).init(&bench.device);
    wider.up = Sited::at(wider.up.info().clone(), layer);
    let error = begun(&wider).unwrap_err();
    assert!(
        matches!(&error, Error::OtherModel { adapter, .. } if adapter == "a"),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "adapter `a` was attached to another model: expected 6 input and 6 output features at encoder.0.ffn_up, found 6 \
         input and 7 output features at encoder.0.ffn_up"
    );
}

#[test]
fn inputs_that_the_composition_does_not_fit_are_refused() {
    let bench = Bench::new()
        .with("a", &[Role::Query], 0.5)
        .with("b", &[Role::Query], 3.0);
    for (block, what) in [
        (Composition::batch_split(["a", "b"], [2, 1]), "rows"),
        (Composition::split(["a", "b"], [2, 2]), "positions"),
        (Composition::multi_task(["a", "b"]), "rows with a task"),
    ] {
        let active = bench.set.composition(block).unwrap();
        let mut cx = Ctx::with_composition(&bench.set, &active).unwrap();
        let error = bench.model.forward(bench.x.clone(), &mut cx).unwrap_err();
        assert!(
            matches!(&error, Error::WrongSizes { what: named, .. } if *named == what),
            "{error:?}"
        );
    }
}

/// A method author's layer with a finisher: the frozen layer's output times two, whatever the delta.
#[derive(Module, Debug)]
struct Doubled {
    unused: Param<Tensor<1>>,
}

impl NamedParams for Doubled {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![("unused".into(), self.unused.id)]
    }
}

impl SiteAdapter<LinearState> for Doubled {
    fn apply(&self, state: LinearState, _: &Call<'_>) -> LinearState {
        state
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn finisher(&self) -> Option<&dyn Finisher<LinearState>> {
        Some(self)
    }
}

impl Finisher<LinearState> for Doubled {
    fn finish(&self, state: LinearState, _: &Call<'_>) -> Tensor<3> {
        ops::linear(&state.layer, state.input) * 2.0
    }
}

#[test]
fn a_finisher_runs_wherever_its_adapter_is_the_last() {
    let mut bench = Bench::new()
        .with("a", &[Role::FfnUp], 0.5)
        .with("b", &[Role::FfnUp], 0.5);
    let attached = bench.set.get("b").unwrap().clone();
    let info = attached.layers().next().unwrap().info.clone();
    let layer = Doubled {
        unused: Param::from_data([0.0], &bench.device),
    };
    let layer = SiteLayer::Linear(Erased::new(layer));
    let doubled = attached.reformed(attached.method().clone(), vec![AttachedLayer { info, layer }]);
    bench.set.replace("b", doubled).unwrap();
    let run = |block: Composition| {
        let active = bench.set.composition(block).unwrap();
        let mut cx = Ctx::with_composition(&bench.set, &active).unwrap();
        let (hooks, x) = cx.begin(&bench.model, bench.x.clone()).unwrap();
        hooks.linear(&bench.model.up, x)
    };
    let row = |x: &Tensor<3>, row: usize| x.clone().slice_dim(0, row..row + 1).into_data();
    let (a, b) = (run("a".into()), run("b".into()));
    let want = ops::linear(&bench.model.up, bench.x.clone()) * 2.0;
    assert_eq!(b.to_data(), want.into_data());
    assert_eq!(run(Composition::stack(["a", "b"])).into_data(), b.to_data());
    let split = run(Composition::batch_split(["a", "b"], [1, 1]));
    assert_eq!((row(&split, 0), row(&split, 1)), (row(&a, 0), row(&b, 1)));
    let nested = Composition::stack([Composition::batch_split(["a", "b"], [1, 1]), "a".into()]);
    let last = run(nested);
    // The last adapter has no finisher.
    assert_eq!(row(&last, 1), row(&run("a".into()), 1));
}
