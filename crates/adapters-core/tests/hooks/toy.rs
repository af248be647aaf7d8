//! A user-written Burn model with every hook, and a toy method with a layer for each.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AdapterSet, AnyMethod, Build, Call, Causality, Codec, Composition, ConfigError, Ctx, Effect,
    EmbeddingHook, EmbeddingRole, EmbeddingState, Erased, Error, HiddenState, Host, KeyValueHook, KeyValueState,
    LinearRole, LinearState, Location, Method, NamedParams, NormRole, OutputHook, OutputState, Peft, Point, Preset,
    ResidualHook, ResidualRole, Role, SiteAdapter, SiteInfo, SiteKind, SiteLayer, Sited, Sites, Source, Stack,
};
use adapters_nn::ops;
use burn::module::{Module, Param, ParamId};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use serde::{Deserialize, Serialize};

// The model: one attention layer.

pub(crate) const D: usize = 6;
pub(crate) const HEADS: usize = 2;

#[derive(Module, Sites, Debug)]
pub(crate) struct Mine {
    embedding: Point<EmbeddingHook>,
    pub(crate) query: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    after_attention: Point<ResidualHook>,
    pub(crate) up: Sited<Linear>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    norm: Sited<LayerNorm>,
}

impl Mine {
    pub(crate) fn new(linear: impl Fn() -> Linear, norm: LayerNorm) -> Self {
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
            norm: Sited::new(layer, NormRole::AttentionNorm, "layer.0.norm", norm),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<3>, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        let (hooks, x) = cx.begin(self, x)?;
        let x = hooks.embedding(&self.embedding, EmbeddingState::new(x, None)).hidden;
        let heads = |x: Tensor<3>| {
            let [batch, seq, _] = x.dims();
            x.reshape([batch, seq, HEADS, D / HEADS]).swap_dims(1, 2)
        };
        let query = hooks.linear(&self.query, x.clone());
        let state = KeyValueState::new(heads(x.clone()), heads(x.clone()), x.clone());
        let kv = hooks.key_value(&self.key_value, state);
        let attended = ops::attention(heads(query), kv.key, kv.value, None, None);
        let [batch, _, seq, _] = attended.dims();
        let attended = attended.swap_dims(1, 2).reshape([batch, seq, D]);
        let x = hooks.residual(&self.after_attention, attended, x, Some(&self.norm));
        let up = hooks.linear(&self.up, x.clone()).tanh();
        let x = hooks.residual(&self.after_ffn, up, x, None);
        Ok(hooks.output(&self.output, x))
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
pub(crate) struct Affine {
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

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Previous { width: Some(D) })
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl SiteAdapter<HiddenState> for Affine {
    fn apply(&self, state: HiddenState, _: &Call<'_>) -> HiddenState {
        HiddenState {
            hidden: self.act(state.hidden),
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl SiteAdapter<KeyValueState> for Affine {
    fn apply(&self, state: KeyValueState, _: &Call<'_>) -> KeyValueState {
        KeyValueState {
            value: self.act(state.value),
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl SiteAdapter<EmbeddingState> for Affine {
    fn apply(&self, state: EmbeddingState, _: &Call<'_>) -> EmbeddingState {
        EmbeddingState {
            hidden: self.act(state.hidden),
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl SiteAdapter<OutputState> for Affine {
    fn apply(&self, state: OutputState, _: &Call<'_>) -> OutputState {
        OutputState {
            hidden: self.act(state.hidden),
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Toy {
    pub(crate) roles: Vec<Role>,
    pub(crate) factor: f32,
}

impl Method for Toy {
    const NAME: &'static str = "toy";
    const DESCRIPTION: &'static str = "A method for tests.";
    fn presets() -> &'static [Preset<Self>] {
        const { &[Preset::new("toy", Self::default)] }
    }
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
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
}

impl Codec<AdapterHub> for Toy {}
impl Codec<Peft> for Toy {}

pub(crate) fn toy(roles: &[Role], factor: f32) -> AnyMethod {
    let roles = roles.to_vec();
    AnyMethod::new(Toy { roles, factor }).unwrap()
}

pub(crate) const ROLES: [Role; 7] = [
    Role::Embedding,
    Role::Query,
    Role::KeyValue,
    Role::AfterAttention,
    Role::FfnUp,
    Role::AfterFfn,
    Role::LayerOutput,
];

pub(crate) struct Bench {
    pub(crate) model: Mine,
    pub(crate) x: Tensor<3>,
    pub(crate) set: AdapterSet,
    pub(crate) device: Device,
}

impl Bench {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn with(mut self, name: &str, roles: &[Role], factor: f32) -> Self {
        let method = toy(roles, factor);
        self.set.attach(name, method, &self.model, 0, &self.device).unwrap();
        self
    }

    pub(crate) fn plain(&self) -> TensorData {
        self.model
            .forward(self.x.clone(), &mut Ctx::plain())
            .unwrap()
            .into_data()
    }

    pub(crate) fn output(&self, composition: impl Into<Composition>) -> TensorData {
        let active = self.set.composition(composition).unwrap();
        let mut cx = Ctx::with_composition(&self.set, &active).unwrap();
        self.model.forward(self.x.clone(), &mut cx).unwrap().into_data()
    }
}
