//! The folder of a run, and its lock.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use adapters_store::{StoreError, atomic};

use crate::error::TrainError;

const LOCK: &str = ".lock";

/// The run folder for this process alone, until the file is dropped; what killed runs left half-written is removed.
pub(crate) fn lock(dir: &Path) -> Result<File, TrainError> {
    let path = dir.join(LOCK);
    let open = || File::options().create(true).truncate(false).write(true).open(&path);
    let refused = |source| StoreError::Folder {
        path: dir.to_owned(),
        source,
    };
    let file = open().map_err(refused)?;
    match file.try_lock() {
        Ok(()) => {
            atomic::sweep(dir);
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(TrainError::InUse { path: dir.to_owned() }),
        // A file system without locks.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(refused(error).into()),
    }
}

/// Makes the folder.
pub(crate) fn make(dir: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(dir).map_err(|source| {
        StoreError::Folder {
            path: dir.to_owned(),
            source,
        }
        .into()
    })
}
