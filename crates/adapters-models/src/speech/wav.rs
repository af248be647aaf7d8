//! WAV files as samples between -1 and 1.

use std::path::Path;

use hound::{Error, SampleFormat, WavReader};

use crate::error::ModelError;

/// The samples of a WAV file, the mean of its channels. Integers are divided by the largest of their width.
///
/// # Errors
///
/// [`ModelError::Audio`] for a file that cannot be read, for one of another number of samples a second than `rate`, and for one
/// without samples.
pub fn read_wav(path: &Path, rate: u32) -> Result<Vec<f32>, ModelError> {
    let refuse = |reason: String| ModelError::Audio {
        path: path.to_owned(),
        reason,
    };
    let failed = |error: Error| refuse(error.to_string());
    let mut reader = WavReader::open(path).map_err(failed)?;
    let spec = reader.spec();
    if spec.sample_rate != rate {
        let found = spec.sample_rate;
        return Err(refuse(format!(
            "it has {found} samples a second, the model reads {rate}; convert it, e.g. with `ffmpeg -i IN -ar {rate} OUT.wav`"
        )));
    }
    let samples: Result<Vec<f32>, Error> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect(),
        SampleFormat::Int => {
            let largest = 2f32.powi(i32::from(spec.bits_per_sample) - 1);
            let samples = reader.samples::<i32>();
            samples.map(|sample| Ok(sample? as f32 / largest)).collect()
        }
    };
    let samples = samples.map_err(failed)?;
    if samples.is_empty() {
        return Err(refuse("it has no samples".to_owned()));
    }
    if let Some(at) = samples.iter().position(|sample| !sample.is_finite()) {
        return Err(refuse(format!("sample {at} is not finite")));
    }
    let channels = usize::from(spec.channels.max(1));
    let mean = |frame: &[f32]| frame.iter().sum::<f32>() / channels as f32;
    Ok(samples.chunks_exact(channels).map(mean).collect())
}
