//! Rotary position embeddings: queries and keys turned by angles that grow with their position.
//!
//! Paper: *RoFormer: Enhanced Transformer with Rotary Position Embedding*, Su et al., 2021,
//! <https://arxiv.org/abs/2104.09864>. The two halves of a head are turned against each other, as in Hugging Face
//! transformers, and not neighboring features.

use std::f64::consts::TAU;

use adapters_nn::ops;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Deserialize;
use serde_json::Value;

/// How the angles of a checkpoint are scaled to longer inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Not at all.
    Default,
    /// All positions divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Slow angles divided by a factor, fast ones as they are, and a passage between them. As published with Llama 3.1.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wave lengths above `original / low` are slow.
        low: f64,
        /// Wave lengths below `original / high` are fast.
        high: f64,
        /// Longest input before scaling.
        original: f64,
    },
}

/// `rope_scaling` of a published configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RotaryFields {
    /// `default`, `linear` or `llama3`.
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
    /// The base of the angles, in newer files.
    pub rope_theta: Option<f64>,
    /// By what positions are divided.
    pub factor: Option<f64>,
    /// Of `llama3`.
    pub low_freq_factor: Option<f64>,
    /// Of `llama3`.
    pub high_freq_factor: Option<f64>,
    /// Of `llama3`.
    pub original_max_position_embeddings: Option<f64>,
}

/// What of a `rope_scaling` is not computed, or is wrong: field, expected, found.
pub(crate) type Refused = (&'static str, &'static str, String);

impl RotaryFields {
    /// The scaling they describe.
    pub(crate) fn scaling(&self) -> Result<RotaryScaling, Refused> {
        let number = |field, value: Option<f64>| match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err((field, "a number above zero", value.to_string())),
            None => Err((field, "a number above zero", Value::Null.to_string())),
        };
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(RotaryScaling::Default),
            Some("linear") => Ok(RotaryScaling::Linear {
                factor: number("rope_scaling.factor", self.factor)?,
            }),
            Some("llama3") => {
                let low = number("rope_scaling.low_freq_factor", self.low_freq_factor)?;
                let high = number("rope_scaling.high_freq_factor", self.high_freq_factor)?;
                if high <= low {
                    let expected = "a number above low_freq_factor";
                    return Err(("rope_scaling.high_freq_factor", expected, high.to_string()));
                }
                Ok(RotaryScaling::Llama3 {
                    factor: number("rope_scaling.factor", self.factor)?,
                    low,
                    high,
                    original: number(
                        "rope_scaling.original_max_position_embeddings",
                        self.original_max_position_embeddings,
                    )?,
                })
            }
            Some(other) => Err((
                "rope_scaling.rope_type",
                "`default`, `linear` or `llama3`",
                format!("`{other}`"),
            )),
        }
    }
}

/// The angles of a model, a position and a pair of features: `angle = position * frequency`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    frequencies: Vec<f32>,
}

impl Rotary {
    /// `theta^(-2i / d_head)` for each pair of features, scaled.
    pub fn new(d_head: usize, theta: f64, scaling: RotaryScaling) -> Self {
        let frequency = |pair: usize| {
            let plain = theta.powf(-((2 * pair) as f64) / d_head as f64);
            match scaling {
                RotaryScaling::Default => plain,
                RotaryScaling::Linear { factor } => plain / factor,
                RotaryScaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    let turns = original * plain / TAU;
                    let fast = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    plain * (fast + (1.0 - fast) / factor)
                }
            }
        };
        Self {
            frequencies: (0..d_head / 2).map(|pair| frequency(pair) as f32).collect(),
        }
    }

    /// Cosines and sines at positions `[rows, seq]`, for all layers of a pass.
    pub fn at(&self, positions: Tensor<2, Int>, device: &Device) -> Turns {
        let [rows, seq] = positions.dims();
        let pairs = self.frequencies.len();
        let data = TensorData::new(self.frequencies.clone(), [1, 1, 1, pairs]);
        let frequencies = Tensor::<4>::from_data(data, device);
        let angles = positions.float().reshape([rows, 1, seq, 1]) * frequencies;
        Turns {
            cos: angles.clone().cos(),
            sin: angles.sin(),
        }
    }
}

