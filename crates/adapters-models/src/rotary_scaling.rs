//! How the rotary angles of a checkpoint are scaled to longer texts: `rope_scaling` and `rope_parameters` of a configuration.
//!
//! Behavior follows `modeling_rope_utils` of Hugging Face transformers. Papers: *YaRN: Efficient Context Window Extension of
//! Large Language Models*, Peng et al., 2023, <https://arxiv.org/abs/2309.00071>; *LongRoPE*, Ding et al., 2024,
//! <https://arxiv.org/abs/2402.13753>; *The Llama 3 Herd of Models*, 2024, <https://arxiv.org/abs/2407.21783>.

use serde::Deserialize;
use serde_json::Value;

/// How the angles of a checkpoint are scaled to longer texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RotaryScaling {
    /// Not at all.
    Default,
    /// All angles divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// A larger base for texts longer than the original ones, by their length.
    Dynamic {
        /// The factor.
        factor: f64,
        /// Longest text before scaling.
        original: f64,
    },
    /// Slow angles divided by a factor, fast ones as they are, and a ramp over the pairs between them.
    Yarn {
        /// The factor.
        factor: f64,
        /// Longest text before scaling.
        original: f64,
        /// Pairs that turn at least this often in the longest text are fast.
        fast: f64,
        /// Pairs that turn at most this often are slow.
        slow: f64,
        /// Whether the ramp begins and ends at whole pairs.
        whole: bool,
        /// Factor on cosines and sines.
        amplitude: f64,
    },
    /// A divisor for each pair, of short and of long texts.
    LongRope {
        /// Longest short text.
        original: f64,
        /// Divisors for short texts.
        short: Vec<f64>,
        /// Divisors for long texts.
        long: Vec<f64>,
        /// Factor on cosines and sines.
        amplitude: f64,
    },
    /// Slow angles divided by a factor, fast ones as they are, and a passage between them. As published with Llama 3.1.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wave lengths above `original / low` are slow.
        low: f64,
        /// Wave lengths below `original / high` are fast.
        high: f64,
        /// Longest text before scaling.
        original: f64,
    },
}

/// `rope_scaling` of a published configuration, or one kind of layers in `rope_parameters`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct RotaryFields {
    /// `default`, `linear`, `dynamic`, `yarn`, `longrope` or `llama3`.
    pub(crate) rope_type: Option<String>,
    /// The same in older files.
    #[serde(rename = "type")]
    pub(crate) older_type: Option<String>,
    /// The base of the angles, in newer files.
    pub(crate) rope_theta: Option<f64>,
    /// The part of a head that is rotated, in newer files.
    pub(crate) partial_rotary_factor: Option<f64>,
    /// By what angles are divided.
    pub(crate) factor: Option<f64>,
    /// Of `llama3`.
    pub(crate) low_freq_factor: Option<f64>,
    /// Of `llama3`.
    pub(crate) high_freq_factor: Option<f64>,
    /// Longest text before scaling.
    pub(crate) original_max_position_embeddings: Option<f64>,
    /// Of `yarn` and `longrope`: the factor on cosines and sines.
    pub(crate) attention_factor: Option<f64>,
    /// Of `yarn`.
    pub(crate) beta_fast: Option<f64>,
    /// Of `yarn`.
    pub(crate) beta_slow: Option<f64>,
    /// Of `yarn`.
    pub(crate) mscale: Option<f64>,
    /// Of `yarn`.
    pub(crate) mscale_all_dim: Option<f64>,
    /// Of `yarn`.
    pub(crate) truncate: Option<bool>,
    /// Of `longrope`.
    pub(crate) short_factor: Option<Vec<f64>>,
    /// Of `longrope`.
    pub(crate) long_factor: Option<Vec<f64>>,
}

/// `rope_parameters` of a published configuration: for all layers, or by what a layer sees.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected an object of numbers, or one for `full_attention` and one for `sliding_attention`"
)]
#[allow(clippy::large_enum_variant, reason = "there is one for each load")]
pub(crate) enum RotaryParameters {
    /// For full and for sliding attention.
    ByLayer {
        /// Of layers that see the whole text.
        full_attention: RotaryFields,
        /// Of layers with a window.
        sliding_attention: Option<RotaryFields>,
    },
    /// For all layers.
    All(RotaryFields),
}

/// What of a scaling is not computed, or is wrong: field, expected, found.
pub(crate) type Refused = (&'static str, String, String);

/// What a scaling takes from the configuration around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// `max_position_embeddings`.
    pub(crate) longest: usize,
    /// `original_max_position_embeddings` next to it, of `longrope`.
    pub(crate) original: Option<usize>,
    /// Features of a head that are rotated.
    pub(crate) features: usize,
}

