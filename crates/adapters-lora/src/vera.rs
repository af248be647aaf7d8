//! VeRA: shared frozen matrices, small trained ones between them.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Capabilities, Causality, Codec, ConfigError, Effect, Error, Host, LinearState,
    LinearWeight, Method, NamedParams, NotMergeable, Peft, Shared, SharedParameters, SiteAdapter, SiteInfo, SiteLayer,
    Source, StoredConfig,
    config::{from_fields, to_fields},
};
use adapters_nn::{TorchRng, draw};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapterhub::{self, Object};
use crate::dtype::Dtype;
use crate::fused_projection::{FusedProjection, scatter_rows};
use crate::gate::Gate;
use crate::init::{Init, init_a, init_b};
use crate::largest_shape::kaiming;
use crate::lora_config::LoraConfig;
use crate::low_rank::{Factored, apply_factors};
use crate::peft;
use crate::site_builder::{SiteBuilder, linear};
use crate::target::LoraTarget;

/// Random matrices A and B, shared by all layers and never trained, with trained scalings around them:
/// `delta = s b B d A x`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `d` (`vera_d`) | 0.1 | initial value of the inner scaling | finite |
/// | `b` (`vera_b`) | 0 | initial value of the outer scaling | finite |
/// | `definition` (`form`, `save_projection`, `projection_prng_key`) | matrices | which scalings, and where A and B come from | |
/// | `lora` | rank 8, init `vera` | rank, target, dropout, seed | |
///
/// Names in parentheses are those of config strings.
///
/// Paper: *VeRA: Vector-based Random Matrix Adaptation*, Kopiczko et al., 2023, <https://arxiv.org/abs/2310.11454>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VeraConfig {
    /// Initial value of the inner scaling.
    #[serde(rename = "vera_d")]
    pub d: f64,
    /// Initial value of the outer scaling.
    #[serde(rename = "vera_b")]
    pub b: f64,
    /// The definition.
    #[serde(flatten)]
    pub definition: VeraDefinition,
    /// Rank, target, dropout and seed.
    #[serde(flatten)]
    pub lora: LoraConfig,
}

/// The two definitions that checkpoints are trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "DefinitionFields", into = "DefinitionFields")]
pub enum VeraDefinition {
    /// AdapterHub's: `d` `[r, r]` and `b` `[d_out, d_out]` are full matrices, with the scale `alpha / r`. All layers have
    /// the shape of the first.
    #[default]
    Matrices,
    /// Peft's: vectors `d` `[r]` and `b` `[d_out]`, without a scale. A and B have the largest shape, and each layer takes
    /// a slice of them.
    Vectors(Projection),
}

/// Where the shared matrices come from; peft's `projection_prng_key` is the seed in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// From the adapter's file.
    Stored(u32),
    /// Drawn again from PyTorch's generator: they are in no file (`save_projection = false`).
    Drawn(u32),
}

/// The fields of a [`VeraDefinition`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct DefinitionFields {
    form: Form,
    save_projection: bool,
    projection_prng_key: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    AdapterHub,
    Peft,
}

impl Default for DefinitionFields {
    fn default() -> Self {
        VeraDefinition::Matrices.into()
    }
}

impl TryFrom<DefinitionFields> for VeraDefinition {
    type Error = ConfigError;

    fn try_from(fields: DefinitionFields) -> Result<Self, ConfigError> {
        let key = fields.projection_prng_key;
        let seed = u32::try_from(key).unwrap_or_default();
        ConfigError::unless(u64::from(seed) == key, "projection_prng_key", "below 2^32", key)?;
        match (fields.form, fields.save_projection) {
            (Form::AdapterHub, true) => Ok(Self::Matrices),
            (Form::AdapterHub, false) => Err(ConfigError::OutOfRange {
                field: "save_projection",
                expected: "true with AdapterHub's definition of VeRA",
                found: "false".to_owned(),
            }),
            (Form::Peft, true) => Ok(Self::Vectors(Projection::Stored(seed))),
            (Form::Peft, false) => Ok(Self::Vectors(Projection::Drawn(seed))),
        }
    }
}

impl From<VeraDefinition> for DefinitionFields {
    fn from(definition: VeraDefinition) -> Self {
        let (form, save_projection, key) = match definition {
            VeraDefinition::Matrices => (Form::AdapterHub, true, 0),
            VeraDefinition::Vectors(Projection::Stored(key)) => (Form::Peft, true, key),
            VeraDefinition::Vectors(Projection::Drawn(key)) => (Form::Peft, false, key),
        };
        Self {
            form,
            save_projection,
            projection_prng_key: key.into(),
        }
    }
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            lora: LoraConfig::new(8).with_init(Init::Vera),
            d: 0.1,
            b: 0.0,
            definition: VeraDefinition::Matrices,
        }
    }
}

