//! Bring your own model: a user-written Burn model with every hook, and a toy method with a layer for each.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use adapters_core::target::Target;
use adapters_core::{
    AdapterSet, Build, Call, Composition, Ctx, EmbeddingHook, EmbeddingRole, EmbeddingState, Erased, Error, Format,
    HiddenState, HookState, Host, KeyValueHook, KeyValueState, LinearRole, LinearState, Location, Method, NamedParams,
    OutputHook, OutputState, Point, ResidualHook, ResidualRole, Role, Site, SiteAdapter, SiteInfo, SiteKind, SiteLayer,
    Sited, Sites, Stack, Up,
};
use adapters_nn::ops;
use burn::module::{Module, Param, ParamId};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Distribution, Tensor, TensorData};
use serde_json::{Map, Value};

// The model: one attention layer.

const D: usize = 6;
const HEADS: usize = 2;
const EMBEDDING: Site = Site::outside(Stack::Encoder, Role::Embedding);
const fn at(role: Role) -> Site {
    Site::new(Stack::Encoder, 0, role)
}

#[derive(Module, Sites, Debug)]
struct Mine {
    embedding: Point<EmbeddingHook>,
    query: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    after_attention: Point<ResidualHook>,
    up: Sited<Linear>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    norm: LayerNorm,
}

impl Mine {
    fn new(linear: impl Fn() -> Linear, norm: LayerNorm) -> Self {
        let (outside, layer) = (Location::outside(Stack::Encoder), Location::layer(Stack::Encoder, 0));
        let residual = |role, path| Point::residual(layer, role, path, D);
        Self {
            embedding: Point::embedding(outside, EmbeddingRole::Embedding, "embedding", D),
            query: Sited::new(layer, LinearRole::Query, "layer.0.query", linear()),
            key_value: Point::key_value(layer, "layer.0", HEADS, D / HEADS),
            after_attention: residual(ResidualRole::AfterAttention, "layer.0.attention"),
            up: Sited::new(layer, LinearRole::FfnUp, "layer.0.up", linear()),
            after_ffn: residual(ResidualRole::AfterFfn, "layer.0.ffn"),
            output: Point::layer_output(layer, "layer.0", D),
            norm,
        }
    }

    fn forward(&self, x: Tensor<3>, cx: &mut Ctx<'_>) -> Tensor<3> {
        let state = EmbeddingState::new(x.repeat_dim(0, cx.replicas()), None);
        let x = cx.embedding(EMBEDDING, state).hidden;
        let heads = |x: Tensor<3>| {
            let [batch, seq, _] = x.dims();
            x.reshape([batch, seq, HEADS, D / HEADS]).swap_dims(1, 2)
        };
        let query = cx.linear(at(Role::Query), &self.query, x.clone());
        let state = KeyValueState::new(heads(x.clone()), heads(x.clone()), x.clone());
        let kv = cx.key_value(at(Role::KeyValue), state);
        let attended = ops::attention(heads(query), kv.key, kv.value, None, None);
        let [batch, _, seq, _] = attended.dims();
        let attended = attended.swap_dims(1, 2).reshape([batch, seq, D]);
        let x = cx.hidden(at(Role::AfterAttention), attended, x, Some(&self.norm));
        let up = cx.linear(at(Role::FfnUp), &self.up, x.clone()).tanh();
        let x = cx.hidden(at(Role::AfterFfn), up, x, None);
        cx.output(at(Role::LayerOutput), x)
    }
}

impl Host for Mine {
    fn architecture(&self) -> &str {
        "mine"
    }

    fn d_model(&self) -> usize {
        D
    }
}

// The method: at every kind of site, `x * factor + 1`, which does not commute with itself for two factors.

#[derive(Module, Debug)]
struct Affine {
    factor: Param<Tensor<1>>,
}

impl Affine {
    fn act<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        x * self.factor.val().unsqueeze() + 1.0
    }
}

