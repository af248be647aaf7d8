//! Log-mel spectrograms, as `WhisperFeatureExtractor` of Hugging Face transformers computes them.
//!
//! Of every window of `n_fft` samples, weighted with a Hann window, the power of each frequency; of these the bands of the mel
//! scale of Slaney's toolbox; of these the decimal logarithm, at most 8 below the largest, as `(x + 4) / 4`. Paper: *Robust Speech
//! Recognition via Large-Scale Weak Supervision*, Radford et al., 2022, <https://arxiv.org/abs/2212.04356>, section 2.2.

use std::f64::consts::TAU;
use std::path::Path;
use std::sync::Arc;

use adapters_store::{from_fields, read_json_if_there};
use burn::tensor::{Device, Tensor, TensorData};
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config_check::ConfigCheck;
use crate::error::ModelError;
use crate::input::SpeechInput;

/// Upper end of the highest band, whatever the number of samples a second.
const HIGHEST: f64 = 8000.0;
/// Power below which there is silence.
const SILENCE: f64 = 1e-10;

/// `preprocessor_config.json` of Whisper: the fields that change what is computed.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Options {
    feature_size: usize,
    sampling_rate: usize,
    hop_length: usize,
    /// Seconds.
    chunk_length: usize,
    n_fft: usize,
    padding_value: f32,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Default for Options {
    /// Those of the published class.
    fn default() -> Self {
        Self {
            feature_size: 80,
            sampling_rate: 16000,
            hop_length: 160,
            chunk_length: 30,
            n_fft: 400,
            padding_value: 0.0,
            other: Map::new(),
        }
    }
}

/// From samples to the spectrogram that a model reads.
#[derive(Clone)]
pub struct LogMel {
    options: Options,
    /// Of the window, one for each sample.
    window: Vec<f64>,
    /// For each band, the first frequency that it weighs, and its weights.
    bands: Vec<(usize, Vec<f64>)>,
    fft: Arc<dyn Fft<f64>>,
}

