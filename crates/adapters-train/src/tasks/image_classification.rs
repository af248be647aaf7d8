//! Classification of images.

use adapters_core::Ctx;
use adapters_models::heads::HeadConfig;
use adapters_models::vision::{ImageProcessor, ImageSource};
use adapters_models::{ImageInput, Model, ModelError, ModelKind};
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

/// Classification of images by cross entropy; the metric is the accuracy. Images are read and prepared a batch at a time.
#[derive(Debug)]
pub(super) struct ImageClassification {
    classes: Classes,
    processor: ImageProcessor,
}

/// An image, not decoded yet, and its class.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ImageExample {
    image: ImageSource,
    class: Option<usize>,
}

impl Task for ImageClassification {
    const NAME: &'static str = "image_classification";
    const PIPELINE: Option<&'static str> = Some("image-classification");
    const DATA: &'static str = "`image`, the path of a .png or .jpg file from the folder of the data file, or a data URI; `label`, a \
                                class by its name or number. Or, in place of a file, a folder with a folder of images for each label";
    const MODELS: &'static [ModelKind] = &[ModelKind::ImageEncoder];
    const USAGE: Usage = Usage::Image;
    const METRICS: &'static [&'static str] = OF_CLASSES;
    const LABELS: usize = 1;
    const LABEL_FIELD: Option<LabelField> = Some(|fields| (&fields.label, None));
    const WEIGHS_CLASSES: bool = true;

    type Example = ImageExample;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        let processor = ImageProcessor::read(cx.pretrained.dir())?;
        let [_, expected @ ..] = cx.model.image_encoder()?.image_size();
        if let Some(found) = processor.output_size().filter(|found| *found != expected) {
            return Err(TrainError::Value {
                field: "preprocessor_config.json",
                expected: format!(
                    "images of {} x {} pixels, which the model reads",
                    expected[0], expected[1]
                ),
                found: format!("one that makes them {} x {}", found[0], found[1]),
            });
        }
        Ok(Self {
            classes: Classes::new(cx),
            processor,
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
            Ok(ImageExample {
                image: record.image(&fields.image)?,
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
        let images: Vec<ImageSource> = examples.iter().map(|(_, example)| example.image.clone()).collect();
        let classes = examples.iter().map(|(_, example)| example.class);
        let pixels = self.processor.batch(&images, device).map_err(ModelError::from)?;
        Ok(Batch {
            input: ImageInput { pixels }.into(),
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