impl VeraConfig {
    pub(crate) fn check_fields(&self) -> Result<(), ConfigError> {
        ConfigError::finite("vera_d", self.d)?;
        ConfigError::finite("vera_b", self.b)?;
        if self.definition == VeraDefinition::Matrices {
            // A diagonal is stored as a matrix.
            ConfigError::elements("r x r", [self.lora.rank, self.lora.rank])?;
        }
        let patterns = self.lora.rank_pattern.is_empty();
        ConfigError::unless(patterns, "rank_pattern", "none: all layers share A and B", "some")?;
        self.lora.check_for_variant()
    }

    /// The layer with AdapterHub's matrices.
    pub(crate) fn matrices(&self, builder: &mut SiteBuilder<'_>) -> Result<VeraMatrices, Error> {
        let (d_in, d_out) = builder.dims()?;
        let first = shapes(&self.lora.target, builder.build)?.first().copied();
        if first != Some((d_in, d_out)) {
            let (first_in, first_out) = first.unwrap_or_default();
            return Err(builder.refuse(format!(
                "all layers share two matrices made for the first layer, {first_in} -> {first_out}, but this layer is \
                 {d_in} -> {d_out}; target layers of one shape, or use `form=peft`, which slices larger matrices"
            )));
        }
        let lora = &self.lora;
        Ok(VeraMatrices {
            d_in,
            d: builder.param(diagonal(lora.rank, self.d as f32), lora.dtype),
            b: builder.param(diagonal(d_out, self.b as f32), lora.dtype),
            gate: builder.gate_of(lora, d_in),
            scale: lora.alpha / lora.rank as f64,
            dropout: lora.dropout,
            fused: builder.fused.clone(),
        })
    }

    /// The layer with peft's vectors.
    fn vectors(&self, builder: &SiteBuilder<'_>) -> Result<VeraVectors, Error> {
        let (d_in, d_out) = builder.dims()?;
        let lora = &self.lora;
        Ok(VeraVectors {
            d: builder.param(draw::constant([lora.rank], self.d as f32), lora.dtype),
            b: builder.param(draw::constant([d_out], self.b as f32), lora.dtype),
            d_in,
            dropout: lora.dropout,
            fused: builder.fused.clone(),
        })
    }

    /// AdapterHub's object.
    pub(crate) fn to_adapterhub(
        &self,
        use_dora: bool,
        sites: &[&SiteInfo],
        host: &dyn Host,
    ) -> Result<Map<String, Value>, ConfigError> {
        if self.definition != VeraDefinition::Matrices {
            return Err(adapterhub::refuse("peft's definition of VeRA"));
        }
        let object = Object {
            use_dora,
            vera_d: Some(self.d),
            vera_b: Some(self.b),
            ..Object::default()
        };
        object.write(&self.lora, sites, host)
    }

    /// From AdapterHub's object.
    pub(crate) fn from_adapterhub(object: Object) -> Result<Self, ConfigError> {
        Ok(Self {
            d: object.vera_d.unwrap_or(1.0),
            b: object.vera_b.unwrap_or(1.0),
            definition: VeraDefinition::Matrices,
            lora: from_fields(object.fields)?,
        })
    }
}

impl Method for VeraConfig {
    const NAME: &'static str = "vera";
    const DESCRIPTION: &'static str = "Frozen random matrices that all layers share, scaled by trained vectors.";

    fn check(&self) -> Result<(), ConfigError> {
        self.check_fields()
    }

