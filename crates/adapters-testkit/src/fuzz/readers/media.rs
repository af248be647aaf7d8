//! Readers of images and sounds, and of what is made of them before a model sees them.

use std::fs;
use std::path::Path;

use adapters::models::speech::{LogMel, Waveforms};
use adapters::models::vision::{ImageProcessor, ImageSource};

use super::{Fixture, Seed, folder};

/// Samples a second.
pub(super) const RATE: u32 = 16000;
/// The most pixels of an image, or frames of a sound, that are prepared here.
const MODERATE: usize = 1 << 16;

/// PNG and JPEG files of every kind.
pub(super) fn images(fixture: &Fixture) -> Vec<Seed> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters-models/tests/vision");
    let folder = fixture.copy(&from, "images");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder can be read")
        .flatten()
        .collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let paths = files.iter().map(fs::DirEntry::path);
    paths
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == "png" || ending == "jpg")
        })
        .filter(|path| image(fixture, path))
        .map(Seed::new)
        .collect()
}

pub(super) fn image(_: &Fixture, file: &Path) -> bool {
    ImageSource::File(file.to_owned()).decode().is_ok()
}

/// A WAV file with two channels of sixteen bits.
pub(super) fn sound(fixture: &Fixture) -> Seed {
    let samples: Vec<u8> = (0..400i16).flat_map(|at| (at * 40).to_le_bytes()).collect();
    let file = fixture.folder("sound").join("a.wav");
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + samples.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1u16, 2].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend([RATE, RATE * 4].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend([4u16, 16].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend(b"data");
    bytes.extend((samples.len() as u32).to_le_bytes());
    bytes.extend(samples);
    fs::write(&file, bytes).expect("the folder can be written");
    Seed::new(file)
}

/// `preprocessor_config.json` of each kind of model.
const OPTIONS: [(&str, &str); 3] = [
    (
        "image",
        r#"{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 8}, "crop_size": {"height": 6, "width": 7},
 "resample": 3, "rescale_factor": 0.004, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "do_center_crop": true}"#,
    ),
    (
        "log_mel",
        r#"{"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8, "sampling_rate": 16000, "hop_length": 160,
 "chunk_length": 1, "n_fft": 400, "padding_value": 0.0}"#,
    ),
    (
        "waveforms",
        r#"{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16000, "padding_value": 0.0,
 "do_normalize": true, "return_attention_mask": true}"#,
    ),
];

pub(super) fn options(fixture: &Fixture) -> Vec<Seed> {
    let seed = |(kind, text): &(&str, &str)| {
        let file = fixture.folder(kind).join("preprocessor_config.json");
        fs::write(&file, text).expect("the folder can be written");
        Seed::new(file)
    };
    OPTIONS.iter().map(seed).collect()
}

/// Whether the options are accepted; what they make of a small image or sound is made.
pub(super) fn preprocessing(fixture: &Fixture, file: &Path) -> bool {
    let (folder, device) = (folder(file), &fixture.device);
    let kind = folder.to_string_lossy();
    let sound = vec![0.5, -0.25, 0.125];
    if kind.ends_with("log_mel") {
        let Ok(log_mel) = LogMel::load(folder) else {
            return false;
        };
        let [bands, frames] = log_mel.dims();
        return bands * frames > MODERATE || log_mel.input(&[sound], device).is_ok();
    }
    if kind.ends_with("waveforms") {
        return Waveforms::load(folder)
            .map(|waves| waves.input(&[&sound, &sound[1..]], device))
            .is_ok();
    }
    let Ok(processor) = ImageProcessor::read(folder) else {
        return false;
    };
    if processor
        .output_size()
        .is_some_and(|[height, width]| height * width <= MODERATE)
    {
        let image = ImageSource::Bytes {
            name: "a small image".to_owned(),
            bytes: SMALL.into(),
        };
        // An error is an answer.
        let _ = processor.batch(&[image], device);
    }
    true
}

/// A PNG file of one red pixel.
const SMALL: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, 0x49, 0x48, 0x44, 0x52, 0, 0, 0, 1, 0, 0, 0, 1, 8,
    2, 0, 0, 0, 0x90, 0x77, 0x53, 0xde, 0, 0, 0, 0x0c, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0xf8, 0xcf, 0xc0, 0,
    0, 3, 1, 1, 0, 0xc9, 0xfe, 0x92, 0xef, 0, 0, 0, 0, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
];