impl NamedParams for Affine {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![("factor".into(), self.factor.id)]
    }
}

impl SiteAdapter<LinearState> for Affine {
    fn apply(&self, state: LinearState, _: &Call<'_>) -> LinearState {
        let delta = self.act(state.delta.unwrap_or_else(|| state.input.clone()));
        LinearState {
            delta: Some(delta),
            ..state
        }
    }
}

impl SiteAdapter<HiddenState> for Affine {
    fn apply(&self, state: HiddenState, _: &Call<'_>) -> HiddenState {
        HiddenState {
            hidden: self.act(state.hidden),
            ..state
        }
    }
}

impl SiteAdapter<KeyValueState> for Affine {
    fn apply(&self, state: KeyValueState, _: &Call<'_>) -> KeyValueState {
        KeyValueState {
            value: self.act(state.value),
            ..state
        }
    }
}

impl SiteAdapter<EmbeddingState> for Affine {
    fn apply(&self, state: EmbeddingState, _: &Call<'_>) -> EmbeddingState {
        EmbeddingState {
            hidden: self.act(state.hidden),
            ..state
        }
    }
}

impl SiteAdapter<OutputState> for Affine {
    fn apply(&self, state: OutputState, _: &Call<'_>) -> OutputState {
        OutputState {
            hidden: self.act(state.hidden),
            ..state
        }
    }
}

#[derive(Debug)]
struct Toy {
    roles: Vec<Role>,
    factor: f32,
}

impl fmt::Display for Toy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "toy[factor={}]", self.factor)
    }
}

impl Method for Toy {
    fn family(&self) -> &'static str {
        "toy"
    }
    fn target(&self) -> Target {
        Target::Roles {
            roles: self.roles.clone(),
            leave_out: vec![],
        }
    }
    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let layer = Affine {
            factor: Param::from_data([self.factor], build.device),
        };
        Ok(match site.kind {
            SiteKind::Linear { .. } => SiteLayer::Linear(Erased::new(layer)),
            SiteKind::Hidden { .. } => SiteLayer::Hidden(Erased::new(layer)),
            SiteKind::KeyValue { .. } => SiteLayer::KeyValue(Erased::new(layer)),
            SiteKind::Embedding { .. } => SiteLayer::Embedding(Erased::new(layer)),
            _ => SiteLayer::Output(Erased::new(layer)),
        })
    }
    fn key(&self, _: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        format!("{}.{adapter}.{param}", site.path)
    }
    fn wire(&self, _: Format, _: &[&SiteInfo], _: &dyn Host) -> Result<Map<String, Value>, Error> {
        Ok(Map::new())
    }
}

const ROLES: [Role; 7] = [
    Role::Embedding,
    Role::Query,
    Role::KeyValue,
    Role::AfterAttention,
    Role::FfnUp,
    Role::AfterFfn,
    Role::LayerOutput,
];

struct Bench {
    model: Mine,
    x: Tensor<3>,
    set: AdapterSet,
    device: Device,
}

impl Bench {
    fn new() -> Self {
        let device = Device::flex();
        device.seed(1);
        let linear = || LinearConfig::new(D, D).init(&device).no_grad();
        let model = Mine::new(linear, LayerNormConfig::new(D).init(&device).no_grad());
        let x = Tensor::random([2, 3, D], Distribution::Normal(0.0, 1.0), &device);
        Self {
            model,
            x,
            set: AdapterSet::new(),
            device,
        }
    }

    fn with(mut self, name: &str, roles: &[Role], factor: f32) -> Self {
        let method = Arc::new(Toy {
            roles: roles.to_vec(),
            factor,
        });
        self.set.attach(name, method, &self.model, 0, &self.device).unwrap();
        self
    }

    fn plain(&self) -> TensorData {
        self.model.forward(self.x.clone(), &mut Ctx::plain()).into_data()
    }

