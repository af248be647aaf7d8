//! How the scale of a low-rank update follows from `alpha` and the rank.

use adapters_core::ConfigError;
use serde::{Deserialize, Serialize};

/// How the scale `s` of the delta is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ScalingFields", into = "ScalingFields")]
pub enum Scaling {
    /// `alpha / rank`.
    #[default]
    Standard,
    /// `alpha / sqrt(rank)`: *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, Kalajdzievski, 2023,
    /// <https://arxiv.org/abs/2312.03732>.
    RankStabilized,
    /// A learned gate in place of a constant: the mean over all positions (padding included, as in the reference)
    /// of `sigmoid(w x + c)`. UniPELT, Mao et al., 2022, <https://arxiv.org/abs/2110.07577>.
    Gated,
}

impl Scaling {
    /// The constant scale; under a gate what it would be.
    pub(crate) fn scale(self, alpha: f64, rank: usize) -> f64 {
        match self {
            Self::Standard | Self::Gated => alpha / rank as f64,
            Self::RankStabilized => alpha / (rank as f64).sqrt(),
        }
    }
}

/// The published fields.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct ScalingFields {
    use_gating: bool,
    use_rslora: bool,
}

impl TryFrom<ScalingFields> for Scaling {
    type Error = ConfigError;

    fn try_from(fields: ScalingFields) -> Result<Self, ConfigError> {
        match (fields.use_gating, fields.use_rslora) {
            (false, false) => Ok(Self::Standard),
            (false, true) => Ok(Self::RankStabilized),
            (true, false) => Ok(Self::Gated),
            (true, true) => Err(ConfigError::OutOfRange {
                field: "use_rslora",
                expected: "false with use_gating, which replaces the scale",
                found: "true".to_owned(),
            }),
        }
    }
}

impl From<Scaling> for ScalingFields {
    fn from(scaling: Scaling) -> Self {
        Self {
            use_gating: scaling == Scaling::Gated,
            use_rslora: scaling == Scaling::RankStabilized,
        }
    }
}
