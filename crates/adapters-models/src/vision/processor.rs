//! Images of any size become one batch of `pixel_values`.

use std::path::Path;

use adapters_store::read_json;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::decode::{ImageSource, check_pixels};
use super::error::VisionError;
use super::options::{Size, Steps};
use super::resize::resize;
use crate::error::ModelError;

/// Prepares images as a published checkpoint expects them.
///
/// With the options of `preprocessor_config.json`, each of which can be off:
///
/// 1. `do_resize`: to `size`, with the filter of `resample`, as Pillow resizes;
/// 2. `do_center_crop`: the middle `crop_size`; a smaller image gets a black border;
/// 3. `do_rescale`: times `rescale_factor`;
/// 4. `do_normalize`: `(value - image_mean) / image_std` per channel.
///
/// Supported are the classes `ViTImageProcessor`, `DeiTImageProcessor`, `CLIPImageProcessor` and `BitImageProcessor` of
/// `transformers`, under `image_processor_type` or `feature_extractor_type`, with their defaults. Their fast variants
/// (`ViTImageProcessorFast`) are taken for the same; `transformers` resizes there with torchvision instead of Pillow, and
/// single pixels can differ.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    steps: Steps,
    /// For each channel, what each of the 256 levels becomes.
    levels: [Vec<f32>; 3],
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json` of a checkpoint folder.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] where the file is absent or no JSON; [`VisionError`] for an unknown class, an option that is
    /// not supported, and a wrong value.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("preprocessor_config.json");
        Ok(Self::from_config(&path, &read_json(&path)?)?)
    }

    /// The processor of a configuration that was read from `path`.
    ///
    /// # Errors
    ///
    /// [`VisionError`] for an unknown class, an option that is not supported, and a wrong value.
    pub fn from_config(path: &Path, config: &Map<String, Value>) -> Result<Self, VisionError> {
        let steps = Steps::from_config(path, config)?;
        let level = |channel: usize, level: u8| {
            let value = match steps.rescale {
                Some(factor) => (f64::from(level) * factor) as f32,
                None => f32::from(level),
            };
            match steps.normalize {
                Some((mean, std)) => (value - mean[channel]) / std[channel],
                None => value,
            }
        };
        let levels = [0, 1, 2].map(|channel| (0..=u8::MAX).map(|value| level(channel, value)).collect());
        Ok(Self { steps, levels })
    }

    /// Height and width of every prepared image, where they do not depend on the image.
    pub fn output_size(&self) -> Option<[usize; 2]> {
        match (self.steps.crop, self.steps.resize) {
            (Some(size), _) | (None, Some((Size::Exact(size), _))) => Some(size),
            _ => None,
        }
    }

    /// Decodes and prepares images, in parallel: `[batch, 3, height, width]`.
    ///
    /// # Errors
    ///
    /// [`VisionError`] for the first image, in their order, that cannot be read or has another size than the first one
    /// after preparation.
    pub fn batch(&self, images: &[ImageSource], device: &Device) -> Result<Tensor<4>, VisionError> {
        let prepared: Vec<Result<Prepared, VisionError>> = images.par_iter().map(|image| self.prepare(image)).collect();
        let mut size = None;
        let mut values = Vec::new();
        for (image, prepared) in images.iter().zip(prepared) {
            let prepared = prepared?;
            let expected = *size.get_or_insert(prepared.size);
            if prepared.size != expected {
                return Err(VisionError::SizesDiffer {
                    image: image.name(),
                    expected,
                    found: prepared.size,
                });
            }
            values.extend(prepared.values);
        }
        let [height, width] = size.or(self.output_size()).unwrap_or([0, 0]);
        let data = TensorData::new(values, [images.len(), 3, height, width]);
        Ok(Tensor::from_data(data, device))
    }

    fn prepare(&self, source: &ImageSource) -> Result<Prepared, VisionError> {
        let (mut rgb, mut size) = raw(source.decode()?);
        if let Some((target, filter)) = self.steps.resize {
            let target = resized(target, size);
            check_pixels(&source.name(), "after resizing", target[1] as u64, target[0] as u64)?;
            rgb = resize(&rgb, size, target, filter);
            size = target;
        }
        if let Some(target) = self.steps.crop {
            check_pixels(&source.name(), "after cropping", target[1] as u64, target[0] as u64)?;
            rgb = center_crop(&rgb, size, target);
            size = target;
        }
        let channel = |(channel, levels): (usize, &Vec<f32>)| -> Vec<f32> {
            rgb.iter()
                .skip(channel)
                .step_by(3)
                .map(|level| levels[usize::from(*level)])
                .collect()
        };
        let values = self.levels.iter().enumerate().flat_map(channel).collect();
        Ok(Prepared { values, size })
    }
}

/// One image, `[3, height, width]`.
struct Prepared {
    values: Vec<f32>,
    size: [usize; 2],
}

/// Bytes of an image, three a pixel, and `[height, width]`.
fn raw(image: RgbImage) -> (Vec<u8>, [usize; 2]) {
    // Both sides were checked against the limit on pixels, and the bytes lie in memory: they fit into `usize`.
    let size = [image.height() as usize, image.width() as usize];
    (image.into_raw(), size)
}

/// Height and width after resizing. The longer side is rounded down, as in `get_resize_output_image_size`.
fn resized(target: Size, [height, width]: [usize; 2]) -> [usize; 2] {
    let longer = |edge: usize, longer: usize, shorter: usize| {
        // More pixels than can be counted are more than the limit, too.
        usize::try_from(edge as u128 * longer as u128 / shorter as u128).unwrap_or(usize::MAX)
    };
    match target {
        Size::Exact(size) => size,
        Size::ShortestEdge(edge) if height < width => [edge, longer(edge, width, height)],
        Size::ShortestEdge(edge) => [longer(edge, height, width), edge],
    }
}

/// The middle of an image; what lies outside of it is black. An odd row or column that is too many is cut off at the
/// end, and one that is missing is added at the start.
fn center_crop(rgb: &[u8], from: [usize; 2], to: [usize; 2]) -> Vec<u8> {
    let [top, left] = [0, 1].map(|axis| Offset::between(from[axis], to[axis]));
    let mut cropped = vec![0; 3 * to[0] * to[1]];
    for row in 0..top.length {
        let source = 3 * ((top.source + row) * from[1] + left.source);
        let target = 3 * ((top.target + row) * to[1] + left.target);
        cropped[target..][..3 * left.length].copy_from_slice(&rgb[source..][..3 * left.length]);
    }
    cropped
}

/// What a crop copies along one axis.
struct Offset {
    source: usize,
    target: usize,
    length: usize,
}

impl Offset {
    fn between(from: usize, to: usize) -> Self {
        Self {
            source: from.saturating_sub(to) / 2,
            target: to.saturating_sub(from).div_ceil(2),
            length: from.min(to),
        }
    }
}