    fn output(&self, composition: impl Into<Composition>) -> TensorData {
        let active = self.set.composition(composition).unwrap();
        self.model
            .forward(self.x.clone(), &mut Ctx::with_composition(&self.set, &active))
            .into_data()
    }
}

#[test]
fn each_hook_acts_and_trains() {
    for role in ROLES {
        let bench = Bench::new().with("a", &[role], 0.5);
        assert_ne!(bench.output("a"), bench.plain(), "{role}");
        let mut set = bench.set.train();
        set.activate("a").unwrap();
        let loss = bench.model.forward(bench.x, &mut Ctx::new(&set)).square().sum();
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
    match layer {
        SiteLayer::Linear(l) => l.visit(&mut find),
        SiteLayer::Norm(l) => l.visit(&mut find),
        SiteLayer::Table(l) => l.visit(&mut find),
        SiteLayer::Hidden(l) => l.visit(&mut find),
        SiteLayer::KeyValue(l) => l.visit(&mut find),
        SiteLayer::Embedding(l) => l.visit(&mut find),
        SiteLayer::Output(l) => l.visit(&mut find),
        SiteLayer::Fusion(l) => l.visit(&mut find),
        SiteLayer::Shared(l) => l.visit(&mut find),
    }
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
#[should_panic(expected = "the model asks `Ctx::replicas`")]
fn branches_need_a_model_that_repeats_its_input() {
    let bench = Bench::new()
        .with("a", &[Role::Query], 0.5)
        .with("b", &[Role::Query], 3.0);
    let active = bench.set.composition(Composition::parallel(["a", "b"])).unwrap();
    let mut cx = Ctx::with_composition(&bench.set, &active);
    cx.linear(at(Role::Query), &bench.model.query, bench.x.clone());
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
    let method = Arc::new(Toy {
        roles: vec![Role::Query],
        factor: 1.0,
    });
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
    let method = Arc::new(Toy {
        roles: vec![Role::Query],
        factor: 1.0,
    });
    let clash = bench.set.attach("a_b", method, &bench.model, 0, &bench.device);
    assert!(matches!(clash, Err(Error::NameTaken { .. })), "{clash:?}");
    let method = Arc::new(Toy {
        roles: vec![Role::Pooler],
        factor: 1.0,
    });
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

/// Rows cut out and joined again, and repeated rows cut apart, are the rows there were.
fn round_trip<S: HookState>(state: &S, data: impl Fn(&S) -> Vec<TensorData>) {
    let rows = state.rows();
    assert_eq!(rows, 3);
    let parts = vec![state.take_rows(&[0]), state.take_rows(&[1, 2])];
    assert_eq!((parts[0].rows(), parts[1].rows()), (1, 2));
    assert_eq!(data(&S::join_rows(parts)), data(state));
    let twice = state.repeat_rows(2);
    assert_eq!(twice.rows(), 2 * rows);
    assert_eq!(data(&twice.take_rows(&[0, 1, 2])), data(state));
    assert_eq!(data(&twice.take_rows(&[3, 4, 5])), data(state));
    assert_eq!(data(&S::join_rows(vec![state.clone(), state.clone()])), data(&twice));
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
            },
            |s| [of(&s.input)].into_iter().chain(s.delta.iter().map(of)).collect(),
        );
    }
    for norm in [None, Some(LayerNormConfig::new(4).init(&device))] {
        let has_norm = norm.is_some();
        round_trip(
            &HiddenState {
                hidden: three(),
                block: three(),
                residual: three(),
                inner: None,
                norm,
                up: Up::Unasked,
            },
            |s| {
                assert_eq!(s.norm.is_some(), has_norm);
                vec![of(&s.hidden), of(&s.residual)]
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
        round_trip(&OutputState { hidden, padding }, |s| {
            let mut data = bools(&s.padding);
            data.push(of(&s.hidden));
            data
        });
    }
}
