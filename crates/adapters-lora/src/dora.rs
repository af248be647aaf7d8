//! DoRA: the weight's direction is updated, its magnitude learned.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, Build, Call, Capabilities, Causality, Codec, ConfigError, Effect, Erased, Error, Finisher, Host,
    LinearState, LinearWeight, Method, NamedParams, NotMergeable, Peft, SiteAdapter, SiteInfo, SiteKind, SiteLayer,
    StoredConfig, config::from_fields,
};
use adapters_nn::ops;
use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{DType, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapterhub::{self, Object};
use crate::dora_table::{DoraTable, norms};
use crate::dtype::Dtype;
use crate::fused_projection::FusedProjection;
use crate::lora_config::LoraConfig;
use crate::low_rank::Factored;
use crate::peft;
use crate::site_builder::{SiteBuilder, linear};

/// LoRA with a learned magnitude for each output feature: `y = m / |W + s B A| (W x + s B A x)`, the norm taken of each
/// row. `W` and the update keep their direction, `m` their length.
///
/// Paper: *DoRA: Weight-Decomposed Low-Rank Adaptation*, Liu et al., 2024, <https://arxiv.org/abs/2402.09353>.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DoraConfig {
    /// The definition: `form` in config strings.
    #[serde(rename = "form")]
    pub definition: DoraDefinition,
    /// The low-rank update.
    #[serde(flatten)]
    pub lora: LoraConfig,
}

/// The two definitions that checkpoints are trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DoraDefinition {
    /// `m / |W + B A| (W x + b + s B A x)`: the norm without the scale and with a gradient, the bias inside.
    #[default]
    AdapterHub,
    /// `m / |W + s B A| (W x + s B A x) + b`: the norm with the scale and without a gradient, the bias outside.
    Peft,
}

impl Method for DoraConfig {
    const NAME: &'static str = "dora";
    const DESCRIPTION: &'static str = "A low-rank update of the direction of the weight, and a learned magnitude.";

    fn check(&self) -> Result<(), ConfigError> {
        self.lora.check_for_dora()
    }

    fn target(&self) -> Target {
        self.lora.all_targets()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        if let Some(copy) = self.lora.copied(site, build)? {
            return Ok(copy);
        }
        let mut builder = SiteBuilder::new(Self::NAME, &self.lora.target, self.lora.seed, site, build);
        if let SiteKind::Table { rows, d_model, padding } = site.kind
            && self.definition == DoraDefinition::Peft
        {
            let inner = self.lora.table(&mut builder, rows, d_model, padding)?;
            let table = build.host.table(site.site);
            let table = table.ok_or_else(|| Self::refuse(site, "the model gives no access to this table"))?;
            let table = Tensor::from_data(table.weight.val().into_data(), build.device);
            let magnitude = norms(table.clone() + inner.update());
            return Ok(SiteLayer::Table(Erased::new(DoraTable {
                inner,
                magnitude: builder.param(magnitude.into_data(), self.lora.dtype),
                table,
            })));
        }
        let inner = self.lora.low_rank(&mut builder)?;
        Ok(linear(DoraLayer::new(
            inner,
            self.definition,
            self.lora.dtype,
            &builder,
        )?))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            faster: Some(&self.lora),
            patterns: Some(&self.lora),
            scaled: Some(&self.lora),
            tied: self.lora.ties_copies().then_some(&self.lora),
            ..Capabilities::default()
        }
    }
}

impl Codec<AdapterHub> for DoraConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let object = Object::of(Self::NAME, stored)?;
        Some(object.and_then(|object| from_fields(object.fields)))
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        if self.definition != DoraDefinition::AdapterHub {
            return Err(adapterhub::refuse("peft's definition of DoRA"));
        }
        let object = Object {
            use_dora: true,
            ..Object::default()
        };
        object.write(&self.lora, sites, host)
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        adapterhub::key(site, adapter, param)
    }
}

impl Codec<Peft> for DoraConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let lora = peft::read_lora(stored, true)?;
        Some(lora.map(|lora| Self {
            definition: DoraDefinition::Peft,
            lora,
        }))
    }

    fn names() -> &'static peft::Names {
        peft::LORA
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        match self.definition {
            DoraDefinition::Peft => peft::write_lora(&self.lora, true, sites, host),
            DoraDefinition::AdapterHub => Err(peft::refuse("AdapterHub's definition of DoRA")),
        }
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        peft::lora_key(site, param)
    }

    fn stored_shape(&self, site: &SiteInfo, param: &str, shape: Vec<usize>) -> Vec<usize> {
        peft::lora_shape(site, param, shape)
    }
}

/// An update with a learned magnitude.
///
/// The norm is computed from the factors, without the dense product:
/// `|W + s L R|^2 = |W|^2 + 2 s (L o (W R^T)) 1 + s^2 (L o (L R R^T)) 1`, with `|W|^2` computed once.
#[derive(Module, Debug)]
pub(crate) struct DoraLayer<D: Module> {
    /// The update `s L R`.
    pub(crate) inner: D,
    /// `m`.
    pub(crate) magnitude: Magnitude,
    /// `|W|^2` of each row, `[d_out]`.
    pub(crate) squares: Tensor<1>,
    /// Which projections of a fused one are adapted: only they have a magnitude.
    #[module(skip)]
    pub(crate) fused: Option<FusedProjection>,
    /// The definition.
    #[module(skip)]
    pub(crate) definition: DoraDefinition,
}

/// The learned magnitudes in the shape they are published in.
#[derive(Module, Debug)]
pub(crate) enum Magnitude {
    /// `[d_out, 1]`, AdapterHub's.
    Column(Param<Tensor<2>>),
    /// `[d_out]`, peft's.
    Vector(Param<Tensor<1>>),
}

