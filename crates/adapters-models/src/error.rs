//! What can go wrong between a checkpoint folder and a model.

use std::path::PathBuf;

use adapters_nn::did_you_mean;
use adapters_store::StoreError;

use crate::kind::ModelKind;

/// Errors of loading models and tokenizers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// `model_type` names an architecture this library does not have.
    #[error("{}: unknown architecture `{found}`{}; supported: {supported}", path.display(), did_you_mean(.nearest))]
    UnknownArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// `model_type` of the file.
        found: String,
        /// The nearest supported name.
        nearest: Option<String>,
        /// All supported names.
        supported: String,
    },
    /// The architecture is of another kind than the one asked for.
    #[error("{}: model type `{found}` is not of the expected kind, {wanted}; supported: {supported}", path.display())]
    OtherKind {
        /// The configuration file.
        path: PathBuf,
        /// `model_type` of the file.
        found: String,
        /// The kind asked for.
        wanted: ModelKind,
        /// Every architecture of that kind.
        supported: String,
    },
    /// The model is of another kind than the one asked for.
    #[error("model type `{architecture}` is of the kind {found}, expected {wanted}")]
    WrongKind {
        /// The published `model_type`.
        architecture: String,
        /// The kind it is of.
        found: ModelKind,
        /// The kind asked for.
        wanted: ModelKind,
    },
    /// Layers that a model cannot have in its stack.
    #[error("layer replication {ranges} of a `{architecture}` model: {reason}")]
    Layers {
        /// The published `model_type`.
        architecture: String,
        /// The ranges asked for.
        ranges: String,
        /// Why not.
        reason: String,
    },
    /// A weight that a checkpoint has once is two.
    #[error(
        "a checkpoint of a `{architecture}` model has one weight for `{path}` and `{table}`, and the two differ here, as after an adapter \
         at one of them was merged"
    )]
    OneWeight {
        /// The published `model_type`.
        architecture: String,
        /// The path of the one.
        path: String,
        /// The path of the other.
        table: String,
    },
    /// A configuration value the architecture cannot have.
    #[error("{}: `{field}` is {found}, expected {expected}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The folder is not a checkpoint.
    #[error("{} is not a checkpoint folder: {missing}", path.display())]
    NotACheckpoint {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// The index of a checkpoint and its shards disagree.
    #[error("{} and its shards disagree: {reason}", path.display())]
    Shards {
        /// The index.
        path: PathBuf,
        /// The first tensor that one of them lacks.
        reason: String,
    },
    /// A sound file could not be read or used.
    #[error("{}: {reason}", path.display())]
    Audio {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The tokenizer could not be read or used.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// The tokenizer library's words.
        reason: String,
    },
    /// A text cannot be continued as asked for.
    #[error("`{field}` is {found}, expected {expected}")]
    Generation {
        /// The field.
        field: &'static str,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The chat template is absent, or could not be used.
    #[error("{}: {reason}", path.display())]
    ChatTemplate {
        /// The file it is in.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The targets are not those that a head has a loss for.
    #[error("a `{head}` head expects {expected} as targets, found {found}")]
    Targets {
        /// The published type of the head.
        head: &'static str,
        /// Targets it has a loss for.
        expected: &'static str,
        /// The targets given.
        found: &'static str,
    },
    /// No head of this name.
    #[error("no head named `{name}`{}", did_you_mean(.nearest))]
    NoSuchHead {
        /// The name.
        name: String,
        /// The nearest name there is.
        nearest: Option<String>,
    },
    /// A head of this name is there already.
    #[error("a head named `{name}` exists already")]
    HeadTaken {
        /// The name.
        name: String,
    },
    /// Heads that have no average.
    #[error("cannot average heads: {reason}")]
    CannotAverage {
        /// Why.
        reason: String,
    },
    /// Heads were given other rows than the batch has.
    #[error("the heads expect a batch of {expected} rows, found {found}")]
    Rows {
        /// Rows of the heads together.
        expected: usize,
        /// Rows of the batch.
        found: usize,
    },
    /// A name from a closed list was not in it.
    #[error(transparent)]
    UnknownName(#[from] adapters_nn::UnknownName),
    /// An image, or the configuration of its processor, cannot be used.
    #[error(transparent)]
    #[cfg(feature = "images")]
    Vision(#[from] crate::vision::VisionError),
    /// A file could not be read or written, or does not fit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An adapter could not be attached, loaded or merged.
    #[error(transparent)]
    Adapter(#[from] adapters_core::Error),
}

impl From<adapters_store::atomic::AtomicWriteError> for ModelError {
    fn from(error: adapters_store::atomic::AtomicWriteError) -> Self {
        StoreError::from(error).into()
    }
}
