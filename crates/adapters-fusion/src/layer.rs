//! The attention over adapters at one site.

use std::borrow::Cow;

use adapters_core::{Call, Causality, FusionQuery, FusionState, NamedParams, SiteAdapter};
use adapters_nn::ops::project;
use adapters_nn::{draw, ops};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData, activation};
use rand_chacha::ChaCha8Rng;

use crate::config::{
    FusionConfig, Projection, QueryState, Regularization, ResidualPath, Temperature, ValueOrder, ValueProjection,
    ValueStart,
};

/// The fusion layer of one site.
#[derive(Module, Debug)]
pub(crate) struct FusionLayer {
    query: Option<Dense>,
    key: Option<Dense>,
    /// `[d_model, d_model]`, published layout.
    value: Option<Param<Tensor<2>>>,
    /// What the reference holds, and never uses, where nothing else is learned: `[1, d_model]` and `[1]`.
    unused: Option<Dense>,
    #[module(skip)]
    rules: Rules,
}

/// What of a configuration decides the way through the layer.
#[derive(Clone, Copy, Debug)]
struct Rules {
    query_state: QueryState,
    value: ValueProjection,
    residual: ResidualPath,
    temperature: Temperature,
    dropout: f64,
}

/// `x W^T + b` in the published layout.
#[derive(Module, Debug)]
struct Dense {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Dense {
    fn new(d_model: usize, d_out: usize, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let weight = draw::normal(rng, [d_out, d_model], 0.02);
        Self {
            weight: Param::from_tensor(Tensor::from_data(weight, device)),
            bias: Param::from_tensor(Tensor::zeros([d_out], device)),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::affine(x, self.weight.val(), self.bias.val())
    }

    fn named_params(&self, path: &str) -> [(Cow<'static, str>, ParamId); 2] {
        [
            (format!("{path}.weight").into(), self.weight.id),
            (format!("{path}.bias").into(), self.bias.id),
        ]
    }
}

/// Ones on the diagonal and `rest` elsewhere, `[d, d]`.
fn diagonal(d: usize, rest: f32) -> TensorData {
    let values = (0..d * d).map(|i| if i % (d + 1) == 0 { 1.0 } else { rest });
    TensorData::new(values.collect::<Vec<f32>>(), [d, d])
}

impl FusionLayer {
    pub(crate) fn new(
        config: &FusionConfig,
        dropout: f64,
        d_model: usize,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Self {
        let mut projection = |learned| match learned {
            Projection::Learned => Some(Dense::new(d_model, d_model, rng, device)),
            Projection::Identity => None,
        };
        let (query, key) = (projection(config.query), projection(config.key));
        let value = match config.value {
            ValueProjection::Identity => None,
            ValueProjection::Learned { start, .. } => {
                let value = match start {
                    ValueStart::NearIdentity => diagonal(d_model, 1e-6),
                    ValueStart::Random => draw::normal(rng, [d_model, d_model], 0.02),
                };
                Some(Param::from_tensor(Tensor::from_data(value, device)))
            }
        };
        let nothing = query.is_none() && key.is_none() && value.is_none();
        Self {
            query,
            key,
            value,
            unused: nothing.then(|| Dense::new(d_model, 1, rng, device)),
            rules: Rules {
                query_state: config.query_state,
                value: config.value,
                residual: config.residual,
                temperature: config.temperature,
                dropout,
            },
        }
    }

    /// The temperature the scores are divided by in a pass.
    fn temperature(&self, passes: u64) -> f64 {
        match self.rules.temperature {
            Temperature::Falling => (50.0 - 0.05 * passes as f64).max(1.0),
            Temperature::One => 1.0,
        }
    }

    /// `0.01 sum (I - V)^2`; `None` where the value projection is not regularized.
    pub(crate) fn penalty(&self) -> Option<Tensor<1>> {
        let ValueProjection::Learned {
            regularization: Regularization::TowardIdentity,
            ..
        } = self.rules.value
        else {
            return None;
        };
        let value = self.value.as_ref()?.val();
        let target = Tensor::from_data(diagonal(value.dims()[0], 0.0), &value.device());
        Some((target - value).square().sum() * 0.01)
    }

    /// Values projected, if this is when.
    fn projected(&self, x: Tensor<3>, now: ValueOrder) -> Tensor<3> {
        match (&self.value, self.rules.value) {
            (Some(weight), ValueProjection::Learned { order, .. }) if order == now => project(x, weight.val()),
            _ => x,
        }
    }
}

impl SiteAdapter<FusionState> for FusionLayer {
    /// `sum_i p_i v(u_i) + residual` with `p = softmax(q(query) . k(u_i) / T)`, of which a recording pass records `p`,
    /// `[batch, seq, adapters]`.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`, all of them.
    fn apply(&self, state: FusionState, call: &Call<'_>) -> FusionState {
        let rules = &self.rules;
        let query = match (state.query, rules.query_state) {
            (FusionQuery::Hidden, QueryState::BeforeNorm) => state.before.clone(),
            (FusionQuery::Beside, _) | (_, QueryState::AsRead) => state.opened.clone(),
        };
        let query = match &self.query {
            Some(projection) => projection.forward(query),
            None => query,
        };
        let read = |up: &Tensor<3>| match rules.residual {
            ResidualPath::ToKeysAndValues => up.clone() + state.residual.clone(),
            ResidualPath::ToResult => up.clone(),
        };
        let additions: Vec<Tensor<3>> = state.additions.iter().map(read).collect();
        let score = |up: &Tensor<3>| {
            let key = match &self.key {
                Some(projection) => projection.forward(up.clone()),
                None => up.clone(),
            };
            (query.clone() * key).sum_dim(2)
        };
        let scores = Tensor::cat(additions.iter().map(score).collect(), 2);
        let scores = call.dropout(scores, rules.dropout);
        let weights = activation::softmax(scores / self.temperature(call.passes), 2);
        let weighed = additions.into_iter().enumerate().map(|(index, up)| {
            self.projected(up, ValueOrder::BeforeWeighing) * weights.clone().slice_dim(2, index..index + 1)
        });
        let fused = weighed.reduce(|sum, part| sum + part).map(|context| {
            let context = self.projected(context, ValueOrder::AfterWeighing);
            match rules.residual {
                ResidualPath::ToKeysAndValues => context,
                ResidualPath::ToResult => context + state.residual.clone(),
            }
        });
        call.record_attention(|| weights);
        FusionState { fused, ..state }
    }

    fn effect(&self) {}

    /// It mixes what its adapters add at one position.
    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl NamedParams for FusionLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = Vec::new();
        params.extend(self.query.iter().flat_map(|p| p.named_params("query")));
        params.extend(self.key.iter().flat_map(|p| p.named_params("key")));
        params.extend(self.value.iter().map(|value| ("value.weight".into(), value.id)));
        params.extend(self.unused.iter().flat_map(|p| p.named_params("dense")));
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.unused.iter().flat_map(|p| [p.weight.id, p.bias.id]).collect()
    }
}