impl Magnitude {
    fn val(&self) -> Tensor<1> {
        match self {
            Self::Column(m) => {
                let [d_out, _] = m.dims();
                m.val().reshape([d_out])
            }
            Self::Vector(m) => m.val(),
        }
    }
}

impl<D: Module + Factored> DoraLayer<D> {
    /// A layer that is the identity with an `inner` that is zero: its magnitudes are the norms of the frozen weight.
    pub(crate) fn new(
        inner: D,
        definition: DoraDefinition,
        dtype: Option<Dtype>,
        builder: &SiteBuilder<'_>,
    ) -> Result<Self, Error> {
        let weight = builder.frozen_weight()?;
        let [_, d_out] = weight.dims();
        let squares = weight.square().sum_dim(0).reshape([d_out]).into_data();
        let adapted = |row| builder.fused.as_ref().is_none_or(|fused| fused.adapts(row));
        let rows: Vec<f32> = squares.iter::<f32>().collect();
        let rows = rows.into_iter().enumerate().filter(|(row, _)| adapted(*row));
        let norms: Vec<f32> = rows.map(|(_, square)| square.sqrt()).collect();
        let features = norms.len();
        let magnitude = match definition {
            DoraDefinition::AdapterHub => {
                Magnitude::Column(builder.param(TensorData::new(norms, [features, 1]), dtype))
            }
            DoraDefinition::Peft => Magnitude::Vector(builder.param(TensorData::new(norms, [features]), dtype)),
        };
        Ok(Self {
            inner,
            magnitude,
            squares: Tensor::from_data(squares, builder.build.device),
            fused: builder.fused.clone(),
            definition,
        })
    }

    /// The frozen weight for the norm, whose products are in `f32`: one in `bf16` is widened, a quantized one has a product of its own.
    fn norm_weight(&self, layer: &Linear) -> Tensor<2> {
        match layer.weight.val() {
            weight if weight.dtype() == DType::BF16 => weight.cast(DType::F32),
            weight => weight,
        }
    }

    /// `m` over the norm, `[d_out]`. `weight` is `[d_in, d_out]`.
    fn factor(&self, weight: Tensor<2>, shared: &D::Shared) -> Tensor<1> {
        let (left, right) = self.inner.factors(shared);
        let [d_out, _] = left.dims();
        let scale = match self.definition {
            DoraDefinition::AdapterHub => 1.0,
            DoraDefinition::Peft => self.inner.scale().unwrap_or(1.0),
        };
        let (left, right) = match self.definition {
            DoraDefinition::AdapterHub => (left, right),
            DoraDefinition::Peft => (left.detach(), right.detach()),
        };
        let cross = (left.clone() * ops::product(right.clone(), weight).transpose()).sum_dim(1);
        let gram = right.clone().matmul(right.transpose());
        let own = (left.clone() * left.matmul(gram)).sum_dim(1);
        let update = cross * (2.0 * scale) + own * (scale * scale);
        // Rounding may leave a norm of zero slightly below it.
        let norm = (update.reshape([d_out]) + self.squares.clone())
            .clamp_min(f32::MIN_POSITIVE)
            .sqrt();
        match &self.fused {
            Some(fused) => fused.scatter(self.magnitude.val() / fused.gather(norm, 0), 0, 1.0),
            None => self.magnitude.val() / norm,
        }
    }
}

impl<D> SiteAdapter<LinearState, D::Shared> for DoraLayer<D>
where
    D: Module + Factored + SiteAdapter<LinearState, <D as Factored>::Shared>,
{
    fn apply(&self, state: LinearState, call: &Call<'_, D::Shared>) -> LinearState {
        self.inner.apply(state, call)
    }

    fn effect(&self) -> Effect {
        self.inner.effect()
    }

    fn causality(&self) -> Causality {
        self.inner.causality()
    }

    fn finisher(&self) -> Option<&dyn Finisher<LinearState, D::Shared>> {
        Some(self)
    }

    fn merged(&self, base: LinearWeight, shared: &D::Shared) -> Result<LinearWeight, NotMergeable> {
        let factor = self.factor(base.weight.clone(), shared);
        let merged = self.inner.merged(base, shared)?;
        Ok(LinearWeight {
            weight: merged.weight * factor.clone().unsqueeze(),
            bias: match self.definition {
                DoraDefinition::AdapterHub => merged.bias.map(|bias| bias * factor),
                DoraDefinition::Peft => merged.bias,
            },
        })
    }
}

impl<D> Finisher<LinearState, D::Shared> for DoraLayer<D>
where
    D: Module + Factored + SiteAdapter<LinearState, <D as Factored>::Shared>,
{
    fn finish(&self, state: LinearState, call: &Call<'_, D::Shared>) -> Tensor<3> {
        let factor = self.factor(self.norm_weight(&state.layer), call.shared).unsqueeze();
        let mut layer = state.layer;
        let outside = match self.definition {
            DoraDefinition::AdapterHub => None,
            DoraDefinition::Peft => layer.bias.take(),
        };
        let inside = ops::linear(&layer, state.input);
        let inside = match state.delta {
            Some(delta) => ops::add(inside, delta),
            None => inside,
        };
        match outside {
            Some(bias) => inside * factor + bias.val().unsqueeze(),
            None => inside * factor,
        }
    }
}

impl<D: Module + NamedParams> NamedParams for DoraLayer<D> {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = self.inner.named_params();
        params.push(match &self.magnitude {
            Magnitude::Column(m) => ("m.weight".into(), m.id),
            Magnitude::Vector(m) => ("lora_magnitude_vector".into(), m.id),
        });
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.inner.fixed_params()
    }
}
