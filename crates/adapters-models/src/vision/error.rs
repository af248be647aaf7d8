//! What can be wrong with an image, or with the configuration of its processor.

use std::io;
use std::path::PathBuf;

use adapters_nn::did_you_mean;

/// Errors of reading and preparing images. `image` is the path of a file, or the name given to an image in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VisionError {
    /// The file is not there or cannot be read.
    #[error("cannot read {image}{}", if source.kind() == io::ErrorKind::NotFound { ": there is no such file" } else { "" })]
    Read {
        /// The image.
        image: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The bytes are of another format.
    #[error("{image} is neither a PNG nor a JPEG image")]
    Format {
        /// The image.
        image: String,
    },
    /// The file is damaged, or uses something that the decoder cannot read.
    #[error("cannot decode {image}: {reason}")]
    Broken {
        /// The image.
        image: String,
        /// The decoder's message.
        reason: String,
    },
    /// The file has too many bytes.
    #[error("{image} has more than {limit} bytes, the limit of an image file")]
    TooManyBytes {
        /// The image.
        image: String,
        /// Bytes a file may have.
        limit: u64,
    },
    /// The image has, or would have after resizing, too many pixels.
    #[error("{image}: {width} x {height} pixels {stage} are more than the limit of {limit}")]
    TooManyPixels {
        /// The image.
        image: String,
        /// Whether the file or the resized image has them.
        stage: &'static str,
        /// Pixels in a row.
        width: u64,
        /// Rows.
        height: u64,
        /// Pixels an image may have.
        limit: u64,
    },
    /// The images of a batch have several sizes.
    #[error(
        "{image} has {} x {} pixels after preprocessing, the first image of the batch has {} x {}; a batch needs a \
         fixed size: set `size` to a height and a width, or `do_center_crop`",
        found[1], found[0], expected[1], expected[0]
    )]
    SizesDiffer {
        /// The image.
        image: String,
        /// Height and width of the first image.
        expected: [usize; 2],
        /// Height and width of this image.
        found: [usize; 2],
    },
    /// The image processor is of a class that is not supported.
    #[error(
        "{}: `{key}` is `{found}`{}; supported: {supported}",
        path.display(), did_you_mean(.nearest)
    )]
    UnknownProcessor {
        /// The configuration file.
        path: PathBuf,
        /// `image_processor_type` or `feature_extractor_type`.
        key: &'static str,
        /// The class.
        found: String,
        /// The nearest supported class.
        nearest: Option<String>,
        /// All supported classes.
        supported: String,
    },
    /// An option that the processor does not have, and which may change the numbers.
    #[error("{}: option `{option}` is not supported{}", path.display(), did_you_mean(.nearest))]
    UnknownOption {
        /// The configuration file.
        path: PathBuf,
        /// The option.
        option: String,
        /// The nearest supported option.
        nearest: Option<String>,
    },
    /// An option has a value that is not supported.
    #[error("{}: `{option}` is {found}, expected {expected}", path.display())]
    OptionValue {
        /// The configuration file.
        path: PathBuf,
        /// The option.
        option: &'static str,
        /// What is supported.
        expected: &'static str,
        /// The value in the file.
        found: String,
    },
}
