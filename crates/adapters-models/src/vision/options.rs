//! `preprocessor_config.json`: the published options of image processors, checked.

use std::path::Path;

use adapters_nn::nearest;
use serde_json::{Map, Value};

use super::error::VisionError;
use super::resize::Filter;

/// Options that are read here.
const OPTIONS: [&str; 13] = [
    "do_center_crop",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "crop_size",
    "default_to_square",
    "feature_extractor_type",
    "image_mean",
    "image_processor_type",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
];

/// Options that do not change the numbers of RGB images.
const NEUTRAL: [&str; 10] = [
    "_processor_class",
    "_valid_processor_keys",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "input_data_format",
    "processor_class",
    "return_tensors",
    "do_reduce_labels",
];

/// The size of an image after resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Height and width.
    Exact([usize; 2]),
    /// The shorter side; the ratio of the sides stays.
    ShortestEdge(usize),
}

/// What a class of image processors does where the file does not set an option.
struct Class {
    /// The class, without `ImageProcessor`, `ImageProcessorFast` and `FeatureExtractor`.
    name: &'static str,
    size: Size,
    filter: Filter,
    /// Size of the crop; `None` for a class that does not crop.
    crop: Option<[usize; 2]>,
    mean: [f32; 3],
    std: [f32; 3],
}

/// `OPENAI_CLIP_MEAN` and `OPENAI_CLIP_STD`.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

const CLASSES: [Class; 4] = [
    Class {
        name: "ViT",
        size: Size::Exact([224, 224]),
        filter: Filter::Bilinear,
        crop: None,
        mean: [0.5; 3],
        std: [0.5; 3],
    },
    Class {
        name: "DeiT",
        size: Size::Exact([256, 256]),
        filter: Filter::Bicubic,
        crop: Some([224, 224]),
        mean: [0.5; 3],
        std: [0.5; 3],
    },
    Class {
        name: "CLIP",
        size: Size::ShortestEdge(224),
        filter: Filter::Bicubic,
        crop: Some([224, 224]),
        mean: CLIP_MEAN,
        std: CLIP_STD,
    },
    Class {
        name: "Bit",
        size: Size::ShortestEdge(224),
        filter: Filter::Bicubic,
        crop: Some([224, 224]),
        mean: CLIP_MEAN,
        std: CLIP_STD,
    },
];

/// The steps of a processor, in their order; `None` is a step that is off.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Steps {
    pub(super) resize: Option<(Size, Filter)>,
    pub(super) crop: Option<[usize; 2]>,
    pub(super) rescale: Option<f64>,
    /// Mean and standard deviation of the channels.
    pub(super) normalize: Option<([f32; 3], [f32; 3])>,
}

impl Steps {
    /// The steps of a published configuration; `path` is for errors.
    pub(super) fn from_config(path: &Path, config: &Map<String, Value>) -> Result<Self, VisionError> {
        let options = Options { path, config };
        let class = options.class()?;
        options.check_names()?;
        let square = options.flag("default_to_square", matches!(class.size, Size::Exact(_)))?;
        let crops = options.flag("do_center_crop", class.crop.is_some())?;
        if crops && class.crop.is_none() {
            return Err(options.refuse("do_center_crop", "false: this class of image processors does not crop"));
        }
        Ok(Self {
            resize: match options.flag("do_resize", true)? {
                true => Some((options.size("size", class.size, square)?, options.filter(class.filter)?)),
                false => None,
            },
            crop: match class.crop {
                Some(default) if crops => match options.size("crop_size", Size::Exact(default), true)? {
                    Size::Exact(size) => Some(size),
                    Size::ShortestEdge(_) => return Err(options.refuse("crop_size", "a height and a width")),
                },
                _ => None,
            },
            rescale: match options.flag("do_rescale", true)? {
                true => Some(options.factor()?),
                false => None,
            },
            normalize: match options.flag("do_normalize", true)? {
                true => Some((
                    options.channels("image_mean", class.mean, |_| true, "a number, or one per channel (3)")?,
                    options.channels(
                        "image_std",
                        class.std,
                        |std| std > 0.0,
                        "a number above 0, or one per channel (3)",
                    )?,
                )),
                false => None,
            },
        })
    }
}

/// A configuration file that is being read.
struct Options<'a> {
    path: &'a Path,
    config: &'a Map<String, Value>,
}

