//! Linear or hypercomplex projections, with the wire form of the latter.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::BottleneckError;
use crate::wire::{choose, index, keep, name_of};

/// The two projections of the bottleneck.
#[derive(Debug, Clone, PartialEq)]
pub enum Projection {
    /// Plain linear layers.
    Linear,
    /// Parametrized hypercomplex multiplication, as in Compacter.
    Phm(Phm),
}

/// A hypercomplex layer, `H = sum_i kron(rule_i, weight_i)`, `y = xH + b`.
///
/// "Beyond Fully-Connected Layers with Quaternions: Parameterization of Hypercomplex Multiplications with 1/n
/// Parameters", Zhang et al. (2021), <https://arxiv.org/abs/2102.08597>.
#[derive(Debug, Clone, PartialEq)]
pub struct Phm {
    /// Number of summands; divides the width of the model and of the bottleneck (`phm_dim`).
    pub dim: usize,
    /// One rule for all layers (`shared_phm_rule`).
    pub shared_rule: bool,
    /// Each rule is a product of a column and a row (`factorized_phm_rule`).
    pub factorized_rule: bool,
    /// The rules are trained (`learn_phm`).
    pub learn_rule: bool,
    /// How the rules are drawn (`phm_c_init`).
    pub rule_init: RuleInit,
    /// Standard deviation of the normal initializations (`phm_init_range`).
    pub init_range: f64,
    /// One weight for all layers (`shared_W_phm`).
    pub shared_weight: bool,
    /// Shape of the weight (`factorized_phm_W`, `phm_rank`).
    pub weight: PhmWeight,
    /// How the weight is drawn (`hypercomplex_nonlinearity`).
    pub weight_init: WeightInit,
    /// A bias a projection (`phm_bias`).
    pub bias: bool,
}

impl Default for Phm {
    fn default() -> Self {
        Self {
            dim: 4,
            shared_rule: true,
            factorized_rule: false,
            learn_rule: true,
            rule_init: RuleInit::Normal,
            init_range: 1e-4,
            shared_weight: false,
            weight: PhmWeight::Factorized { rank: 1 },
            weight_init: WeightInit::GlorotUniform,
            bias: true,
        }
    }
}

/// Shape of a hypercomplex layer's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhmWeight {
    /// One full matrix a summand.
    Full,
    /// A product of two, `weight_i = left_i right_i`.
    Factorized {
        /// Inner size of the product.
        rank: usize,
    },
}

/// How the rules of a hypercomplex layer are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleInit {
    /// Normal with standard deviation [`Phm::init_range`].
    Normal,
    /// Uniform in [-1, 1].
    Uniform,
}

/// How the weight of a hypercomplex layer is drawn. The reference draws a Glorot normal whatever the name; the names
/// are kept apart so that files stay as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightInit {
    /// `"glorot-uniform"`.
    GlorotUniform,
    /// `"glorot-normal"`.
    GlorotNormal,
    /// `"normal"`.
    Normal,
    /// `"phm"`.
    Phm,
}

/// The keys of hypercomplex layers, which files bear whether `phm_layer` is set or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhmWire {
    /// Weight as a product of two, see [`PhmWeight`].
    #[serde(rename = "factorized_phm_W")]
    pub factorized_phm_w: Option<bool>,
    /// Rule as a product of two.
    pub factorized_phm_rule: Option<bool>,
    /// How the weight is drawn, see [`WeightInit`].
    pub hypercomplex_nonlinearity: Option<String>,
    /// Train the rules.
    pub learn_phm: Option<bool>,
    /// A bias a projection.
    pub phm_bias: Option<bool>,
    /// How the rules are drawn, see [`RuleInit`].
    pub phm_c_init: Option<String>,
    /// Number of summands.
    pub phm_dim: i64,
    /// Standard deviation of the normal initializations.
    pub phm_init_range: Option<f64>,
    /// Inner size of a factorised weight.
    pub phm_rank: Option<i64>,
    /// One weight for all layers.
    #[serde(rename = "shared_W_phm")]
    pub shared_w_phm: Option<bool>,
    /// One rule for all layers.
    pub shared_phm_rule: Option<bool>,
}

impl Default for PhmWire {
    fn default() -> Self {
        Self::from(&Phm::default())
    }
}

const RULE_INITS: [(&str, RuleInit); 2] = [("normal", RuleInit::Normal), ("uniform", RuleInit::Uniform)];
const WEIGHT_INITS: [(&str, WeightInit); 4] = [
    ("glorot-uniform", WeightInit::GlorotUniform),
    ("glorot-normal", WeightInit::GlorotNormal),
    ("normal", WeightInit::Normal),
    ("phm", WeightInit::Phm),
];
/// Reads the keys; `phm_rank` without factors goes to `extra`.
pub(crate) fn read(wire: &PhmWire, extra: &mut Map<String, Value>) -> Result<Phm, BottleneckError> {
    let missing = |field| BottleneckError::Missing {
        field,
        expected: "a value, as phm_layer is set",
    };
    let rank = wire.phm_rank.ok_or(missing("phm_rank"));
    let weight = if wire.factorized_phm_w.unwrap_or(false) {
        PhmWeight::Factorized {
            rank: index("phm_rank", rank?)?,
        }
    } else {
        keep(extra, "phm_rank", json!(wire.phm_rank), 1.into());
        PhmWeight::Full
    };
    let rule_init = wire.phm_c_init.as_deref().ok_or(missing("phm_c_init"))?;
    let weight_init = wire
        .hypercomplex_nonlinearity
        .as_deref()
        .ok_or(missing("hypercomplex_nonlinearity"))?;
    Ok(Phm {
        dim: index("phm_dim", wire.phm_dim)?,
        shared_rule: wire.shared_phm_rule.unwrap_or(false),
        factorized_rule: wire.factorized_phm_rule.unwrap_or(false),
        learn_rule: wire.learn_phm.unwrap_or(false),
        rule_init: choose("phm_c_init", &RULE_INITS, rule_init)?,
        init_range: wire.phm_init_range.ok_or(missing("phm_init_range"))?,
        shared_weight: wire.shared_w_phm.unwrap_or(false),
        weight,
        weight_init: choose("hypercomplex_nonlinearity", &WEIGHT_INITS, weight_init)?,
        bias: wire.phm_bias.unwrap_or(false),
    })
}

impl From<&Phm> for PhmWire {
    fn from(phm: &Phm) -> Self {
        let rank = match phm.weight {
            PhmWeight::Factorized { rank } => Some(rank as i64),
            PhmWeight::Full => None,
        };
        Self {
            factorized_phm_w: Some(rank.is_some()),
            factorized_phm_rule: Some(phm.factorized_rule),
            hypercomplex_nonlinearity: Some(name_of(&WEIGHT_INITS, &phm.weight_init).to_owned()),
            learn_phm: Some(phm.learn_rule),
            phm_bias: Some(phm.bias),
            phm_c_init: Some(name_of(&RULE_INITS, &phm.rule_init).to_owned()),
            phm_dim: phm.dim as i64,
            phm_init_range: Some(phm.init_range),
            phm_rank: Some(rank.unwrap_or(1)),
            shared_w_phm: Some(phm.shared_weight),
            shared_phm_rule: Some(phm.shared_rule),
        }
    }
}
