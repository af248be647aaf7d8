//! `model.safetensors.index.json`: which shard of a checkpoint holds which tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use adapters_store::read_json;
use serde::Deserialize;

use crate::error::ModelError;

/// The part of the file that is read.
#[derive(Deserialize)]
struct Listing {
    weight_map: BTreeMap<String, String>,
}

/// The keys of each shard, by its file name.
#[derive(Debug)]
pub(super) struct ShardIndex {
    path: PathBuf,
    shards: BTreeMap<String, BTreeSet<String>>,
}

impl ShardIndex {
    /// Reads the index; a shard is a file next to it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for a file that does not parse, [`ModelError::Shards`] for a shard that is not a file name.
    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        let listing: Listing = read_json(path)?;
        let mut index = Self {
            path: path.to_owned(),
            shards: BTreeMap::new(),
        };
        for (key, shard) in listing.weight_map {
            if Path::new(&shard).file_name() != Some(shard.as_ref()) {
                let reason =
                    format!("the shard of `{key}` is `{shard}`, expected the name of a file in the same folder");
                return Err(index.refusal(reason));
            }
            index.shards.entry(shard).or_default().insert(key);
        }
        Ok(index)
    }

    /// The file names of the shards.
    pub(super) fn shards(&self) -> impl Iterator<Item = &str> {
        self.shards.keys().map(String::as_str)
    }

    /// Compares what is listed for a shard with the keys it has. As a key is listed once, a tensor that is in two shards is in
    /// one that is not listed for it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shards`] with the first key that only one of both has.
    pub(super) fn check(&self, shard: &str, found: &BTreeSet<String>) -> Result<(), ModelError> {
        let none = BTreeSet::new();
        let listed = self.shards.get(shard).unwrap_or(&none);
        if let Some(key) = listed.difference(found).next() {
            return Err(self.refusal(format!("`{key}` is listed in {shard}, which does not have it")));
        }
        match found.difference(listed).next() {
            Some(key) => {
                let elsewhere = self.shards.iter().find(|(_, keys)| keys.contains(key));
                let listed = elsewhere.map_or("not listed".to_owned(), |(other, _)| format!("listed in {other}"));
                Err(self.refusal(format!("{shard} has `{key}`, which is {listed}")))
            }
            None => Ok(()),
        }
    }

    fn refusal(&self, reason: String) -> ModelError {
        ModelError::Shards {
            path: self.path.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn index(json: &str) -> Result<ShardIndex, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        fs::write(&path, json).unwrap();
        ShardIndex::read(&path)
    }

    fn refused(result: Result<(), ModelError>, said: &str) {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(said) && message.contains("index.json"), "{message}");
    }

    #[test]
    fn the_index_and_each_shard_have_the_same_keys() {
        let index = index(r#"{"metadata": {}, "weight_map": {"a": "1", "b": "2"}}"#).unwrap();
        let keys = |keys: &[&str]| keys.iter().map(ToString::to_string).collect();
        index.check("1", &keys(&["a"])).unwrap();
        refused(
            index.check("1", &keys(&[])),
            "`a` is listed in 1, which does not have it",
        );
        refused(index.check("2", &keys(&["a", "b"])), "2 has `a`, which is listed in 1");
        refused(index.check("2", &keys(&["b", "c"])), "2 has `c`, which is not listed");
    }

    #[test]
    fn a_shard_is_a_file_next_to_the_index() {
        for shard in ["../1", "/1", "a/1", "..", ""] {
            let json = serde_json::json!({ "weight_map": { "a": shard } });
            refused(index(&json.to_string()).map(drop), "expected the name of a file");
        }
        refused(
            index(r#"{"weight_map": {"a": "1", "a": "2"}}"#).map(drop),
            "expected JSON",
        );
        refused(index(r#"{"metadata": {}}"#).map(drop), "expected JSON");
    }
}
