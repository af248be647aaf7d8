//! Which part of a file is used.

use serde::{Deserialize, Serialize};

/// A shard of the training data, `shard = { index = 0, of = 3, by = "length" }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Which shard, from 0.
    pub index: usize,
    /// Into how many shards the data is cut.
    pub of: usize,
    /// How it is cut.
    #[serde(default)]
    pub by: ShardBy,
}

/// How data is cut into shards of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardBy {
    /// In the order of the file.
    #[default]
    Order,
    /// By the length of the text, short ones first.
    Length,
}
