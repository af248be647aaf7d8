//! Modules of the base that train as they are, in copies: biases, and whole modules.

use std::borrow::Cow;

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{Device, Int, Tensor, module};

use adapters_core::{
    Call, Causality, Effect, Erased, Finisher, Host, LinearState, LinearWeight, NamedParams, NormState, NormWeight,
    NotMergeable, Shared, Site, SiteAdapter, SiteInfo, SiteKind, SiteLayer, TableState, named_params,
};
use adapters_nn::float_weight;

/// What a layer at an adapted module calls the copy of the module's bias.
pub(crate) const BASE_BIAS: &str = "base_layer.bias";

/// A copy of the whole module at a site, trained in its place; `None` where the model gives no access to one.
pub fn copy_of(host: &dyn Host, info: &SiteInfo, device: &Device) -> Option<SiteLayer> {
    let site = info.site;
    if let Some(frozen) = host.linear(site) {
        return Some(SiteLayer::Linear(Erased::new(LinearCopy {
            weight: Param::from_data(published(float_weight(frozen), info.input_first).into_data(), device),
            input_first: info.input_first,
            bias: frozen.bias.as_ref().map(|bias| copied(bias, device)),
        })));
    }
    if let Some(frozen) = host.norm(site) {
        let of = |tensor: Tensor<1>| Param::from_data(tensor.into_data(), device);
        return Some(SiteLayer::Norm(Erased::new(NormCopy {
            weight: of(frozen.weight),
            bias: frozen.bias.map(of),
        })));
    }
    let frozen = host.table(site)?;
    let padding = match info.kind {
        SiteKind::Table { padding, .. } => padding,
        _ => None,
    };
    Some(SiteLayer::Table(Erased::new(TableCopy {
        weight: copied(&frozen.weight, device),
        padding,
    })))
}

/// A copy of the bias at `site`, trained in its place; `None` where there is none.
pub fn bias_copy_of(host: &dyn Host, site: Site, device: &Device) -> Option<SiteLayer> {
    if let Some(bias) = host.linear(site).and_then(|frozen| frozen.bias.as_ref()) {
        let bias = copied(bias, device);
        return Some(SiteLayer::Linear(Erased::new(BiasCopy { bias })));
    }
    let bias = Param::from_data(host.norm(site)?.bias?.into_data(), device);
    Some(SiteLayer::Norm(Erased::new(BiasCopy { bias })))
}

/// A layer with a copy of the bias of the frozen layer at its site, trained in its place; the layer alone where there is none.
pub(crate) fn with_bias_copy(layer: SiteLayer, host: &dyn Host, site: Site, device: &Device) -> SiteLayer {
    let bias = host.linear(site).and_then(|frozen| frozen.bias.as_ref());
    match (layer, bias) {
        (SiteLayer::Linear(layer), Some(bias)) => SiteLayer::Linear(Erased::new(WithBias {
            layer,
            bias: BiasCopy {
                bias: copied(bias, device),
            },
        })),
        (layer, _) => layer,
    }
}

fn copied<const D: usize>(param: &Param<Tensor<D>>, device: &Device) -> Param<Tensor<D>> {
    Param::from_data(param.val().into_data(), device)
}

/// A copy of a layer's bias in its place, `[d_out]`.
#[derive(Module, Debug)]
pub struct BiasCopy {
    /// `[d_out]`.
    pub bias: Param<Tensor<1>>,
}

impl SiteAdapter<LinearState> for BiasCopy {
    fn apply(&self, mut state: LinearState, _call: &Call<'_>) -> LinearState {
        state.layer.bias = Some(Param::initialized(ParamId::new(), self.bias.val()));
        state
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(LinearWeight {
            bias: Some(self.bias.val()),
            ..base
        })
    }
}

impl SiteAdapter<NormState> for BiasCopy {
    fn apply(&self, state: NormState, _call: &Call<'_>) -> NormState {
        NormState {
            bias: Some(self.bias.val()),
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: NormWeight, _shared: &()) -> Result<NormWeight, NotMergeable> {
        Ok(NormWeight {
            bias: Some(self.bias.val()),
            ..base
        })
    }
}

named_params!(BiasCopy: "bias" => bias);

/// A layer of any method, and a copy of the bias of the frozen layer that it reads.
#[derive(Module, Debug)]
struct WithBias {
    layer: Erased<LinearState>,
    bias: BiasCopy,
}

impl SiteAdapter<LinearState, Shared> for WithBias {
    fn open(&self, state: LinearState) -> LinearState {
        self.layer.open(state)
    }

