//! Samples for models that read them, as `Wav2Vec2FeatureExtractor` of Hugging Face transformers prepares them.

use std::path::Path;

use adapters_store::{from_fields, read_json_if_there};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::input::SoundInput;

/// What is added to a variance.
const EPSILON: f64 = 1e-7;

/// `preprocessor_config.json` of wav2vec 2.0: the fields that change what is computed.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Options {
    sampling_rate: usize,
    padding_value: f32,
    do_normalize: bool,
    return_attention_mask: bool,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Default for Options {
    /// Those of the published class.
    fn default() -> Self {
        Self {
            sampling_rate: 16000,
            padding_value: 0.0,
            do_normalize: true,
            return_attention_mask: false,
            other: Map::new(),
        }
    }
}

/// From samples to what a model of sounds reads: `(x - mean) / sqrt(var + 1e-7)`, filled up on the right.
///
/// With `return_attention_mask` in `preprocessor_config.json` padding is no part of a sound. Without it, as in checkpoints with a group
/// normalization, models were trained on silence behind shorter sounds: it counts in mean and variance and is heard.
#[derive(Clone, Debug)]
pub struct Waveforms {
    options: Options,
}

impl Waveforms {
    /// Reads `preprocessor_config.json` of a checkpoint folder; the published values hold without it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] if it does not parse; [`ModelError::Config`] for a value that is not computed.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("preprocessor_config.json");
        let config: Map<String, Value> = read_json_if_there(&path)?.unwrap_or_default();
        let options: Options = from_fields(&path, config)?;
        let check = ConfigCheck::new(&path);
        let (rate, most) = (options.sampling_rate, 1 << 18);
        check.require(
            (1..=most).contains(&rate),
            "sampling_rate",
            format!("1 to {most}"),
            rate,
        )?;
        for (field, expected) in [
            ("feature_extractor_type", Value::from("Wav2Vec2FeatureExtractor")),
            ("feature_size", 1.into()),
            ("padding_side", "right".into()),
        ] {
            let found = options.other.get(field).filter(|found| !found.is_null());
            let found = found.unwrap_or(&expected);
            check.require(*found == expected, field, expected.to_string(), found)?;
        }
        Ok(Self { options })
    }

    /// Samples a second.
    pub fn rate(&self) -> u32 {
        self.options.sampling_rate as u32
    }

    /// A batch of sounds, filled up to the longest of them.
    pub fn input(&self, sounds: &[&[f32]], device: &Device) -> SoundInput {
        let longest = sounds.iter().map(|sound| sound.len()).max().unwrap_or(0);
        let shape = [sounds.len(), longest];
        let (mut samples, mut padding) = (Vec::new(), Vec::new());
        for sound in sounds {
            let mut row = sound.to_vec();
            if !self.options.return_attention_mask {
                row.resize(longest, self.options.padding_value);
            }
            if self.options.do_normalize {
                normalize(&mut row);
            }
            row.resize(longest, self.options.padding_value);
            samples.extend(row);
            padding.extend((0..longest).map(|at| at >= sound.len()));
        }
        let masked = self.options.return_attention_mask && padding.contains(&true);
        SoundInput {
            samples: Tensor::from_data(TensorData::new(samples, shape), device),
            padding: masked.then(|| Tensor::from_data(TensorData::new(padding, shape), device)),
        }
    }
}

/// To a mean of zero and a variance of one.
fn normalize(samples: &mut [f32]) {
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let variance = samples.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
    let by = (variance + EPSILON).sqrt().recip();
    for sample in samples {
        *sample = ((f64::from(*sample) - mean) * by) as f32;
    }
}
