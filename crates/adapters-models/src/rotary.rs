//! Rotary position embeddings: queries and keys rotated by angles that grow with their position.
//!
//! Paper: *RoFormer: Enhanced Transformer with Rotary Position Embedding*, Su et al., 2021,
//! <https://arxiv.org/abs/2104.09864>. The two halves of the rotated features of a head form the pairs, as in Hugging
//! Face transformers, and not neighboring features.

use std::f64::consts::{PI, TAU};

use adapters_core::Hooks;
use adapters_nn::ops;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::packing::Packing;
use crate::rotary_scaling::RotaryScaling;

/// The angles of a model, a position and a pair of features: `angle = position * frequency`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotary {
    frequencies: Frequencies,
    /// Factor on cosines and sines.
    amplitude: f64,
}

/// The frequencies of the pairs, which may depend on the length of the text.
#[derive(Clone, Debug, PartialEq)]
enum Frequencies {
    /// The same for every text.
    Fixed(Vec<f32>),
    /// Of a base that grows with texts longer than `original`.
    Dynamic {
        features: usize,
        theta: f64,
        factor: f64,
        original: f64,
    },
    /// Others for texts longer than `original`.
    ByLength {
        original: f64,
        short: Vec<f32>,
        long: Vec<f32>,
    },
}

/// `theta^(-2i / features)` for each pair.
fn plain(features: usize, theta: f64) -> impl Iterator<Item = f64> {
    (0..features / 2).map(move |pair| theta.powf(-((2 * pair) as f64) / features as f64))
}

impl Rotary {
    /// Rotates the first `features` of each head.
    pub(crate) fn new(features: usize, theta: f64, scaling: RotaryScaling) -> Self {
        let plain = || plain(features, theta);
        let fixed = |frequencies: &mut dyn Iterator<Item = f64>| {
            Frequencies::Fixed(frequencies.map(|frequency| frequency as f32).collect())
        };
        let (frequencies, amplitude) = match scaling {
            RotaryScaling::Default => (fixed(&mut plain()), 1.0),
            RotaryScaling::Linear { factor } => (fixed(&mut plain().map(|frequency| frequency / factor)), 1.0),
            RotaryScaling::Dynamic { factor, original } => {
                let frequencies = Frequencies::Dynamic {
                    features,
                    theta,
                    factor,
                    original,
                };
                (frequencies, 1.0)
            }
            RotaryScaling::Yarn {
                factor,
                original,
                fast,
                slow,
                whole,
                amplitude,
            } => {
                // The pair that turns so often in the longest text.
                let pair = |turns: f64| features as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (first, last) = match whole {
                    true => (pair(fast).floor(), pair(slow).ceil()),
                    false => (pair(fast), pair(slow)),
                };
                let (first, mut last) = (first.max(0.0), last.min(features as f64 - 1.0));
                if first == last {
                    last += 0.001;
                }
                let mut scaled = plain().enumerate().map(|(pair, frequency)| {
                    let slow = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
                    frequency * (slow / factor + 1.0 - slow)
                });
                (fixed(&mut scaled), amplitude)
            }
            RotaryScaling::LongRope {
                original,
                short,
                long,
                amplitude,
            } => {
                let divided = |by: Vec<f64>| {
                    let pairs = plain().zip(by);
                    pairs.map(|(frequency, by)| (frequency / by) as f32).collect()
                };
                let frequencies = Frequencies::ByLength {
                    original,
                    short: divided(short),
                    long: divided(long),
                };
                (frequencies, amplitude)
            }
            RotaryScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let mut scaled = plain().map(|frequency| {
                    let turns = original * frequency / TAU;
                    let fast = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * (fast + (1.0 - fast) / factor)
                });
                (fixed(&mut scaled), 1.0)
            }
        };
        Self { frequencies, amplitude }
    }

    /// Cosines and sines at positions `[rows, seq]`, for all layers of a pass over a text whose last position is among them.
    pub(crate) fn at(&self, positions: Tensor<2, Int>, device: &Device) -> Rotation {
        let [rows, seq] = positions.dims();
        let frequencies = match &self.frequencies {
            Frequencies::Fixed(frequencies) => frequencies.clone(),
            others => {
                let last: i64 = positions.clone().max().into_scalar();
                others.of_length((last + 1) as f64)
            }
        };
        let pairs = frequencies.len();
        let data = TensorData::new(frequencies, [1, 1, 1, pairs]);
        let frequencies = Tensor::<4>::from_data(data, device);
        let angles = positions.float().reshape([rows, 1, seq, 1]) * frequencies;
        let scaled = |x: Tensor<4>| if self.amplitude == 1.0 { x } else { x * self.amplitude };
        Rotation {
            cos: scaled(angles.clone().cos()),
            sin: scaled(angles.sin()),
        }
    }
}

impl Rotary {
    /// Whether keys and values of a text of `past` positions are those of the same text at its begin when it has grown to `all`.
    pub(crate) fn keeps(&self, past: usize, all: usize) -> bool {
        match &self.frequencies {
            Frequencies::Fixed(_) => true,
            Frequencies::Dynamic { original, .. } => all as f64 <= *original,
            Frequencies::ByLength { original, .. } => (past as f64 <= *original) == (all as f64 <= *original),
        }
    }
}

impl Frequencies {
    /// Those of a text of so many positions.
    fn of_length(&self, length: f64) -> Vec<f32> {
        match self {
            Self::Fixed(frequencies) => frequencies.clone(),
            Self::Dynamic {
                features,
                theta,
                factor,
                original,
            } => {
                let grown = factor * length.max(*original) / original - (factor - 1.0);
                let exponent = *features as f64 / (*features as f64 - 2.0);
                let theta = theta * grown.powf(exponent);
                plain(*features, theta).map(|frequency| frequency as f32).collect()
            }
            Self::ByLength { original, short, long } => if length > *original { long } else { short }.clone(),
        }
    }
}