impl Options<'_> {
    /// A value that is there and not null.
    fn get(&self, option: &str) -> Option<&Value> {
        self.config.get(option).filter(|value| !value.is_null())
    }

    fn refuse(&self, option: &'static str, expected: &'static str) -> VisionError {
        VisionError::OptionValue {
            path: self.path.to_owned(),
            option,
            expected,
            found: self
                .config
                .get(option)
                .map_or_else(|| "absent".to_owned(), Value::to_string),
        }
    }

    /// The class of the processor; that of ViT without a name, as the configuration of the model decides there.
    fn class(&self) -> Result<&'static Class, VisionError> {
        let mut class = &CLASSES[0];
        for key in ["feature_extractor_type", "image_processor_type"] {
            let Some(value) = self.get(key) else { continue };
            let found = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let known = |class: &&Class| {
                let suffixes = ["ImageProcessor", "ImageProcessorFast", "FeatureExtractor"];
                found
                    .strip_prefix(class.name)
                    .is_some_and(|suffix| suffixes.contains(&suffix))
            };
            class = CLASSES.iter().find(known).ok_or_else(|| {
                let supported = CLASSES.map(|class| format!("{}ImageProcessor", class.name));
                VisionError::UnknownProcessor {
                    path: self.path.to_owned(),
                    key,
                    nearest: nearest(&found, supported.iter().map(String::as_str)),
                    found: found.clone(),
                    supported: supported.join(", ").into(),
                }
            })?;
        }
        Ok(class)
    }

    /// Refuses every other option that is set: it may change the numbers.
    fn check_names(&self) -> Result<(), VisionError> {
        let unknown = |(option, value): &(&String, &Value)| {
            let off = value.is_null() || **value == Value::Bool(false);
            !off && !OPTIONS.contains(&option.as_str()) && !NEUTRAL.contains(&option.as_str())
        };
        match self.config.iter().find(unknown) {
            None => Ok(()),
            Some((option, _)) => Err(VisionError::UnknownOption {
                path: self.path.to_owned(),
                nearest: nearest(option, OPTIONS),
                option: option.clone(),
            }),
        }
    }

    fn flag(&self, option: &'static str, default: bool) -> Result<bool, VisionError> {
        match self.get(option) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.refuse(option, "true or false")),
        }
    }

    fn filter(&self, default: Filter) -> Result<Filter, VisionError> {
        match self.get("resample") {
            None => Ok(default),
            Some(value) => value.as_u64().and_then(Filter::from_number).ok_or_else(|| {
                self.refuse(
                    "resample",
                    "0 (nearest), 1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (Hamming)",
                )
            }),
        }
    }

    fn factor(&self) -> Result<f64, VisionError> {
        match self.get("rescale_factor") {
            None => Ok(1.0 / 255.0),
            Some(value) => value.as_f64().ok_or_else(|| self.refuse("rescale_factor", "a number")),
        }
    }

    /// A size: `{"height": h, "width": w}`, `{"shortest_edge": s}`, `[h, w]` or a number, which is the side of a square
    /// where `square`, and the shorter side otherwise.
    fn size(&self, option: &'static str, default: Size, square: bool) -> Result<Size, VisionError> {
        let Some(value) = self.get(option) else {
            return Ok(default);
        };
        let side = |value: &Value| {
            value
                .as_u64()
                .and_then(|side| usize::try_from(side).ok())
                .filter(|side| (1..=65_535).contains(side))
        };
        let found = match value {
            Value::Number(_) if square => side(value).map(|side| Size::Exact([side, side])),
            Value::Number(_) => side(value).map(Size::ShortestEdge),
            Value::Array(sides) => match sides.as_slice() {
                [height, width] => side(height).zip(side(width)).map(|(h, w)| Size::Exact([h, w])),
                _ => None,
            },
            Value::Object(sides) => match (sides.get("height"), sides.get("width"), sides.get("shortest_edge")) {
                (Some(height), Some(width), None) if sides.len() == 2 => {
                    side(height).zip(side(width)).map(|(h, w)| Size::Exact([h, w]))
                }
                (None, None, Some(shortest)) if sides.len() == 1 => side(shortest).map(Size::ShortestEdge),
                _ => None,
            },
            _ => None,
        };
        found.ok_or_else(|| {
            self.refuse(
                option,
                "a number of pixels, [height, width], or an object with `height` and `width` or with `shortest_edge`",
            )
        })
    }

    /// A number for all channels, or one for each.
    fn channels(
        &self,
        option: &'static str,
        default: [f32; 3],
        valid: impl Fn(f32) -> bool,
        expected: &'static str,
    ) -> Result<[f32; 3], VisionError> {
        let Some(value) = self.get(option) else {
            return Ok(default);
        };
        let number = |value: &Value| {
            let number = value.as_f64().map(|number| number as f32)?;
            (number.is_finite() && valid(number)).then_some(number)
        };
        let found = match value {
            Value::Array(values) => match values.as_slice() {
                [red, green, blue] => number(red)
                    .zip(number(green))
                    .zip(number(blue))
                    .map(|((red, green), blue)| [red, green, blue]),
                _ => None,
            },
            _ => number(value).map(|number| [number; 3]),
        };
        found.ok_or_else(|| self.refuse(option, expected))
    }
}