    fn target(&self) -> Target {
        self.lora.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let mut builder = SiteBuilder::new(Self::NAME, &self.lora.target, self.lora.seed, site, build);
        Ok(match self.definition {
            VeraDefinition::Matrices => linear(self.matrices(&mut builder)?),
            VeraDefinition::Vectors(_) => linear(self.vectors(&builder)?),
        })
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

impl SharedParameters for VeraConfig {
    /// The random matrices.
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let lora = &self.lora;
        let shapes = shapes(&lora.target, build)?;
        let first = shapes.first().copied().unwrap_or_default();
        let largest = shapes
            .iter()
            .fold((0, 0), |most, next| (most.0.max(next.0), most.1.max(next.1)));
        let (names, (d_in, d_out)) = match self.definition {
            VeraDefinition::Matrices => (MATRICES, first),
            VeraDefinition::Vectors(Projection::Stored(_)) => (VECTORS, largest),
            VeraDefinition::Vectors(Projection::Drawn(key)) => {
                let (d_in, d_out) = largest;
                let mut torch = TorchRng::new(key);
                let a = kaiming(&mut torch, lora.rank, d_in, build);
                let b = kaiming(&mut torch, d_out, lora.rank, build);
                return Ok(Shared::of(SharedMatrices::Drawn(DrawnMatrices { a, b })));
            }
        };
        let mut rng = build.shared_rng(lora.seed);
        let matrix = |data: TensorData| {
            let param: Param<Tensor<2>> = Dtype::param(lora.dtype, Tensor::from_data(data, build.device));
            param.set_require_grad(false)
        };
        let a = matrix(init_a(lora.init, &mut rng, lora.rank, [lora.rank, d_in]));
        let b = matrix(init_b(lora.init, &mut rng, d_out, lora.rank));
        Ok(Shared::of(SharedMatrices::Stored(StoredMatrices { a, b, names })))
    }

    fn owns(&self, param: &str) -> bool {
        MATRICES.contains(&param) || VECTORS.contains(&param)
    }
}

/// Names of the shared matrices of AdapterHub's definition.
const MATRICES: [&str; 2] = ["lora_A", "lora_B"];
/// And of peft's.
const VECTORS: [&str; 2] = ["vera_A", "vera_B"];

/// A and B, which all layers share and none trains.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each adapter")]
pub(crate) enum SharedMatrices {
    /// Stored with the adapter.
    Stored(StoredMatrices),
    /// Drawn again from a seed, and in no file.
    Drawn(DrawnMatrices),
}

/// Shared matrices that are stored.
#[derive(Module, Debug)]
pub(crate) struct StoredMatrices {
    /// `[r, d_in]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_out, r]`.
    pub(crate) b: Param<Tensor<2>>,
    /// Names of A and B in files.
    #[module(skip)]
    pub(crate) names: [&'static str; 2],
}

/// Shared matrices that follow from the configuration.
#[derive(Module, Debug)]
pub(crate) struct DrawnMatrices {
    /// `[r, d_in]`.
    pub(crate) a: Tensor<2>,
    /// `[d_out, r]`.
    pub(crate) b: Tensor<2>,
}

impl SharedMatrices {
    /// A, `[r, d_in]`.
    pub(crate) fn a(&self) -> Tensor<2> {
        match self {
            Self::Stored(matrices) => matrices.a.val(),
            Self::Drawn(matrices) => matrices.a.clone(),
        }
    }

    /// B, `[d_out, r]`.
    pub(crate) fn b(&self) -> Tensor<2> {
        match self {
            Self::Stored(matrices) => matrices.b.val(),
            Self::Drawn(matrices) => matrices.b.clone(),
        }
    }
}

impl NamedParams for SharedMatrices {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        match self {
            Self::Stored(StoredMatrices { a, b, names }) => vec![(names[0].into(), a.id), (names[1].into(), b.id)],
            Self::Drawn(_) => Vec::new(),
        }
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.named_params().into_iter().map(|(_, id)| id).collect()
    }
}

fn diagonal(n: usize, value: f32) -> TensorData {
    let entry = |i| if i % (n + 1) == 0 { value } else { 0.0 };
    TensorData::new((0..n * n).map(entry).collect::<Vec<f32>>(), [n, n])
}

/// Input and output features of the adapted layers, in the order of the forward pass.
fn shapes(target: &LoraTarget, build: &Build<'_>) -> Result<Vec<(usize, usize)>, Error> {
    let selected = target.to_target().select(build.host)?.sites;
    // A reparameterized weight is a model of one site, whatever the target is.
    let sites = if selected.is_empty() {
        build.host.sites()
    } else {
        selected
    };
    Ok(sites.iter().filter_map(|site| target.dims(site)).collect())
}

impl Codec<AdapterHub> for VeraConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        Some(Object::of(Self::NAME, stored)?.and_then(Self::from_adapterhub))
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        self.to_adapterhub(false, sites, host)
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        adapterhub::key(site, adapter, param)
    }
}

/// Our names of the fields of peft's `VeraConfig`, and peft's.
const PEFT: &peft::Names = &[
    ("r", "r"),
    ("dropout", "vera_dropout"),
    ("vera_d", "d_initial"),
    ("save_projection", "save_projection"),
    ("projection_prng_key", "projection_prng_key"),
    ("bias", "bias"),
    ("modules_to_save", "modules_to_save"),
];

