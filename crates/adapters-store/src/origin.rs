//! Where a downloaded folder comes from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{StoreError, read_json_if_there, write_json};

/// The repository of the Hub that a folder was downloaded from. Written into it as `hub.json`, so that what is trained on a model names
/// it as everyone finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `owner/name`.
    pub id: String,
    /// The commit.
    pub commit: String,
}

impl Origin {
    /// Name of the file.
    pub const FILE: &'static str = "hub.json";

    /// Reads that of a folder; `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Json`].
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        read_json_if_there(&dir.join(Self::FILE))
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`].
    pub fn write(&self, dir: &Path) -> Result<(), StoreError> {
        write_json(&dir.join(Self::FILE), self)
    }
}