impl LogMel {
    /// Reads `preprocessor_config.json` of a checkpoint folder; the published values hold without it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] if it does not parse, otherwise as [`from_config`](Self::from_config).
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("preprocessor_config.json");
        let config = read_json_if_there(&path)?.unwrap_or_default();
        Self::from_config(&path, &config)
    }

    /// The spectrogram of a configuration; `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for a value that is not computed.
    pub fn from_config(path: &Path, config: &Map<String, Value>) -> Result<Self, ModelError> {
        let options: Options = from_fields(path, config.clone())?;
        let check = ConfigCheck::new(path);
        for (field, found, most) in [
            ("feature_size", options.feature_size, 1 << 10),
            ("sampling_rate", options.sampling_rate, 1 << 18),
            ("hop_length", options.hop_length, 1 << 14),
            ("chunk_length", options.chunk_length, 1 << 8),
            ("n_fft", options.n_fft, 1 << 14),
        ] {
            check.require((1..=most).contains(&found), field, format!("1 to {most}"), found)?;
        }
        let class = options
            .other
            .get("feature_extractor_type")
            .filter(|class| !class.is_null());
        let known = class.is_none_or(|class| class == "WhisperFeatureExtractor");
        let found = class.unwrap_or(&Value::Null);
        check.require(known, "feature_extractor_type", "WhisperFeatureExtractor", found)?;
        check.switches(&options.other, &["dither", "do_normalize"], &[])?;
        let side = options
            .other
            .get("padding_side")
            .and_then(Value::as_str)
            .unwrap_or("right");
        check.require(side == "right", "padding_side", "right", side)?;
        let samples = options.chunk_length * options.sampling_rate;
        let expected = format!("less than twice the {samples} samples of a chunk");
        check.require(options.n_fft / 2 < samples, "n_fft", expected, options.n_fft)?;
        let size = options.n_fft as f64;
        let hann = |at: usize| 0.5 - 0.5 * (TAU * at as f64 / size).cos();
        Ok(Self {
            window: (0..options.n_fft).map(hann).collect(),
            bands: mel_bands(options.feature_size, options.n_fft / 2 + 1, options.sampling_rate),
            fft: FftPlanner::new().plan_fft_forward(options.n_fft),
            options,
        })
    }

    /// Samples a second.
    pub fn rate(&self) -> u32 {
        self.options.sampling_rate as u32
    }

    /// Bands and frames of what is computed.
    pub fn dims(&self) -> [usize; 2] {
        [self.options.feature_size, self.samples() / self.options.hop_length]
    }

    /// Samples of a chunk.
    fn samples(&self) -> usize {
        self.options.chunk_length * self.options.sampling_rate
    }

    /// The spectrograms of sounds, each filled up with silence to the length of a chunk.
    ///
    /// # Errors
    ///
    /// [`ModelError::Generation`] for a sound that is longer.
    pub fn input(&self, sounds: &[Vec<f32>], device: &Device) -> Result<SpeechInput, ModelError> {
        let (seconds, most, [bands, frames]) = (self.options.chunk_length, self.samples(), self.dims());
        if let Some(long) = sounds.iter().find(|sound| sound.len() > most) {
            return Err(ModelError::Generation {
                field: "audio",
                expected: format!("at most {seconds} seconds, which the model reads at once; cut the file into parts"),
                found: format!(
                    "{:.1} seconds long",
                    long.len() as f64 / self.options.sampling_rate as f64
                ),
            });
        }
        let features: Vec<f32> = sounds.iter().flat_map(|sound| self.spectrogram(sound)).collect();
        let data = TensorData::new(features, [sounds.len(), bands, frames]);
        Ok(SpeechInput {
            features: Tensor::from_data(data, device),
        })
    }

    /// `[bands, frames]`, row by row.
    fn spectrogram(&self, sound: &[f32]) -> Vec<f32> {
        let ([bands, frames], samples, half) = (self.dims(), self.samples() as i64, self.options.n_fft as i64 / 2);
        // Both ends are mirrored, so that a frame is in the middle of its window.
        let sample = |at: i64| {
            let at = if at < 0 { -at } else { at };
            let at = if at >= samples { 2 * (samples - 1) - at } else { at };
            let found = usize::try_from(at).ok().and_then(|at| sound.get(at));
            f64::from(*found.unwrap_or(&self.options.padding_value))
        };
        let mut logs = vec![0.0; bands * frames];
        let mut buffer = vec![Complex::default(); self.options.n_fft];
        for frame in 0..frames {
            let first = (frame * self.options.hop_length) as i64 - half;
            for ((at, weight), slot) in self.window.iter().enumerate().zip(&mut buffer) {
                *slot = Complex::new(sample(first + at as i64) * weight, 0.0);
            }
            self.fft.process(&mut buffer);
            for (band, (from, weights)) in self.bands.iter().enumerate() {
                let powers = buffer[*from..].iter().zip(weights);
                let power: f64 = powers.map(|(x, weight)| x.norm_sqr() * weight).sum();
                logs[band * frames + frame] = power.max(SILENCE).log10();
            }
        }
        let loudest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let scaled = logs.into_iter().map(|log| (log.max(loudest - 8.0) + 4.0) / 4.0);
        scaled.map(|x| x as f32).collect()
    }
}

impl std::fmt::Debug for LogMel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogMel").field(&self.options).finish()
    }
}

/// Triangles over the frequencies, whose corners are equally far apart on the mel scale and whose areas are one.
fn mel_bands(bands: usize, frequencies: usize, rate: usize) -> Vec<(usize, Vec<f64>)> {
    let highest = mel(HIGHEST);
    let corner = |at: usize| hertz(highest * at as f64 / (bands + 1) as f64);
    let step = (rate / 2) as f64 / (frequencies - 1).max(1) as f64;
    let triangle = |band: usize| {
        let [low, middle, high] = [0, 1, 2].map(|of| corner(band + of));
        let weight = |at: usize| {
            let frequency = at as f64 * step;
            let (up, down) = ((frequency - low) / (middle - low), (high - frequency) / (high - middle));
            up.min(down).max(0.0) * 2.0 / (high - low)
        };
        let weights: Vec<f64> = (0..frequencies).map(weight).collect();
        let first = weights.iter().position(|weight| *weight > 0.0).unwrap_or(0);
        let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
        (first, weights[first..=last].to_vec())
    };
    (0..bands).map(triangle).collect()
}

/// The mel scale: linear up to 1000 Hz, logarithmic above.
const LINEAR: f64 = 3.0 / 200.0;
const BREAK: f64 = 1000.0;
/// Mels for a factor of 6.4 in frequency.
const LOGARITHMIC: f64 = 27.0;

fn mel(hertz: f64) -> f64 {
    match hertz < BREAK {
        true => hertz * LINEAR,
        false => BREAK * LINEAR + (hertz / BREAK).ln() * LOGARITHMIC / 6.4f64.ln(),
    }
}

fn hertz(mel: f64) -> f64 {
    match mel < BREAK * LINEAR {
        true => mel / LINEAR,
        false => BREAK * ((mel - BREAK * LINEAR) * 6.4f64.ln() / LOGARITHMIC).exp(),
    }
}
