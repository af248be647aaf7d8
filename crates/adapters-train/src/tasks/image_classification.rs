//! Classification of images.

use adapters_models::vision::{ImageProcessor, ImageSource};
use adapters_models::{ImageInput, Input, Model, ModelError, ModelKind};
use burn::tensor::Device;

use super::classification::Modality;
use super::context::TaskContext;
use super::task::Example;
use super::usage::Usage;
use crate::data::Record;
use crate::error::TrainError;

/// Images, read and prepared a batch at a time.
#[derive(Debug)]
pub(super) struct Images(ImageProcessor);

impl Example for ImageSource {}

impl Modality for Images {
    const NAME: &'static str = "image_classification";
    const PIPELINE: &'static str = "image-classification";
    const DATA: &'static str = "`image`, the path of a .png or .jpg file from the folder of the data file, or a data URI; `label`, a \
                                class by its name or number. Or, in place of a file, a folder with a folder of images for each label";
    const MODELS: &'static [ModelKind] = &[ModelKind::ImageEncoder];
    const USAGE: Usage = Usage::Image;

    type Source = ImageSource;

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
        Ok(Self(processor))
    }

    fn sources(records: &[Record], cx: &TaskContext<'_>) -> Result<Vec<ImageSource>, TrainError> {
        let field = &cx.options.fields.image;
        records.iter().map(|record| Ok(record.image(field)?)).collect()
    }

    fn input(&self, images: &[&ImageSource], _model: &Model, device: &Device) -> Result<Input, TrainError> {
        let images: Vec<ImageSource> = images.iter().copied().cloned().collect();
        let pixels = self.0.batch(&images, device).map_err(ModelError::from)?;
        Ok(ImageInput { pixels }.into())
    }
}
