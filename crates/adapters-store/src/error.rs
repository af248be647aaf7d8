//! What can go wrong with a file.

use std::fmt;
use std::io;
use std::path::PathBuf;

use adapters_core::Error;

use crate::atomic::{AtomicWriteError, final_path};
use crate::mismatch;

/// Errors of reading and writing folders, configurations and tensors. Every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An adapter could not be built, found or expressed.
    #[error(transparent)]
    Adapter(#[from] Error),
    /// No adapter is attached that could be saved.
    #[error("no adapter is attached: there is nothing to save")]
    NoAdapter,
    /// Several adapters are attached, none was named to save, and not exactly one of them is active.
    #[error("several adapters are attached: name the one to save, or activate exactly one; attached: {attached}")]
    WhichAdapter {
        /// Names of the adapters.
        attached: String,
    },
    /// The configuration file of an adapter holds something that is refused.
    #[error("cannot use {}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is refused, as it would be in a config string.
        source: Box<Error>,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file could not be written; what was there is unchanged.
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
    /// A folder could not be made.
    #[error("cannot make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A JSON file does not parse or lacks a field.
    #[error("{} does not contain the expected JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A safetensors file is damaged.
    #[error("{} is not a valid safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A `.bin` file could not be read by the non-executing reader.
    #[error("{} is not a PyTorch file this reader accepts: {reason}", path.display())]
    Pytorch {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A tensor that PyTorch cannot hold.
    #[error("cannot write {}: `{key}` has element type {found}, which PyTorch does not have", path.display())]
    NotInPytorch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Its element type.
        found: String,
    },
    /// Only a pickle file is there and pickles were not allowed.
    #[error(
        "{} contains its weights only as a PyTorch pickle; allow it explicitly (`--allow-bin`) to read it with the non-executing reader",
        path.display()
    )]
    PickleNotAllowed {
        /// The file.
        path: PathBuf,
    },
    /// A folder has none of the files a format needs.
    #[error("{} is not an adapter folder: it lacks {missing}", path.display())]
    NotAnAdapter {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// A name that cannot be that of a folder inside another.
    #[error("`{name}` cannot be used as a folder name, and a setup is saved with one folder for each name")]
    NotAFolderName {
        /// The name.
        name: String,
    },
    /// A tensor file does not fit what is to be filled. All offenders are listed.
    #[error("{} {}:{}", final_path(path).display(), mismatch::kind(.problems), mismatch::list(.problems))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every problem.
        problems: Vec<TensorProblem>,
    },
}

/// One thing wrong with one tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorProblem {
    /// The file lacks a tensor.
    Missing {
        /// Its key.
        key: String,
        /// The nearest key that is there and unused.
        nearest: Option<String>,
    },
    /// The file has a tensor nothing uses.
    Unexpected {
        /// Its key.
        key: String,
    },
    /// A tensor has another shape.
    Shape {
        /// Its key.
        key: String,
        /// The shape needed.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A tensor has an element type that is not a float where one is needed.
    DType {
        /// Its key.
        key: String,
        /// The type found.
        found: String,
    },
    /// A tensor has an element type that is not an integer where one is needed.
    NotIntegers {
        /// Its key.
        key: String,
        /// The type found.
        found: String,
    },
    /// An index is outside what it points into.
    Index {
        /// Its key.
        key: String,
        /// The index.
        index: i64,
        /// How many things there are.
        limit: usize,
    },
    /// A tensor has NaN or infinite elements.
    NotFinite {
        /// Its key.
        key: String,
        /// Index of the first, in row order.
        index: usize,
    },
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { key, nearest: None } => write!(f, "`{key}` is missing"),
            Self::Missing {
                key,
                nearest: Some(nearest),
            } => write!(f, "`{key}` is missing; the nearest unused key is `{nearest}`"),
            Self::Unexpected { key } => write!(f, "`{key}` is not expected"),
            Self::Shape { key, expected, found } => {
                write!(f, "`{key}` has shape {found:?}, expected {expected:?}")
            }
            Self::DType { key, found } => write!(f, "`{key}` has element type {found}, expected a float"),
            Self::NotIntegers { key, found } => write!(f, "`{key}` has element type {found}, expected an integer"),
            Self::Index { key, index, limit } => {
                write!(
                    f,
                    "`{key}` holds the index {index}, expected 0 to {}",
                    limit.saturating_sub(1)
                )
            }
            Self::NotFinite { key, index } => write!(f, "`{key}` is not finite at element {index}"),
        }
    }
}
