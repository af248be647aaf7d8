//! Fingerprints of what a run reads, so that it does not continue with another base or other data.

use std::collections::BTreeMap;
use std::fs;
use std::hash::Hasher;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use adapters_store::{StoreError, open_regular};
use fnv::FnvHasher;

use crate::error::TrainError;
use crate::run::Run;

/// Files up to this size are read as a whole.
const WHOLE: u64 = 64 << 20;

/// Of larger ones, this many blocks of [`BLOCK`] bytes are read, the first and the last among them.
const BLOCKS: u64 = 256;
const BLOCK: u64 = 64 << 10;

/// Fingerprints of the base, of the adapters below and of the data, by the field of the recipe that names them.
pub(crate) fn digests(run: &Run) -> Result<BTreeMap<String, String>, TrainError> {
    let data = &run.recipe.data;
    // Weights, configuration, tokenizer and chat template.
    let of_model = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("safetensors" | "bin" | "json" | "jinja"))
    };
    let mut digests = BTreeMap::from([("model.path".to_owned(), of_folder(&run.model_dir, &of_model)?)]);
    let adapter = &run.recipe.adapter;
    let below = adapter.stack_on.iter().map(|dir| ("adapter.stack_on".to_owned(), dir));
    let fused = adapter
        .fuse
        .iter()
        .zip(0..)
        .map(|(dir, index)| (format!("adapter.fuse[{index}]"), dir));
    for (field, dir) in below.chain(fused) {
        digests.insert(field, of_folder(dir, &of_model)?);
    }
    let named = [
        ("data.train", Some(&data.train)),
        ("data.validation", data.validation.as_ref()),
        ("data.test", data.test.as_ref()),
    ];
    for (field, path) in named {
        if let Some(path) = path {
            let digest = match path.is_dir() {
                true => of_folder(path, &|_| true)?,
                false => of_file(path)?,
            };
            digests.insert(field.to_owned(), digest);
        }
    }
    Ok(digests)
}

/// The fingerprint of the chosen files of a folder and of the folders in it, with their names.
fn of_folder(dir: &Path, chosen: &dyn Fn(&Path) -> bool) -> Result<String, TrainError> {
    let unreadable = |source| StoreError::Read {
        path: dir.to_owned(),
        source,
    };
    let entries = fs::read_dir(dir).map_err(unreadable)?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()
        .map_err(unreadable)?;
    paths.sort();
    let mut hash = FnvHasher::default();
    for path in paths {
        let digest = match path.is_dir() {
            true => of_folder(&path, chosen)?,
            false if chosen(&path) => of_file(&path)?,
            false => continue,
        };
        hash.write(path.file_name().unwrap_or_default().as_encoded_bytes());
        hash.write(digest.as_bytes());
    }
    Ok(text(&hash))
}

/// The fingerprint of a file: its length, and its bytes or a sample of them.
fn of_file(path: &Path) -> Result<String, TrainError> {
    let read = || -> io::Result<String> {
        let mut file = open_regular(path)?;
        let length = file.metadata()?.len();
        let mut hash = FnvHasher::default();
        hash.write(&length.to_le_bytes());
        let (blocks, apart) = match length <= WHOLE {
            true => (length.div_ceil(BLOCK), BLOCK),
            false => (BLOCKS, (length - BLOCK) / (BLOCKS - 1)),
        };
        let mut bytes = Vec::new();
        for index in 0..blocks {
            file.seek(SeekFrom::Start(index * apart))?;
            bytes.clear();
            file.by_ref().take(BLOCK).read_to_end(&mut bytes)?;
            hash.write(&bytes);
        }
        Ok(text(&hash))
    };
    read().map_err(|source| {
        StoreError::Read {
            path: path.to_owned(),
            source,
        }
        .into()
    })
}

/// A hash as it is written down.
fn text(hash: &FnvHasher) -> String {
    format!("{:016x}", hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_or_names_are_another_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let of = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            (of_file(&path).unwrap(), of_folder(dir.path(), &|_| true).unwrap())
        };
        let mut long = vec![1; 200_000];
        let before = of(&long);
        assert_eq!(before, of(&long));
        long[150_000] = 2;
        let after = of(&long);
        assert!(before.0 != after.0 && before.1 != after.1);
        // The published value for "a".
        let mut hash = FnvHasher::default();
        hash.write(b"a");
        assert_eq!(text(&hash), "af63dc4c8601ec8c");
        fs::rename(&path, dir.path().join("b")).unwrap();
        assert_ne!(of_folder(dir.path(), &|_| true).unwrap(), after.1);
    }
}