/// Cosines and sines of a pass, `[1 or batch, 1, seq, d_head / 2]`.
#[derive(Clone, Debug)]
pub struct Turns {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Turns {
    /// `(a cos - b sin, b cos + a sin)` for the halves `a` and `b` of each head.
    ///
    /// # Shapes
    ///
    /// `[batch, heads, seq, d_head] -> [batch, heads, seq, d_head]`
    ///
    /// # Panics
    ///
    /// Panics on another `seq` or `d_head`.
    pub fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let (d_head, turned) = (x.dims()[3], 2 * self.cos.dims()[3]);
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        if turned == d_head {
            return ops::turn(x, cos, sin);
        }
        let rest = x.clone().slice_dim(3, turned..d_head);
        let turning = x.slice_dim(3, 0..turned);
        Tensor::cat(vec![ops::turn(turning, cos, sin), rest], 3)
    }

    /// The same with neighboring features in place of halves.
    ///
    /// # Panics
    ///
    /// As [`turn`](Self::turn).
    pub fn turn_neighbors(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, seq, d_head] = x.dims();
        let pairs = self.cos.dims()[3];
        // Features `[pairs, 2]` to `[2, pairs]`, and back.
        let regrouped = |x: Tensor<4>, by: [usize; 2]| {
            x.reshape([batch, heads, seq, by[0], by[1]])
                .swap_dims(3, 4)
                .reshape([batch, heads, seq, 2 * pairs])
        };
        let turning = regrouped(x.clone().slice_dim(3, 0..2 * pairs), [pairs, 2]);
        let turned = ops::turn(turning, self.cos.clone(), self.sin.clone());
        let rest = x.slice_dim(3, 2 * pairs..d_head);
        Tensor::cat(vec![regrouped(turned, [2, pairs]), rest], 3)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    /// Wave lengths of 6.3, 63 and 628 tokens with an original length of 128: fast, between and slow.
    #[test]
    fn llama3_leaves_fast_angles_and_slows_the_others() {
        let scaling = RotaryScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 128.0,
        };
        let plain = Rotary::new(6, 1e3, RotaryScaling::Default).frequencies;
        let scaled = Rotary::new(6, 1e3, scaling).frequencies;
        assert_eq!(plain, [1.0, 0.1, 0.01]);
        assert_eq!((scaled[0], scaled[2]), (1.0, 0.01 / 8.0));
        // (128 / 62.83 - 1) / 3 = 0.3457 of the way to fast.
        assert!((scaled[1] - 0.1 * (0.3457 + 0.6543 / 8.0)).abs() < 1e-5, "{scaled:?}");
        assert_eq!(
            Rotary::new(6, 1e3, RotaryScaling::Linear { factor: 2.0 }).frequencies[1],
            0.05
        );
    }

    #[test]
    fn products_depend_on_the_distance_alone() {
        let device = Device::flex();
        let rotary = Rotary::new(8, 1e4, RotaryScaling::Default);
        let random = || Tensor::<4>::random([1, 1, 1, 8], Distribution::Normal(0.0, 1.0), &device);
        let (q, k) = (random(), random());
        let product = |query: i64, key: i64| {
            let at = |position: i64| rotary.at(Tensor::from_ints([[position]], &device), &device);
            (at(query).turn(q.clone()) * at(key).turn(k.clone())).sum().into_data()
        };
        let near = product(7, 4);
        near.assert_approx_eq::<f32>(&product(103, 100), Tolerance::absolute(1e-4));
        assert_ne!(near, product(7, 5));
        assert_eq!(product(0, 0), (q.clone() * k.clone()).sum().into_data());
    }
}
