//! The configuration of a fusion, and its published form.

use adapters_core::{ConfigError, Error, config};
use adapters_nn::UnknownName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::method::FAMILY;

/// How adapters are fused: `sum_i softmax_i(q(x) . k(u_i) / T) v(u_i) + residual`, where `u_i` is what adapter `i` adds
/// before its gate, norm and residual.
///
/// In files the choices are the true-or-false fields of the reference, under its names and with its defaults. Where the
/// reference regularizes whether or not `regularization` is set, this follows the field.
///
/// Paper: *AdapterFusion: Non-Destructive Task Composition for Transfer Learning*, Pfeiffer et al., 2021,
/// <https://arxiv.org/abs/2005.00247>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Published", into = "Published")]
pub struct FusionConfig {
    /// The query projection `q`.
    pub query: Projection,
    /// Which state the query is computed from.
    pub query_state: QueryState,
    /// The key projection `k`.
    pub key: Projection,
    /// The value projection `v`.
    pub value: ValueProjection,
    /// What the residual is added to.
    pub residual: ResidualPath,
    /// What the scores are divided by.
    pub temperature: Temperature,
    /// Dropout probability on the scores, at least 0 and below 1; without it, and at 0, that of the model's attention.
    pub dropout_prob: Option<f64>,
    /// Fields of a file this version does not know, kept and written back.
    pub extra: Map<String, Value>,
}

/// A projection of queries or keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// None: the identity.
    Identity,
    /// A learned linear map with a bias.
    Learned,
}

/// Which state a query is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryState {
    /// The hidden state before its normalization.
    BeforeNorm,
    /// The hidden state that the adapters read.
    AsRead,
}

/// The projection of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueProjection {
    /// None: the identity.
    Identity,
    /// A learned linear map without a bias.
    Learned {
        /// Its initial values.
        start: ValueStart,
        /// When it is applied.
        order: ValueOrder,
        /// What training adds to the loss for it.
        regularization: Regularization,
    },
}

/// Initial values of a value projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueStart {
    /// Ones on the diagonal and 1e-6 elsewhere.
    NearIdentity,
    /// Normal with standard deviation 0.02.
    Random,
}

/// When values are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueOrder {
    /// Each, before they are weighed.
    BeforeWeighing,
    /// Their weighed sum.
    AfterWeighing,
}

/// What training adds to the loss for a value projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regularization {
    /// Nothing.
    None,
    /// `0.01 sum (I - V)^2`, which keeps it near the identity.
    TowardIdentity,
}

/// What the residual is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidualPath {
    /// The weighed sum of the values.
    ToResult,
    /// What each adapter adds, before keys and values are computed from it.
    ToKeysAndValues,
}

/// What the scores are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temperature {
    /// Nothing.
    One,
    /// `max(50 - 0.05 n, 1)` in pass `n` of training, see [`Ctx::after_passes`](adapters_core::Ctx::after_passes).
    Falling,
}

/// The published form, with the defaults of the reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Published {
    key: bool,
    query: bool,
    value: bool,
    query_before_ln: bool,
    regularization: bool,
    residual_before: bool,
    temperature: bool,
    value_before_softmax: bool,
    value_initialized: bool,
    dropout_prob: Option<f64>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Default for Published {
    fn default() -> Self {
        FusionConfig::dynamic().into()
    }
}

impl From<Published> for FusionConfig {
    fn from(p: Published) -> Self {
        fn pick<T>(chosen: bool, yes: T, no: T) -> T {
            if chosen { yes } else { no }
        }
        let learned = |learned| pick(learned, Projection::Learned, Projection::Identity);
        let value = ValueProjection::Learned {
            start: pick(p.value_initialized, ValueStart::NearIdentity, ValueStart::Random),
            order: pick(
                p.value_before_softmax,
                ValueOrder::BeforeWeighing,
                ValueOrder::AfterWeighing,
            ),
            regularization: pick(p.regularization, Regularization::TowardIdentity, Regularization::None),
        };
        Self {
            query: learned(p.query),
            query_state: pick(p.query_before_ln, QueryState::BeforeNorm, QueryState::AsRead),
            key: learned(p.key),
            value: pick(p.value, value, ValueProjection::Identity),
            residual: pick(p.residual_before, ResidualPath::ToKeysAndValues, ResidualPath::ToResult),
            temperature: pick(p.temperature, Temperature::Falling, Temperature::One),
            dropout_prob: p.dropout_prob,
            extra: p.extra,
        }
    }
}

