//! What could not be read of tensors that are read when they are first needed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use adapters_store::{StoreError, TensorProblem};

use crate::error::ModelError;

/// Why a tensor was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It is not what is expected.
    Problem(TensorProblem),
    /// The file could not be read.
    File(StoreError),
}

/// What could not be read. A tensor is read when it is first needed, where no error can be returned: it is zero then, and
/// whoever needed it asks here. Clones share what they hold.
#[derive(Clone, Debug, Default)]
pub struct ReadErrors(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    path: PathBuf,
    problems: Vec<TensorProblem>,
    /// The first file that could not be read.
    failed: Option<StoreError>,
}

impl ReadErrors {
    pub(super) fn add(&self, path: &Path, error: ReadError) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            ReadError::Problem(problem) => found.problems.push(problem),
            ReadError::File(error) => {
                found.failed.get_or_insert(error);
            }
        }
        path.clone_into(&mut found.path);
    }

    /// Whether every tensor that was needed until now could be read.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`] for a file that ended or failed while it was read, [`StoreError::Mismatch`] listing every tensor that
    /// has NaN or infinite elements.
    pub fn check(&self) -> Result<(), ModelError> {
        let found = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        match found {
            Found {
                failed: Some(error), ..
            } => Err(error.into()),
            Found { problems, .. } if problems.is_empty() => Ok(()),
            Found { path, problems, .. } => Err(StoreError::Mismatch { path, problems }.into()),
        }
    }
}
