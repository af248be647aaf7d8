//! Classification of sounds.

use std::path::PathBuf;

use adapters_models::speech::{LogMel, Waveforms, read_wav};
use adapters_models::{Input, Model, ModelKind, SoundForm};
use burn::tensor::Device;

use super::classification::Modality;
use super::context::TaskContext;
use super::task::Example;
use super::usage::Usage;
use crate::data::Record;
use crate::error::TrainError;

/// Files of sounds, read a batch at a time.
#[derive(Debug)]
pub(super) enum Sounds {
    /// For a model that reads samples, of which it needs so many at least.
    Samples(Waveforms, usize),
    /// For a model that reads spectrograms.
    Spectrograms(LogMel),
}

impl Example for PathBuf {}

impl Modality for Sounds {
    const NAME: &'static str = "audio_classification";
    const PIPELINE: &'static str = "audio-classification";
    const DATA: &'static str = "`audio`, the path of a .wav file from the folder of the data file; `label`, a class by its name or number. \
                                Or, in place of a file, a folder with a folder of .wav files for each label";
    const MODELS: &'static [ModelKind] = &[ModelKind::SoundEncoder];
    const USAGE: Usage = Usage::Audio;

    type Source = PathBuf;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        Ok(match cx.model.sound_encoder()?.reads() {
            SoundForm::Samples { shortest } => Self::Samples(Waveforms::load(cx.pretrained.dir())?, shortest),
            SoundForm::Spectrograms { .. } => Self::Spectrograms(cx.pretrained.log_mel()?),
        })
    }

    fn sources(records: &[Record], cx: &TaskContext<'_>) -> Result<Vec<PathBuf>, TrainError> {
        let field = &cx.options.fields.audio;
        records.iter().map(|record| Ok(record.audio(field)?)).collect()
    }

    fn input(&self, files: &[&PathBuf], _model: &Model, device: &Device) -> Result<Input, TrainError> {
        let rate = match self {
            Self::Samples(waveforms, _) => waveforms.rate(),
            Self::Spectrograms(log_mel) => log_mel.rate(),
        };
        let sounds = files.iter().map(|file| read_wav(file, rate));
        let mut sounds = sounds.collect::<Result<Vec<_>, _>>()?;
        Ok(match self {
            Self::Samples(waveforms, shortest) => {
                for sound in &mut sounds {
                    // Silence, so that there is one vector at least.
                    sound.resize(sound.len().max(*shortest), 0.0);
                }
                let sounds: Vec<&[f32]> = sounds.iter().map(Vec::as_slice).collect();
                waveforms.input(&sounds, device).into()
            }
            Self::Spectrograms(log_mel) => log_mel.input(&sounds, device)?.into(),
        })
    }
}
