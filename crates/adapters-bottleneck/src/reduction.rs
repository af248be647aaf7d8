//! The reduction factor: one number, or one a layer; with its wire form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::BottleneckError;

/// How much narrower than the model the bottleneck is.
#[derive(Debug, Clone, PartialEq)]
pub enum Reduction {
    /// One factor for every layer.
    Uniform(f64),
    /// A factor a layer, counted from 0, and one for the layers not named.
    PerLayer {
        /// Factor of each named layer.
        layers: BTreeMap<usize, f64>,
        /// Factor of all others; without it a layer that is not named cannot be adapted.
        default: Option<f64>,
    },
}

impl Reduction {
    /// The factor of `layer`, or `None` where neither the layer nor a default is given.
    pub fn factor(&self, layer: usize) -> Option<f64> {
        match self {
            Self::Uniform(factor) => Some(*factor),
            Self::PerLayer { layers, default } => layers.get(&layer).copied().or(*default),
        }
    }

    /// Bottleneck size of `layer` in a model of width `hidden`: `max(1, hidden // factor)`.
    ///
    /// Follows the reference, that is, Python's `//` on floats: `768 // 0.1` is 7679, not 7680.
    pub fn bottleneck_size(&self, layer: usize, hidden: usize) -> Option<usize> {
        let factor = self.factor(layer)?;
        let hidden = hidden as f64;
        let quotient = (hidden - hidden % factor) / factor;
        Some((quotient.round() as usize).max(1))
    }

    pub(crate) fn factors(&self) -> impl Iterator<Item = f64> {
        let (one, layers) = match self {
            Self::Uniform(factor) => (Some(*factor), None),
            Self::PerLayer { layers, default } => (*default, Some(layers)),
        };
        one.into_iter()
            .chain(layers.into_iter().flat_map(|map| map.values().copied()))
    }
}

impl From<f64> for Reduction {
    fn from(factor: f64) -> Self {
        Self::Uniform(factor)
    }
}

/// `reduction_factor`: a number, or numbers by layer with the key `default`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`reduction_factor` must be a number or a map of numbers")]
pub enum ReductionWire {
    /// One factor.
    Uniform(Number),
    /// A factor a layer.
    PerLayer(Map<String, Value>),
}

/// Whole factors are written without a fraction, as the reference's own defaults are.
pub(crate) fn number(factor: f64) -> Number {
    let whole = factor.fract() == 0.0 && factor.abs() < 9e15;
    let exact = if whole {
        Some(Number::from(factor as i64))
    } else {
        Number::from_f64(factor)
    };
    // JSON has no NaN; 0 is refused when the file is read, as the value is by `check`.
    exact.unwrap_or_else(|| Number::from(0))
}

impl TryFrom<ReductionWire> for Reduction {
    type Error = BottleneckError;

    fn try_from(wire: ReductionWire) -> Result<Self, BottleneckError> {
        let field = "reduction_factor";
        let bad = |expected, found| BottleneckError::OutOfRange { field, expected, found };
        let float = |value: &Value| {
            value
                .as_f64()
                .ok_or_else(|| bad("a number for every layer", value.to_string()))
        };
        let map = match wire {
            ReductionWire::Uniform(factor) => {
                return Ok(Self::Uniform(float(&Value::Number(factor))?));
            }
            ReductionWire::PerLayer(map) => map,
        };
        let (mut layers, mut default) = (BTreeMap::new(), None);
        for (key, value) in &map {
            if key == "default" {
                default = Some(float(value)?);
                continue;
            }
            let layer: Option<usize> = key.parse().ok().filter(|layer: &usize| layer.to_string() == *key);
            let layer = layer.ok_or_else(|| bad("keys that are layer numbers or `default`", format!("`{key}`")))?;
            layers.insert(layer, float(value)?);
        }
        Ok(Self::PerLayer { layers, default })
    }
}

impl From<&Reduction> for ReductionWire {
    fn from(reduction: &Reduction) -> Self {
        match reduction {
            Reduction::Uniform(factor) => Self::Uniform(number(*factor)),
            Reduction::PerLayer { layers, default } => {
                let layers = layers
                    .iter()
                    .map(|(id, factor)| (id.to_string(), number(*factor).into()));
                let default = default
                    .iter()
                    .map(|factor| ("default".to_owned(), number(*factor).into()));
                Self::PerLayer(layers.chain(default).collect())
            }
        }
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
        let layers = Reduction::PerLayer {
            layers: BTreeMap::from([(1, 8.0)]),
            default: None,
        };
        assert_eq!(
            (layers.bottleneck_size(1, 32), layers.bottleneck_size(0, 32)),
            (Some(4), None)
        );
    }
}
