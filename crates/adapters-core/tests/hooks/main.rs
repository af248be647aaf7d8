//! Bring your own model: what its hooks do, and what is refused before they are called.

mod proofs;
mod toy;

use std::sync::Arc;

use adapters_core::{
    AdapterSet, Composition, Ctx, EmbeddingState, Error, HiddenState, HookState, Join, KeyValueState, LinearState,
    OutputState, Role, SiteLayer,
};
use burn::module::{Module, Param, ParamId};
use burn::nn::{LayerNorm, LayerNormConfig, LinearConfig};
use burn::tensor::{Bool, Device, Distribution, Tensor, TensorData};

use crate::toy::{Bench, ROLES, toy};

#[test]
fn each_hook_acts_and_trains() {
    for role in ROLES {
        let bench = Bench::new().with("a", &[role], 0.5);
        assert_ne!(bench.output("a"), bench.plain(), "{role}");
        let mut set = bench.set.train();
        set.activate("a").unwrap();
        let loss = bench
            .model
            .forward(bench.x, &mut Ctx::new(&set))
            .unwrap()
            .square()
            .sum();
        let gradients = loss.backward();
        let id = set.params().next().unwrap().id;
        let layer = set.get("a").unwrap().layers().next().unwrap();
        let gradient = gradient_of(&layer.layer, id, &gradients);
        assert!(
            gradient.is_some_and(|g| g != 0.0 && g.is_finite()),
            "{role}: {gradient:?}"
        );
    }
}

fn gradient_of(layer: &SiteLayer, id: ParamId, gradients: &burn::tensor::Gradients) -> Option<f32> {
    struct Find<'a>(ParamId, &'a burn::tensor::Gradients, Option<f32>);
    impl burn::module::ModuleVisitor for Find<'_> {
        fn visit_float<const N: usize>(&mut self, param: &Param<Tensor<N>>) {
            if param.id == self.0 {
                self.2 = param.val().grad(self.1).map(|g| g.sum().into_scalar());
            }
        }
    }
    let mut find = Find(id, gradients, None);
    layer.visit(&mut find);
    find.2
}

#[test]
fn a_stack_applies_in_order() {
    for role in ROLES {
        let bench = Bench::new().with("a", &[role], 0.5).with("b", &[role], 3.0);
        assert_ne!(
            bench.output(Composition::stack(["a", "b"])),
            bench.output(Composition::stack(["b", "a"])),
            "{role}"
        );
        assert_eq!(bench.output(Composition::stack(["a"])), bench.output("a"), "{role}");
        // An adapter that has no layer at a site passes the state on.
        let bench = bench.with(
            "elsewhere",
            &ROLES.into_iter().filter(|r| *r != role).take(1).collect::<Vec<_>>(),
            1.0,
        );
        assert_ne!(
            bench.output(Composition::stack(["elsewhere", "a"])),
            bench.output("a"),
            "{role}"
        );
    }
    // Where a sequence is changed as a whole only the first acts: 0.5 x + 1.
    let bench = Bench::new()
        .with("a", &[Role::LayerOutput], 0.5)
        .with("b", &[Role::LayerOutput], 3.0);
    let x = Tensor::<3>::from_data(bench.plain(), &bench.device);
    let expected = (x * 0.5 + 1.0).into_data();
    assert_eq!(bench.output(Composition::stack(["a", "b"])), expected);
    // Everywhere else all act, 3 (0.5 u + 1) + 1 for the block's output u. The last hook adds its input x to it, and both
    // follow from u + x and 0.5 u + 1 + x.
    let bench = Bench::new()
        .with("a", &[Role::AfterFfn], 0.5)
        .with("b", &[Role::AfterFfn], 3.0);
    let tensor = |data| Tensor::<3>::from_data(data, &bench.device);
    let (plain, a) = (tensor(bench.plain()), tensor(bench.output("a")));
    let u = (plain.clone() - a + 1.0) * 2.0;
    let expected = (plain - u.clone() + (u * 0.5 + 1.0) * 3.0 + 1.0).into_data();
    bench
        .output(Composition::stack(["a", "b"]))
        .assert_approx_eq::<f32>(&expected, burn::tensor::Tolerance::absolute(1e-4));
}

