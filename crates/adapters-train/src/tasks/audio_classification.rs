//! Classification of sounds.

use std::path::PathBuf;

use adapters_core::Ctx;
use adapters_models::heads::HeadConfig;
use adapters_models::speech::{LogMel, Waveforms, read_wav};
use adapters_models::{Input, Model, ModelKind, SoundForm};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::classification::{Classes, OF_CLASSES};
use super::context::TaskContext;
use super::task::{LabelField, Task};
use super::usage::Usage;
use crate::data::Record;
use crate::error::TrainError;
use crate::evaluate::{Outputs, Prediction};
use crate::inputs::Batch;
use crate::metrics::Figures;
use crate::task_model::TaskModel;

/// Classification of sounds by cross entropy; the metric is the accuracy. Files are read a batch at a time.
#[derive(Debug)]
pub(super) struct AudioClassification {
    classes: Classes,
    preparation: Preparation,
}

/// What makes of samples what the model reads.
#[derive(Debug)]
enum Preparation {
    /// Samples, of which the model needs so many at least.
    Samples(Waveforms, usize),
    Spectrograms(LogMel),
}

impl Preparation {
    /// Samples a second.
    fn rate(&self) -> u32 {
        match self {
            Self::Samples(waveforms, _) => waveforms.rate(),
            Self::Spectrograms(log_mel) => log_mel.rate(),
        }
    }

    fn input(&self, mut sounds: Vec<Vec<f32>>, device: &Device) -> Result<Input, TrainError> {
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

/// A file and its class.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AudioExample {
    audio: PathBuf,
    class: Option<usize>,
}

impl Task for AudioClassification {
    const NAME: &'static str = "audio_classification";
    const PIPELINE: Option<&'static str> = Some("audio-classification");
    const DATA: &'static str = "`audio`, the path of a .wav file from the folder of the data file; `label`, a class by its name or number. \
                                Or, in place of a file, a folder with a folder of .wav files for each label";
    const MODELS: &'static [ModelKind] = &[ModelKind::SoundEncoder];
    const USAGE: Usage = Usage::Audio;
    const METRICS: &'static [&'static str] = OF_CLASSES;
    const LABELS: usize = 1;
    const LABEL_FIELD: Option<LabelField> = Some(|fields| (&fields.label, None));
    const WEIGHS_CLASSES: bool = true;

    type Example = AudioExample;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            classes: Classes::new(cx),
            preparation: match cx.model.sound_encoder()?.reads() {
                SoundForm::Samples { shortest } => {
                    Preparation::Samples(Waveforms::load(cx.pretrained.dir())?, shortest)
                }
                SoundForm::Spectrograms { .. } => Preparation::Spectrograms(cx.pretrained.log_mel()?),
            },
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(self.classes.head.clone())
    }

    fn serves(head: &HeadConfig) -> bool {
        Classes::serves(head)
    }

    fn examples(
        &self,
        records: &[Record],
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        let fields = &cx.options.fields;
        let example = |record: &Record| {
            Ok(AudioExample {
                audio: record.audio(&fields.audio)?,
                class: record.class(&fields.label, &self.classes.labels, labeled)?,
            })
        };
        records.iter().map(example).collect()
    }

    fn length(_example: &Self::Example) -> usize {
        1
    }

    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        _seed: u64,
        _model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        let read = |(_, example): &(usize, &Self::Example)| {
            Ok::<_, TrainError>(read_wav(&example.audio, self.preparation.rate())?)
        };
        let sounds = examples.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let classes = examples.iter().map(|(_, example)| example.class);
        Ok(Batch {
            input: self.preparation.input(sounds, device)?,
            target_positions: Vec::new(),
            targets: Classes::targets(classes, device),
            predictions: examples.len(),
            tasks: Vec::new(),
        })
    }

    fn loss(
        &self,
        model: &TaskModel,
        hidden: Tensor<3>,
        batch: &Batch,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<1>, TrainError> {
        self.classes.loss(model, hidden, batch, cx)
    }

    fn figures(&self, outputs: &[Outputs], examples: &[Self::Example]) -> Option<Figures> {
        let targets = examples.iter().map(|example| example.class);
        self.classes.figures(outputs, targets)
    }

    fn describe(&self, outputs: &Outputs, _example: &Self::Example) -> Prediction {
        self.classes.describe(outputs)
    }
}
