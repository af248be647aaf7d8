//! What can stop a run.

use std::path::PathBuf;

use adapters_models::ModelError;
use adapters_nn::did_you_mean;
use adapters_store::StoreError;
use adapters_store::atomic::AtomicWriteError;

#[cfg(feature = "plots")]
use crate::curve::CurveError;
use crate::data::DataError;
use crate::run_files::RunFileError;

/// Errors of recipes, training and evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A recipe could not be read.
    #[error("cannot read the recipe {}", path.display())]
    ReadRecipe {
        /// The recipe.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A recipe does not parse, or has a field or value no recipe has.
    #[error("the recipe {} is not valid{}", path.display(), did_you_mean(nearest))]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// The field or value that was probably meant.
        nearest: Option<String>,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A recipe's value is outside its range.
    #[error("`{field}` is {found}, expected {expected}")]
    Value {
        /// The field, with its section.
        field: &'static str,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// An override is not `key=value`.
    #[error("`{given}` is not an override; expected `section.key=value`, e.g. `train.epochs=3`")]
    Override {
        /// What was given.
        given: String,
    },
    /// The run folder holds an unfinished run of another recipe.
    #[error("{} holds an unfinished run of another recipe (`{field}` differs); choose another folder or delete it", path.display())]
    OtherRun {
        /// The run folder.
        path: PathBuf,
        /// The first field that differs.
        field: String,
    },
    /// What the run reads has changed since its checkpoint.
    #[error(
        "{} holds an unfinished run, and `{field}` has changed since it was stopped: the files it names are not the ones the run \
         started with; restore them, or choose another folder", path.display()
    )]
    Changed {
        /// The run folder.
        path: PathBuf,
        /// The field that names what has changed.
        field: String,
    },
    /// Another process is at work in the run folder.
    #[error("another process is training in {}; wait for it, or choose another folder", path.display())]
    InUse {
        /// The run folder.
        path: PathBuf,
    },
    /// A checkpoint lacks something or does not fit the model.
    #[error("the checkpoint {} cannot be resumed: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The temporary file of the examples that are not held in memory cannot be written or read.
    #[error("cannot keep examples in a temporary file in {}", folder.display())]
    TemporaryFile {
        /// The folder of temporary files, which the environment names.
        folder: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The loss is not a number any more.
    #[error(
        "the loss became {loss} at step {step}; a lower `train.learning_rate` or `train.clip_norm = 1.0` usually helps"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// A trained value is not a number any more.
    #[error(
        "`{name}` is not finite after step {step}; a lower `train.learning_rate` or `train.clip_norm = 1.0` usually helps"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// The parameter.
        name: String,
    },
    /// The loss on the validation data is not a number any more.
    #[error(
        "the validation loss is {loss} after step {step}; a lower `train.learning_rate` or `train.clip_norm = 1.0` usually helps"
    )]
    Unusable {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// An evaluation has a result that is not a number.
    #[error(
        "{what} is {found}: weights of the model, its adapter or its head are beyond the range of its precision, or the input is"
    )]
    Meaningless {
        /// The result.
        what: String,
        /// Its value.
        found: f64,
    },
    /// The device has too little memory.
    #[error(
        "the device is out of memory (an allocation of {:.1} MiB failed); to use less, try a smaller `train.batch_size` with a \
         larger `train.accumulate`, or `\"auto\"`; a smaller `train.eval_batch_size` or `model.max_length`; `train.gradient_checkpointing = true`; `model.precision = \"bf16\"`",
        *bytes as f64 / f64::from(1 << 20)
    )]
    OutOfMemory {
        /// The bytes that were asked for last.
        bytes: u64,
    },
    /// A tensor could not be computed or read back.
    #[error("the device failed: {reason}")]
    Device {
        /// Burn's words.
        reason: String,
    },
    /// Data could not be read.
    #[error(transparent)]
    Data(Box<DataError>),
    /// A model could not be loaded.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// An adapter could not be made.
    #[error(transparent)]
    Adapter(#[from] adapters_core::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    Store(StoreError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
    /// A file of the run could not be written.
    #[error(transparent)]
    RunFile(#[from] RunFileError),
    /// The curve could not be drawn.
    #[cfg(feature = "plots")]
    #[error(transparent)]
    Curve(#[from] CurveError),
}

impl From<DataError> for TrainError {
    fn from(error: DataError) -> Self {
        Self::Data(Box::new(error))
    }
}

impl From<ModelError> for TrainError {
    /// An adapter that cannot be made or expressed is one error, whether or not a file was about to be written.
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Store(StoreError::Adapter(error)) => Self::Adapter(error),
            error => Self::Model(Box::new(error)),
        }
    }
}

impl From<StoreError> for TrainError {
    /// An adapter that cannot be made or expressed is one error, whether or not a file was about to be written.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Adapter(error) => Self::Adapter(error),
            error => Self::Store(error),
        }
    }
}