#[test]
fn what_is_not_active_does_nothing() {
    let mut bench = Bench::new().with("a", &ROLES, 0.5);
    let run = |bench: &Bench| {
        bench
            .model
            .forward(bench.x.clone(), &mut Ctx::new(&bench.set))
            .unwrap()
            .into_data()
    };
    assert_eq!(run(&bench), bench.plain());
    bench.set.activate("a").unwrap();
    assert_eq!(run(&bench), bench.output("a"));
    assert_ne!(run(&bench), bench.plain());
    bench.set.deactivate();
    assert_eq!(run(&bench), bench.plain());
    bench.set.activate("a").unwrap();
    bench.set.remove("a").unwrap();
    assert!(bench.set.active().is_none());
    assert_eq!(run(&bench), bench.plain());
}

#[test]
fn a_block_that_does_not_run_is_refused_at_activation() {
    let mut bench = Bench::new().with("a", &ROLES, 0.5).with("b", &ROLES, 3.0);
    bench.set.activate("b").unwrap();
    // Keys and values have neither a mean nor parts along the sequence.
    for block in [Composition::average(["a", "b"]), Composition::split(["a", "b"], [1, 2])] {
        let error = bench.set.activate(block.clone()).unwrap_err();
        assert!(
            matches!(&error, Error::BlockNotRunnable { block: named, adapter, .. }
                if *named == block.to_string() && adapter == "a"),
            "{error:?}"
        );
    }
    let error = bench.set.activate(Composition::fuse(["a", "b"])).unwrap_err();
    assert!(
        matches!(&error, Error::NoSuchFusion { name, .. } if name == "a,b"),
        "{error:?}"
    );
    // What was active still is.
    assert_eq!(bench.set.active().unwrap().to_string(), "b");
    assert!(matches!(
        bench.set.activate(Composition::Stack(vec![])),
        Err(Error::Composition(_))
    ));
}

/// The outputs of a composition of adapters at `role`, row by row.
fn rows_of(bench: &Bench, composition: Composition) -> Vec<TensorData> {
    let output = Tensor::<3>::from_data(bench.output(composition), &bench.device);
    let [rows, ..] = output.dims();
    (0..rows)
        .map(|row| output.clone().slice_dim(0, row..row + 1).into_data())
        .collect()
}

#[test]
fn rows_are_shared_out_at_every_hook() {
    for role in ROLES {
        let bench = Bench::new()
            .with("a", &[role], 0.5)
            .with("b", &[role], 3.0)
            .with("elsewhere", &[Role::Query], 2.0);
        let (a, b) = (rows_of(&bench, "a".into()), rows_of(&bench, "b".into()));
        let plain = rows_of(&bench, "elsewhere".into());
        let close = |got: &[TensorData], want: &[&TensorData]| {
            assert_eq!(got.len(), want.len(), "{role}");
            for (got, want) in got.iter().zip(want) {
                got.assert_approx_eq::<f32>(want, burn::tensor::Tolerance::absolute(1e-5));
            }
        };
        let split = rows_of(&bench, Composition::batch_split(["b", "a"], [1, 1]));
        close(&split, &[&b[0], &a[1]]);
        // One that has no layer here leaves its rows alone.
        let split = rows_of(&bench, Composition::batch_split(["a", "elsewhere"], [1, 1]));
        close(&split, &[&a[0], &plain[1]]);
        let nested = Composition::stack([Composition::batch_split(["b", "a"], [1, 1])]);
        close(&rows_of(&bench, nested), &[&b[0], &a[1]]);
        let branches = rows_of(&bench, Composition::parallel(["a", "b"]));
        close(&branches, &[&a[0], &a[1], &b[0], &b[1]]);
    }
}

#[test]
fn slips_are_answered_with_the_nearest_name() {
    let mut bench = Bench::new().with("sentiment", &ROLES, 0.5);
    for error in [
        bench.set.activate("sentimant").unwrap_err(),
        bench
            .set
            .activate(Composition::stack(["sentiment", "sentimant"]))
            .unwrap_err(),
        bench.set.set_trainable("sentimant", false).unwrap_err(),
        bench.set.remove("sentimant").unwrap_err(),
        bench.set.attached("sentimant").unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::NoSuchAdapter { nearest: Some(near), .. } if near == "sentiment"),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            "no adapter named `sentimant`; did you mean `sentiment`?; attached: sentiment"
        );
    }
    let error = AdapterSet::new().attached("sentiment").unwrap_err();
    assert_eq!(error.to_string(), "no adapter named `sentiment`; attached: none");
    let method = toy(&[Role::Query], 1.0);
    let error = bench
        .set
        .attach("sentiment", method, &bench.model, 0, &bench.device)
        .unwrap_err();
    assert!(
        matches!(&error, Error::NameTaken { name } if name == "sentiment"),
        "{error:?}"
    );
    // Dots end up as underscores in module paths.
    let mut bench = bench.with("a.b", &[Role::Query], 1.0);
    let method = toy(&[Role::Query], 1.0);
    let clash = bench.set.attach("a_b", method, &bench.model, 0, &bench.device);
    assert!(matches!(clash, Err(Error::NameTaken { .. })), "{clash:?}");
    let method = toy(&[Role::Pooler], 1.0);
    let error = bench
        .set
        .attach("new", method, &bench.model, 0, &bench.device)
        .unwrap_err();
    assert!(
        matches!(&error, Error::NoTarget { target, .. } if target == "pooler"),
        "{error:?}"
    );
    assert!(error.to_string().contains("mine"), "{error}");
    assert!(bench.set.get("new").is_none());
}

