//! The reduction factor: one number, or one for each layer.

use std::collections::BTreeMap;

use adapters_core::ConfigError;
use serde::{Deserialize, Serialize};

const FIELD: &str = "reduction_factor";

/// How much narrower than the model the bottleneck is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a map of numbers by layer")]
pub enum Reduction {
    /// One factor for every layer.
    Uniform(f64),
    /// Factors by layer number, counted from 0; the factor of `"default"` is that of the layers not named, which cannot be
    /// adapted without it.
    PerLayer(BTreeMap<String, f64>),
}

impl Reduction {
    /// The factor of `layer`, or `None` where neither the layer nor a default is given.
    pub fn factor(&self, layer: usize) -> Option<f64> {
        match self {
            Self::Uniform(factor) => Some(*factor),
            Self::PerLayer(factors) => factors.get(&layer.to_string()).or(factors.get("default")).copied(),
        }
    }

    /// Bottleneck size of `layer` in a model of width `hidden`: `max(1, hidden // factor)`, where `//` is Python's
    /// division of floats: `768 // 0.1` is 7679, not 7680.
    pub fn bottleneck_size(&self, layer: usize, hidden: usize) -> Option<usize> {
        let factor = self.factor(layer)?;
        let hidden = hidden as f64;
        let quotient = (hidden - hidden % factor) / factor;
        Some((quotient.round() as usize).max(1))
    }

    /// Refuses factors that are not positive, and keys that are no layer.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let positive = |factor: f64| {
            let fits = factor.is_finite() && factor > 0.0;
            ConfigError::unless(fits, FIELD, "a finite number greater than 0", factor)
        };
        let factors = match self {
            Self::Uniform(factor) => return positive(*factor),
            Self::PerLayer(factors) => factors,
        };
        ConfigError::unless(
            !factors.is_empty(),
            FIELD,
            "a factor of some layer, or a `default`",
            "empty",
        )?;
        factors.iter().try_for_each(|(key, factor)| {
            let layer = key.parse::<usize>().is_ok_and(|layer| layer.to_string() == *key);
            let expected = "a map whose keys are layer numbers or `default`";
            ConfigError::unless(
                layer || key == "default",
                FIELD,
                expected,
                format!("a map with `{key}`"),
            )?;
            positive(*factor)
        })
    }
}

impl From<f64> for Reduction {
    fn from(factor: f64) -> Self {
        Self::Uniform(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_python_floor_division_and_at_least_one() {
        let size = |factor: f64, hidden| Reduction::Uniform(factor).bottleneck_size(0, hidden);
        assert_eq!(size(16.0, 768), Some(48));
        assert_eq!(size(128.0, 32), Some(1));
        assert_eq!(size(0.5, 32), Some(64));
        assert_eq!(size(5.0, 32), Some(6));
        assert_eq!((size(0.1, 768), size(0.3, 768)), (Some(7679), Some(2560)));
        let layers = Reduction::PerLayer(BTreeMap::from([("1".to_owned(), 8.0)]));
        assert_eq!(
            (layers.bottleneck_size(1, 32), layers.bottleneck_size(0, 32)),
            (Some(4), None)
        );
    }
}
