//! Speech against `transformers`: `speech/whisper_features.py` and `speech/tokens.py` made the expected values, with transformers
//! 4.57.6. `speech/base` is a tiny Whisper with random weights.

use std::fs;
use std::path::{Path, PathBuf};

use adapters_adapted::Adapted;
use adapters_models::speech::{LogMel, SpeechPrompt, Waveforms, read_wav};
use adapters_models::{Beams, Generation, Pretrained};
use adapters_store::{read_json, write_json};
use burn::tensor::Device;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The reference computes in 32 bits.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Features {
    config: Map<String, Value>,
    samples: usize,
    frames: Vec<usize>,
    /// Of each frame, one for each band.
    values: Vec<Vec<f32>>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/speech").join(name)
}

/// The samples of the scripts, in 16 bits.
fn signal(count: i64) -> Vec<i16> {
    let mut state: i64 = 1;
    let sample = |n: i64| {
        state = (state * 1_103_515_245 + 12345) % (1 << 31);
        let noise = ((state >> 16) & 0x7FFF) - 16384;
        ((n * n / 37) % 12000 - 6000 + noise.div_euclid(16)) as i16
    };
    (0..count).map(sample).collect()
}

fn write_wav(path: &Path, samples: &[i16], rate: u32, channels: u16) {
    let spec = hound::WavSpec {
        channels,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in samples {
        (0..channels).for_each(|_| writer.write_sample(*sample).unwrap());
    }
    writer.finalize().unwrap();
}

#[derive(Deserialize)]
struct Prepared {
    config: Map<String, Value>,
    lengths: Vec<i64>,
    at: Vec<usize>,
    /// Of each sound, one for each of `at`.
    values: Vec<Vec<f32>>,
}

#[test]
fn samples_are_prepared_as_in_transformers() {
    let (dir, device) = (tempfile::tempdir().unwrap(), Device::flex());
    let cases: Vec<Prepared> = read_json(&fixture("waveforms.json")).unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        write_json(&dir.path().join("preprocessor_config.json"), &case.config).unwrap();
        let sound = |length: &i64| -> Vec<f32> { signal(*length).iter().map(|x| f32::from(*x) / 32768.0).collect() };
        let sounds: Vec<Vec<f32>> = case.lengths.iter().map(sound).collect();
        let sounds: Vec<&[f32]> = sounds.iter().map(Vec::as_slice).collect();
        let input = Waveforms::load(dir.path()).unwrap().input(&sounds, &device);
        let [_, longest] = input.samples.dims();
        let samples: Vec<f32> = input.samples.into_data().iter().collect();
        for (row, values) in case.values.iter().enumerate() {
            for (at, expected) in case.at.iter().zip(values) {
                let own = samples[row * longest + at];
                assert!((own - expected).abs() < 2e-5, "{row}, {at}: {own} and {expected}");
            }
        }
        let masked = case.config["return_attention_mask"] == true;
        let padding = input
            .padding
            .map(|padding| padding.into_data().iter::<bool>().collect::<Vec<_>>());
        let expected = (0..2 * longest).map(|at| at >= longest + sounds[1].len()).collect();
        assert_eq!(padding, masked.then_some(expected));
    }
    let refused = |config: Value| {
        write_json(&dir.path().join("preprocessor_config.json"), &config).unwrap();
        Waveforms::load(dir.path()).unwrap_err().to_string()
    };
    assert!(refused(json!({"feature_extractor_type": "WhisperFeatureExtractor"})).contains("Wav2Vec2FeatureExtractor"));
    assert!(refused(json!({"padding_side": "left"})).contains("`padding_side`"));
}