/// Rows cut out and joined again are the rows there were.
fn round_trip<S: HookState>(state: &S, data: impl Fn(&S) -> Vec<TensorData>) {
    let rows = state.rows();
    assert_eq!(rows, 3);
    let parts = vec![state.take_rows(&[0]), state.take_rows(&[1, 2])];
    assert_eq!((parts[0].rows(), parts[1].rows()), (1, 2));
    assert_eq!(data(&S::join_rows(parts)), data(state));
    let twice = S::join_rows(vec![state.clone(), state.clone()]);
    assert_eq!(twice.rows(), 2 * rows);
    assert_eq!(data(&twice.take_rows(&[0, 1, 2])), data(state));
    assert_eq!(data(&twice.take_rows(&[3, 4, 5])), data(state));
    assert_ne!(data(&state.take_rows(&[0])), data(&state.take_rows(&[1])));
}

#[test]
fn rows_of_every_state_round_trip() {
    let device = Device::flex();
    let three = || Tensor::<3>::random([3, 2, 4], Distribution::Normal(0.0, 1.0), &device);
    let four = || Tensor::<4>::random([3, 2, 5, 4], Distribution::Normal(0.0, 1.0), &device);
    let mask = || {
        let rows = [[false, false], [false, true], [true, true]];
        Some(Tensor::<2, Bool>::from_data(TensorData::from(rows), &device))
    };
    let bools = |mask: &Option<Tensor<2, Bool>>| mask.iter().map(|m| m.clone().into_data()).collect::<Vec<_>>();
    let of = |t: &Tensor<3>| t.clone().into_data();

    for delta in [None, Some(three())] {
        round_trip(
            &LinearState {
                input: three(),
                layer: LinearConfig::new(4, 4).init(&device),
                delta,
                tokens: None,
                earlier: None,
            },
            |s| [of(&s.input)].into_iter().chain(s.delta.iter().map(of)).collect(),
        );
    }
    for norm in [None, Some(LayerNormConfig::new(4).init(&device))] {
        let has_norm = norm.is_some();
        let join = norm.map_or(Join::Sum, |norm: LayerNorm| Join::NormOfSum(Arc::new(norm)));
        round_trip(
            &HiddenState {
                hidden: three(),
                block: three(),
                residual: three(),
                input: None,
                inner: None,
                join,
                fused: true,
                addition: Some(three()),
            },
            |s| {
                assert_eq!(matches!(s.join, Join::NormOfSum(_)), has_norm);
                vec![of(&s.hidden), of(&s.residual), of(&s.addition.clone().unwrap())]
            },
        );
    }
    for bias in [
        None,
        Some(four().slice_dim(1, 0..1).slice_dim(3, 0..1).repeat_dim(3, 5)),
    ] {
        round_trip(
            &KeyValueState::new(four(), four(), three())
                .with_bias(bias)
                .with_filler(1),
            |s| {
                let tensors = [Some(s.key.clone()), Some(s.value.clone()), s.bias.clone()];
                let data = tensors.into_iter().flatten().map(Tensor::into_data);
                data.chain([of(&s.input)]).collect()
            },
        );
    }
    for padding in [None, mask()] {
        round_trip(&EmbeddingState::new(three(), padding), |s| {
            let mut data = bools(&s.padding);
            data.push(of(&s.hidden));
            data
        });
    }
    for padding in [None, mask()] {
        let hidden = three();
        round_trip(
            &OutputState {
                hidden,
                padding,
                carried: None,
            },
            |s| {
                let mut data = bools(&s.padding);
                data.push(of(&s.hidden));
                data
            },
        );
    }
}