/// Positions of the last `seq` of `past + seq` tokens, `[1 or batch, seq]`. Padding has positions, as in transformers, but where
/// a text is generated: there it stands in front, and a text gets the tokens it gets alone.
pub(crate) fn positions(
    [seq, past]: [usize; 2],
    padding: Option<&Tensor<2, Bool>>,
    packing: Option<&Packing>,
    device: &Device,
    cx: &Hooks<'_>,
) -> Tensor<2, Int> {
    if let Some(packing) = packing {
        return packing.positions() + cx.first_position() as i64;
    }
    let padding = padding.filter(|_| cx.pass().prompt.is_some());
    ops::positions(seq, past, padding, device) + cx.first_position() as i64
}

/// Cosines and sines of a pass, `[1 or batch, 1, seq, pairs]`.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    /// `(a cos - b sin, b cos + a sin)` for the halves `a` and `b` of the rotated features of each head; features behind it stay as they
    /// are.
    ///
    /// # Shapes
    ///
    /// `[batch, heads, seq, d_head] -> [batch, heads, seq, d_head]`
    ///
    /// # Panics
    ///
    /// Panics on another `seq`, and on fewer features than are rotated.
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let (features, d_head) = (2 * self.cos.dims()[3], x.dims()[3]);
        if features == d_head {
            return ops::rotary(x, self.cos.clone(), self.sin.clone());
        }
        let rotated = ops::rotary(x.clone().slice_dim(3, 0..features), self.cos.clone(), self.sin.clone());
        Tensor::cat(vec![rotated, x.slice_dim(3, features..d_head)], 3)
    }

    /// The same with neighboring features in place of halves.
    ///
    /// # Panics
    ///
    /// As [`apply`](Self::apply).
    pub(crate) fn apply_to_neighbors(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, seq, d_head] = x.dims();
        let pairs = self.cos.dims()[3];
        // Features `[pairs, 2]` to `[2, pairs]`, and back.
        let regrouped = |x: Tensor<4>, by: [usize; 2]| {
            x.reshape([batch, heads, seq, by[0], by[1]])
                .swap_dims(3, 4)
                .reshape([batch, heads, seq, 2 * pairs])
        };
        let pairs_apart = regrouped(x.clone().slice_dim(3, 0..2 * pairs), [pairs, 2]);
        let rotated = ops::rotary(pairs_apart, self.cos.clone(), self.sin.clone());
        let rest = x.slice_dim(3, 2 * pairs..d_head);
        Tensor::cat(vec![regrouped(rotated, [2, pairs]), rest], 3)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    fn frequencies(features: usize, scaling: RotaryScaling, length: f64) -> Vec<f32> {
        Rotary::new(features, 1e3, scaling).frequencies.of_length(length)
    }

    /// Wave lengths of 6.3, 63 and 628 tokens with an original length of 128: fast, between and slow.
    #[test]
    fn llama3_leaves_fast_angles_and_slows_the_others() {
        let scaling = RotaryScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 128.0,
        };
        let plain = frequencies(6, RotaryScaling::Default, 1.0);
        let scaled = frequencies(6, scaling, 1.0);
        assert_eq!(plain, [1.0, 0.1, 0.01]);
        assert_eq!((scaled[0], scaled[2]), (1.0, 0.01 / 8.0));
        // (128 / 62.83 - 1) / 3 = 0.3457 of the way to fast.
        assert!((scaled[1] - 0.1 * (0.3457 + 0.6543 / 8.0)).abs() < 1e-5, "{scaled:?}");
        assert_eq!(frequencies(6, RotaryScaling::Linear { factor: 2.0 }, 1.0)[1], 0.05);
    }

    #[test]
    fn long_texts_have_frequencies_of_their_own() {
        let scaling = RotaryScaling::Dynamic {
            factor: 2.0,
            original: 10.0,
        };
        assert_eq!(frequencies(6, scaling.clone(), 10.0), [1.0, 0.1, 0.01]);
        // A base of 1000 (2 * 20 / 10 - 1)^(6 / 4) = 5196.
        let long = frequencies(6, scaling, 20.0);
        assert!((long[2] - 5196.15f32.powf(-2.0 / 3.0)).abs() < 1e-6, "{long:?}");
        let scaling = RotaryScaling::LongRope {
            original: 10.0,
            short: vec![1.0, 2.0, 4.0],
            long: vec![2.0, 4.0, 8.0],
            amplitude: 1.5,
        };
        assert_eq!(frequencies(6, scaling.clone(), 10.0), [1.0, 0.05, 0.0025]);
        assert_eq!(frequencies(6, scaling, 11.0), [0.5, 0.025, 0.00125]);
    }

    #[test]
    fn products_depend_on_the_distance_alone() {
        let device = Device::flex();
        let rotary = Rotary::new(8, 1e4, RotaryScaling::Default);
        let random = || Tensor::<4>::random([1, 1, 1, 8], Distribution::Normal(0.0, 1.0), &device);
        let (q, k) = (random(), random());
        let product = |query: i64, key: i64| {
            let at = |position: i64| rotary.at(Tensor::from_ints([[position]], &device), &device);
            (at(query).apply(q.clone()) * at(key).apply(k.clone()))
                .sum()
                .into_data()
        };
        let near = product(7, 4);
        near.assert_approx_eq::<f32>(&product(103, 100), Tolerance::absolute(1e-4));
        assert_ne!(near, product(7, 5));
        assert_eq!(product(0, 0), (q.clone() * k.clone()).sum().into_data());
    }
}