impl Codec<Peft> for VeraConfig {
    fn base_fields() -> &'static [BaseField] {
        BaseField::ALL
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        stored.is_peft("VERA").then(|| {
            let (target, mut rest) = LoraTarget::from_peft(stored.fields)?;
            rest.entry("r").or_insert(256.into());
            rest.insert("form".to_owned(), "peft".into());
            // Peft's field of this name is a switch, and ours a choice.
            rest.insert("init_weights".to_owned(), "vera".into());
            let mut config: Self = from_fields(peft::renamed(rest, PEFT))?;
            config.lora.target = target;
            Ok(config)
        })
    }

    fn names() -> &'static peft::Names {
        PEFT
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        if self.definition == VeraDefinition::Matrices {
            return Err(peft::refuse("AdapterHub's definition of VeRA"));
        }
        let mut fields = self.lora.target.to_peft("VERA", &self.lora.extra, sites, host)?;
        fields.extend(peft::selected(to_fields(self, &[]), PEFT));
        fields.insert("init_weights".to_owned(), true.into());
        Ok(fields)
    }
}

/// The update of one layer with AdapterHub's full matrices.
#[derive(Module, Debug)]
pub(crate) struct VeraMatrices {
    /// Input features of the layer.
    pub(crate) d_in: usize,
    /// `[r, r]`.
    pub(crate) d: Param<Tensor<2>>,
    /// `[d_out, d_out]`.
    pub(crate) b: Param<Tensor<2>>,
    /// Replaces the constant scale where there is one.
    pub(crate) gate: Option<Gate>,
    /// The constant scale `s`.
    pub(crate) scale: f64,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
    /// Which projections of a fused one are adapted.
    #[module(skip)]
    pub(crate) fused: Option<FusedProjection>,
}

impl Factored for VeraMatrices {
    type Shared = SharedMatrices;

    fn factors(&self, shared: &SharedMatrices) -> (Tensor<2>, Tensor<2>) {
        (
            scatter_rows(self.fused.as_ref(), self.b.val().matmul(shared.b())),
            self.d.val().matmul(shared.a()),
        )
    }

    fn scale(&self) -> Option<f64> {
        self.gate.is_none().then_some(self.scale)
    }
}

impl SiteAdapter<LinearState, SharedMatrices> for VeraMatrices {
    fn apply(&self, state: LinearState, call: &Call<'_, SharedMatrices>) -> LinearState {
        apply_factors(self, state, call, self.dropout, self.gate.as_ref())
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Previous { width: Some(self.d_in) })
    }

    fn causality(&self) -> Causality {
        Causality::of_gate(&self.gate)
    }

    fn merged(&self, base: LinearWeight, shared: &SharedMatrices) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.update(shared)?))
    }
}

impl NamedParams for VeraMatrices {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("vera_D".into(), self.d.id), ("vera_B".into(), self.b.id)];
        params.extend(self.gate.iter().flat_map(Gate::named_params));
        params
    }
}

/// The update of one layer with peft's vectors.
#[derive(Module, Debug)]
pub(crate) struct VeraVectors {
    /// `[r]`.
    pub(crate) d: Param<Tensor<1>>,
    /// `[d_out]`.
    pub(crate) b: Param<Tensor<1>>,
    /// Input features of this layer: it takes as many columns of A.
    pub(crate) d_in: usize,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
    /// Which projections of a fused one are adapted.
    #[module(skip)]
    pub(crate) fused: Option<FusedProjection>,
}

impl Factored for VeraVectors {
    type Shared = SharedMatrices;

    fn factors(&self, shared: &SharedMatrices) -> (Tensor<2>, Tensor<2>) {
        let [d_out] = self.b.dims();
        let left = shared.b().slice_dim(0, 0..d_out) * self.b.val().unsqueeze_dim(1);
        let right = shared.a().slice_dim(1, 0..self.d_in) * self.d.val().unsqueeze_dim(1);
        (scatter_rows(self.fused.as_ref(), left), right)
    }

    fn scale(&self) -> Option<f64> {
        Some(1.0)
    }
}

impl SiteAdapter<LinearState, SharedMatrices> for VeraVectors {
    fn apply(&self, state: LinearState, call: &Call<'_, SharedMatrices>) -> LinearState {
        apply_factors(self, state, call, self.dropout, None)
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Previous { width: Some(self.d_in) })
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &SharedMatrices) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.update(shared)?))
    }
}

impl NamedParams for VeraVectors {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![("vera_lambda_b".into(), self.b.id), ("vera_lambda_d".into(), self.d.id)]
    }
}