    fn apply(&self, mut state: LinearState, call: &Call<'_, Shared>) -> LinearState {
        state.layer.bias = Some(Param::initialized(ParamId::new(), self.bias.bias.val()));
        self.layer.apply(state, call)
    }

    fn finisher(&self) -> Option<&dyn Finisher<LinearState, Shared>> {
        self.layer.has_finisher().then_some(self)
    }

    fn effect(&self) -> Effect {
        match self.layer.effect() {
            Effect::Adds(source) => Effect::ChangesAndAdds(source),
            changes => changes,
        }
    }

    fn causality(&self) -> Causality {
        self.layer.causality()
    }

    fn merged(&self, base: LinearWeight, shared: &Shared) -> Result<LinearWeight, NotMergeable> {
        let bias = Some(self.bias.bias.val());
        self.layer.merged(LinearWeight { bias, ..base }, shared)
    }
}

impl Finisher<LinearState, Shared> for WithBias {
    fn finish(&self, state: LinearState, call: &Call<'_, Shared>) -> Tensor<3> {
        self.layer.finish(state, call)
    }
}

impl NamedParams for WithBias {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = self.layer.named_params();
        params.push((BASE_BIAS.into(), self.bias.bias.id));
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.layer.fixed_params()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        self.layer.index_limits()
    }
}

/// The weight `[d_in, d_out]` of a linear layer as it is published, or the other way round.
fn published(weight: Tensor<2>, input_first: bool) -> Tensor<2> {
    match input_first {
        true => weight,
        false => weight.transpose(),
    }
}

/// A copy of a linear layer in its place. The weight is as it is published.
#[derive(Module, Debug)]
pub struct LinearCopy {
    /// `[d_out, d_in]`, or `[d_in, d_out]` of a layer that stores the input first.
    pub weight: Param<Tensor<2>>,
    /// Whether it is `[d_in, d_out]`.
    pub input_first: bool,
    /// `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl LinearCopy {
    fn weight(&self) -> LinearWeight {
        LinearWeight {
            weight: published(self.weight.val(), self.input_first),
            bias: self.bias.as_ref().map(|bias| bias.val()),
        }
    }
}

impl SiteAdapter<LinearState> for LinearCopy {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let LinearWeight { weight, bias } = self.weight();
        LinearState {
            layer: Linear {
                weight: Param::initialized(ParamId::new(), weight),
                bias: bias.map(|bias| Param::initialized(ParamId::new(), bias)),
            },
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, _base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(self.weight())
    }
}

named_params!(LinearCopy: "weight" => weight; optional "bias" => bias);

/// A copy of a normalization in its place.
#[derive(Module, Debug)]
pub struct NormCopy {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
    /// `[d_model]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl SiteAdapter<NormState> for NormCopy {
    fn apply(&self, _state: NormState, _call: &Call<'_>) -> NormState {
        NormState {
            weight: self.weight.val(),
            bias: self.bias.as_ref().map(|bias| bias.val()),
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, _base: NormWeight, _shared: &()) -> Result<NormWeight, NotMergeable> {
        Ok(NormWeight {
            weight: self.weight.val(),
            bias: self.bias.as_ref().map(|bias| bias.val()),
        })
    }
}

named_params!(NormCopy: "weight" => weight; optional "bias" => bias);

/// `x`, `[batch, seq, d]`, without a gradient where the row `padding` of a table was looked up.
pub fn without_gradient_at(padding: Option<usize>, ids: &Tensor<2, Int>, x: Tensor<3>) -> Tensor<3> {
    let Some(padding) = padding else { return x };
    let shape = x.dims();
    let padded = ids.clone().equal_elem(padding as i64).unsqueeze_dim::<3>(2);
    x.clone().mask_where(padded.expand(shape), x.detach())
}

/// A copy of an embedding table in its place.
#[derive(Module, Debug)]
pub struct TableCopy {
    /// `[rows, d_model]`.
    pub weight: Param<Tensor<2>>,
    /// The row of the padding token, which gets no gradient where it is looked up.
    pub padding: Option<usize>,
}

impl TableCopy {
    /// The same parameter as the weight of a head.
    pub fn on_head(&self) -> LinearCopy {
        LinearCopy {
            weight: self.weight.clone(),
            input_first: false,
            bias: None,
        }
    }
}

impl SiteAdapter<TableState> for TableCopy {
    fn apply(&self, state: TableState, _call: &Call<'_>) -> TableState {
        let output = module::embedding(self.weight.val(), state.ids.clone());
        TableState {
            output: without_gradient_at(self.padding, &state.ids, output),
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, _base: Tensor<2>, _shared: &()) -> Result<Tensor<2>, NotMergeable> {
        Ok(self.weight.val())
    }
}

named_params!(TableCopy: "weight" => weight);