impl From<FusionConfig> for Published {
    /// Without a value projection its fields are those of the reference's `static`.
    fn from(config: FusionConfig) -> Self {
        let (value, start, order, regularization) = match config.value {
            ValueProjection::Identity => (
                false,
                ValueStart::Random,
                ValueOrder::BeforeWeighing,
                Regularization::None,
            ),
            ValueProjection::Learned {
                start,
                order,
                regularization,
            } => (true, start, order, regularization),
        };
        Self {
            key: config.key == Projection::Learned,
            query: config.query == Projection::Learned,
            value,
            query_before_ln: config.query_state == QueryState::BeforeNorm,
            regularization: regularization == Regularization::TowardIdentity,
            residual_before: config.residual == ResidualPath::ToKeysAndValues,
            temperature: config.temperature == Temperature::Falling,
            value_before_softmax: order == ValueOrder::BeforeWeighing,
            value_initialized: start == ValueStart::NearIdentity,
            dropout_prob: config.dropout_prob,
            extra: config.extra,
        }
    }
}

impl Default for FusionConfig {
    fn default() -> Self {
        Self::dynamic()
    }
}

impl FusionConfig {
    /// With a value projection, which is kept near the identity. The default.
    pub fn dynamic() -> Self {
        Self {
            query: Projection::Learned,
            query_state: QueryState::AsRead,
            key: Projection::Learned,
            value: ValueProjection::Learned {
                start: ValueStart::NearIdentity,
                order: ValueOrder::BeforeWeighing,
                regularization: Regularization::TowardIdentity,
            },
            residual: ResidualPath::ToResult,
            temperature: Temperature::One,
            dropout_prob: None,
            extra: Map::new(),
        }
    }

    /// Without a value projection; the reference calls it `static`.
    pub fn fixed_values() -> Self {
        Self {
            value: ValueProjection::Identity,
            ..Self::dynamic()
        }
    }

    /// The configuration of that name, `dynamic` or `static`.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownName`].
    pub fn named(name: &str) -> Result<Self, Error> {
        match name {
            "dynamic" => Ok(Self::dynamic()),
            "static" => Ok(Self::fixed_values()),
            other => Err(UnknownName::new("fusion configuration", other, ["dynamic", "static"]).into()),
        }
    }

    /// From the object of a file. Unknown fields are kept.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a field of another type or outside its range.
    pub fn read(fields: Map<String, Value>) -> Result<Self, Error> {
        let config: Self = Error::in_config(FAMILY, config::from_fields(fields))?;
        Error::in_config(FAMILY, config.check())?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let dropout = self.dropout_prob.unwrap_or(0.0);
        ConfigError::probability("dropout_prob", dropout)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn published_fields_are_read_and_written_as_they_are() {
        let mut of_static = fields(json!({
            "key": true, "query": true, "value": false, "query_before_ln": false, "regularization": false,
            "residual_before": false, "temperature": false, "value_before_softmax": true,
            "value_initialized": false, "dropout_prob": null,
        }));
        let read = FusionConfig::read(of_static.clone()).unwrap();
        assert_eq!(read, FusionConfig::fixed_values());
        assert_eq!(config::to_fields(&read, &[]), of_static);
        // Each field by itself, in files that have a value projection.
        let base = config::to_fields(&FusionConfig::dynamic(), &[]);
        for field in base
            .keys()
            .filter(|field| *field != "dropout_prob" && *field != "value")
        {
            let mut changed = base.clone();
            changed[field] = json!(base[field] != json!(true));
            let read = FusionConfig::read(changed.clone()).unwrap();
            assert_ne!(read, FusionConfig::dynamic(), "{field}");
            assert_eq!(config::to_fields(&read, &[]), changed, "{field}");
        }
        of_static.insert("dropout_prob".to_owned(), json!(1.0));
        assert!(FusionConfig::read(of_static).is_err());
    }

    #[test]
    fn missing_fields_are_those_of_dynamic_and_unknown_ones_are_kept() {
        let read = FusionConfig::read(fields(json!({"new": 3}))).unwrap();
        assert_eq!(read.extra["new"], json!(3));
        assert_eq!(
            FusionConfig {
                extra: Map::new(),
                ..read
            },
            FusionConfig::dynamic()
        );
    }
}
