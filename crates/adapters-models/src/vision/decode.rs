//! From PNG and JPEG files to RGB pixels, as `PIL.Image.open(...).convert("RGB")` reads them.

use std::io::{Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;

use adapters_store::open_regular;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Pixel, RgbImage};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::VisionError;

/// Pixels an image may have: the number at which Pillow warns of a decompression bomb.
pub const MAX_PIXELS: u64 = 89_478_485;
/// Bytes a file may have: those of an uncompressed RGB image of that many pixels, rounded down to 256 MiB.
const MAX_BYTES: u64 = 256 << 20;
/// The marker at the end of a JPEG image.
const JPEG_END: [u8; 2] = [0xff, 0xd9];

/// An image that is not decoded yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageSource {
    /// A PNG or JPEG file; the bytes decide which of them, not the extension.
    File(PathBuf),
    /// The bytes of such a file.
    Bytes {
        /// The name of the image in error messages.
        name: String,
        /// The bytes.
        #[serde(serialize_with = "serialize_bytes", deserialize_with = "deserialize_bytes")]
        bytes: Arc<[u8]>,
    },
}

fn serialize_bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    bytes.serialize(to)
}

fn deserialize_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[u8]>, D::Error> {
    Ok(Vec::<u8>::deserialize(from)?.into())
}

impl ImageSource {
    /// The path, or the name of an image in memory.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Bytes { name, .. } => name.clone(),
        }
    }

    /// Decodes the image to RGB.
    ///
    /// As in `transformers.image_utils.load_image`: an EXIF orientation is applied, gray becomes three equal channels,
    /// a palette its colors, and an alpha channel is dropped. Of 16 bits per channel the high 8 are kept.
    ///
    /// # Errors
    ///
    /// [`VisionError`] for a file that cannot be read or decoded, or has more than [`MAX_PIXELS`].
    pub fn decode(&self) -> Result<RgbImage, VisionError> {
        match self {
            Self::File(path) => {
                let mut bytes = Vec::new();
                open_regular(path)
                    .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
                    .map_err(|source| VisionError::Read {
                        image: self.name(),
                        source,
                    })?;
                self.decode_bytes(&bytes)
            }
            Self::Bytes { bytes, .. } => self.decode_bytes(bytes),
        }
    }

    fn decode_bytes(&self, bytes: &[u8]) -> Result<RgbImage, VisionError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(VisionError::TooManyBytes {
                image: self.name(),
                limit: MAX_BYTES,
            });
        }
        let format = match image::guess_format(bytes) {
            Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => format,
            _ => return Err(VisionError::Format { image: self.name() }),
        };
        let broken = |reason: String| VisionError::Broken {
            image: self.name(),
            reason,
        };
        let mut decoder = ImageReader::with_format(Cursor::new(bytes), format)
            .into_decoder()
            .map_err(|error| broken(error.to_string()))?;
        let (width, height) = decoder.dimensions();
        check_pixels(&self.name(), "in the file", width.into(), height.into())?;
        // The JPEG decoder fills the missing rest of a file with gray.
        if format == ImageFormat::Jpeg && !bytes.windows(2).rev().any(|pair| pair == JPEG_END) {
            return Err(broken("the file is cut off".to_owned()));
        }
        let orientation = decoder.orientation().map_err(|error| broken(error.to_string()))?;
        let mut decoded = DynamicImage::from_decoder(decoder).map_err(|error| broken(error.to_string()))?;
        decoded.apply_orientation(orientation);
        match decoded {
            DynamicImage::ImageLuma16(_) => Err(broken(
                "it is gray with 16 bits per pixel, of which Pillow cuts off all above 255; convert it to 8 bits"
                    .to_owned(),
            )),
            DynamicImage::ImageLumaA16(pixels) => Ok(high_bytes(&pixels)),
            DynamicImage::ImageRgb16(pixels) => Ok(high_bytes(&pixels)),
            DynamicImage::ImageRgba16(pixels) => Ok(high_bytes(&pixels)),
            other => Ok(other.into_rgb8()),
        }
    }
}

/// Refuses more pixels than [`MAX_PIXELS`]; `stage` is where the image has them.
pub(super) fn check_pixels(image: &str, stage: &'static str, width: u64, height: u64) -> Result<(), VisionError> {
    if width.saturating_mul(height) <= MAX_PIXELS {
        return Ok(());
    }
    Err(VisionError::TooManyPixels {
        image: image.to_owned(),
        stage,
        width,
        height,
        limit: MAX_PIXELS,
    })
}

/// The high byte of every channel.
fn high_bytes<P: Pixel<Subpixel = u16>>(pixels: &ImageBuffer<P, Vec<u16>>) -> RgbImage {
    RgbImage::from_fn(pixels.width(), pixels.height(), |x, y| {
        image::Rgb(pixels.get_pixel(x, y).to_rgb().0.map(|value| value.to_be_bytes()[0]))
    })
}