impl RotaryFields {
    /// The scaling they describe.
    pub(crate) fn scaling(&self, around: Around) -> Result<RotaryScaling, Refused> {
        let factor = || above_zero("rope_scaling.factor", self.factor);
        let longest = around.longest as f64;
        match self.rope_type.as_deref().or(self.older_type.as_deref()) {
            None | Some("default") => Ok(RotaryScaling::Default),
            Some("linear") => Ok(RotaryScaling::Linear { factor: factor()? }),
            Some("dynamic") => {
                let original = longest;
                let factor = factor()?;
                let expected = || "more than 2 rotary features".to_owned();
                match around.features > 2 {
                    true => Ok(RotaryScaling::Dynamic { factor, original }),
                    false => Err(("rope_scaling", expected(), around.features.to_string())),
                }
            }
            // Phi-3 called it by other names at first.
            Some("longrope" | "su") => self.long(around),
            Some("yarn") if self.short_factor.is_some() => self.long(around),
            Some("yarn") => {
                let original = self.original_max_position_embeddings.filter(|length| *length != 0.0);
                let field = "rope_scaling.original_max_position_embeddings";
                Ok(RotaryScaling::Yarn {
                    factor: factor()?,
                    original: above_zero(field, Some(original.unwrap_or(longest)))?,
                    fast: above_zero("rope_scaling.beta_fast", Some(or_if_zero(self.beta_fast, 32.0)))?,
                    slow: above_zero("rope_scaling.beta_slow", Some(or_if_zero(self.beta_slow, 1.0)))?,
                    whole: self.truncate.unwrap_or(true),
                    amplitude: self.yarn_amplitude(factor()?),
                })
            }
            Some("llama3") => {
                let low = above_zero("rope_scaling.low_freq_factor", self.low_freq_factor)?;
                let high = above_zero("rope_scaling.high_freq_factor", self.high_freq_factor)?;
                if high <= low {
                    let expected = "a number above low_freq_factor".to_owned();
                    return Err(("rope_scaling.high_freq_factor", expected, high.to_string()));
                }
                let field = "rope_scaling.original_max_position_embeddings";
                Ok(RotaryScaling::Llama3 {
                    factor: factor()?,
                    low,
                    high,
                    original: above_zero(field, self.original_max_position_embeddings)?,
                })
            }
            Some(other) => Err((
                "rope_scaling.rope_type",
                "`default`, `linear`, `dynamic`, `yarn`, `longrope` or `llama3`".to_owned(),
                format!("`{other}`"),
            )),
        }
    }

    /// `0.1 ln(factor) + 1`, or the quotient of two with weights; one where nothing is scaled.
    fn yarn_amplitude(&self, factor: f64) -> f64 {
        let scaled = |by: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * by * factor.ln() + 1.0
            }
        };
        let by = |field: Option<f64>| field.filter(|by| *by != 0.0);
        self.attention_factor
            .unwrap_or_else(|| match (by(self.mscale), by(self.mscale_all_dim)) {
                (Some(over), Some(under)) => scaled(over) / scaled(under),
                _ => scaled(1.0),
            })
    }

    fn long(&self, around: Around) -> Result<RotaryScaling, Refused> {
        let longest = around.longest as f64;
        // The length among the parameters counts where there is neither factor, of which transformers 4 needs one.
        let nested = self
            .original_max_position_embeddings
            .filter(|_| self.factor.is_none() && self.attention_factor.is_none());
        let (factor, original) = match around.original.map(|original| original as f64).or(nested) {
            Some(original) => (Some(longest / original), original),
            None => (self.factor, longest),
        };
        let original = above_zero("original_max_position_embeddings", Some(original))?;
        let amplitude = match (self.attention_factor, factor) {
            (Some(amplitude), _) => amplitude,
            (None, factor) => match above_zero("rope_scaling.factor", factor)? {
                factor if factor <= 1.0 => 1.0,
                factor => (1.0 + factor.ln() / original.ln()).sqrt(),
            },
        };
        let divisors = |field, found: &Option<Vec<f64>>| {
            let pairs = around.features / 2;
            let expected = || format!("{pairs} numbers above zero, one for each rotary pair of features in a head");
            match found {
                Some(found) if found.len() == pairs && found.iter().all(|by| *by > 0.0) => Ok(found.clone()),
                Some(found) => Err((field, expected(), format!("{} numbers: {found:?}", found.len()))),
                None => Err((field, expected(), Value::Null.to_string())),
            }
        };
        Ok(RotaryScaling::LongRope {
            original,
            short: divisors("rope_scaling.short_factor", &self.short_factor)?,
            long: divisors("rope_scaling.long_factor", &self.long_factor)?,
            amplitude,
        })
    }
}

/// A number that is there and above zero.
fn above_zero(field: &'static str, value: Option<f64>) -> Result<f64, Refused> {
    let found = match value {
        Some(value) if value > 0.0 && value.is_finite() => return Ok(value),
        Some(value) => value.to_string(),
        None => Value::Null.to_string(),
    };
    Err((field, "a number above zero".to_owned(), found))
}

fn or_if_zero(value: Option<f64>, default: f64) -> f64 {
    value.filter(|value| *value != 0.0).unwrap_or(default)
}