#[test]
fn spectrograms_are_those_of_transformers() {
    let (dir, device) = (tempfile::tempdir().unwrap(), Device::flex());
    let cases: Vec<Features> = read_json(&fixture("whisper_features.json")).unwrap();
    assert_eq!(cases.len(), 3);
    for (case, channels) in cases.into_iter().zip([1, 2, 1]) {
        let path = dir.path().join("sound.wav");
        write_wav(&path, &signal(case.samples as i64), 16000, channels);
        let log_mel = LogMel::from_config(Path::new("preprocessor_config.json"), &case.config).unwrap();
        let sound = read_wav(&path, log_mel.rate()).unwrap();
        assert_eq!(sound.len(), case.samples);
        let [bands, frames] = log_mel.dims();
        let features = log_mel.input(&[sound], &device).unwrap().features;
        let found: Vec<f32> = features.into_data().iter().collect();
        for (frame, expected) in case.frames.iter().zip(&case.values) {
            assert_eq!(expected.len(), bands);
            for (band, expected) in expected.iter().enumerate() {
                let found = found[band * frames + frame];
                assert!(
                    (found - expected).abs() < TOLERANCE,
                    "{frame} {band}: {found}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn a_text_is_written_as_transformers_writes_it() {
    let (dir, device) = (tempfile::tempdir().unwrap(), Device::flex());
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("base").join(file), dir.path().join(file)).unwrap();
    }
    let expected: Value = read_json(&fixture("tokens.json")).unwrap();
    write_json(&dir.path().join("preprocessor_config.json"), &expected["preprocessor"]).unwrap();
    let wav = dir.path().join("sound.wav");
    write_wav(&wav, &signal(9600), 16000, 1);
    let pretrained = Pretrained::open(dir.path()).unwrap();
    let model = Adapted::new(pretrained.model(&device).unwrap());
    let log_mel = pretrained.log_mel().unwrap();
    let speech = log_mel.input(&[read_wav(&wav, 16000).unwrap()], &device).unwrap();
    for case in expected["cases"].as_array().unwrap() {
        let settings = json!({
            "decoder_start_token_id": 2,
            "no_timestamps_token_id": expected["no_timestamps_token_id"],
            "suppress_tokens": case["suppress_tokens"],
            "begin_suppress_tokens": case["begin_suppress_tokens"],
        });
        write_json(&dir.path().join("generation_config.json"), &settings).unwrap();
        let start = SpeechPrompt::load(dir.path(), None, false).unwrap();
        let generation = Generation {
            max_new_tokens: 12,
            ..Generation::default()
        };
        let write = |generation: &Generation| {
            let texts = generation.transcribe(&model, speech.clone(), &start, |_, _| ());
            json!(texts.unwrap()[0])
        };
        assert_eq!(write(&generation), case["tokens"]);
        assert_eq!(
            write(&Generation {
                cache: false,
                ..generation.clone()
            }),
            case["tokens"]
        );
        let suppressed = case["suppress_tokens"].as_array().unwrap();
        let beams = Some(Beams {
            count: 2,
            ..Beams::default()
        });
        let searched = write(&Generation { beams, ..generation });
        assert!(
            searched
                .as_array()
                .unwrap()
                .iter()
                .all(|token| !suppressed.contains(token))
        );
    }
    assert!(SpeechPrompt::load(dir.path(), Some("en"), false).is_err());
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = |value: Value| {
        let read = LogMel::from_config(Path::new("p.json"), value.as_object().unwrap());
        read.map(|_| ()).unwrap_err().to_string()
    };
    for (value, field) in [
        (json!({"dither": 0.1}), "dither"),
        (json!({"do_normalize": true}), "do_normalize"),
        (json!({"padding_side": "left"}), "padding_side"),
        (json!({"hop_length": 0}), "hop_length"),
        (
            json!({"feature_extractor_type": "EncodecFeatureExtractor"}),
            "feature_extractor_type",
        ),
    ] {
        assert!(config(value).contains(field), "{field}");
    }
    let path = dir.path().join("sound.wav");
    write_wav(&path, &[1, 2, 3], 8000, 1);
    assert!(
        read_wav(&path, 16000)
            .unwrap_err()
            .to_string()
            .contains("8000 samples a second")
    );
    fs::write(&path, b"RIFF").unwrap();
    assert!(read_wav(&path, 16000).is_err());
    let log_mel = LogMel::from_config(&path, json!({"chunk_length": 1}).as_object().unwrap()).unwrap();
    let long = log_mel
        .input(&[vec![0.0; 16001]], &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(long.contains("at most 1 seconds"), "{long}");
    // The model reads spectrograms of other sizes.
    let refused = Pretrained::open(fixture("base"))
        .unwrap()
        .log_mel()
        .unwrap_err()
        .to_string();
    assert!(refused.contains("feature_size"), "{refused}");
}
