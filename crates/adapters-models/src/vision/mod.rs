//! Images for vision models: PNG and JPEG files become `pixel_values`, as the published `preprocessor_config.json`
//! requires.
//!
//! An [`ImageSource`] is a file or its bytes. [`ImageProcessor`] decodes it to RGB, resizes, crops, rescales and
//! normalizes it, and stacks a batch into `[batch, channels, height, width]`. The numbers are those of the image
//! processors of `transformers` on top of Pillow.

mod decode;
mod error;
mod options;
mod processor;
mod resize;

pub use decode::{ImageSource, MAX_PIXELS};
pub use error::VisionError;
pub use processor::ImageProcessor;
