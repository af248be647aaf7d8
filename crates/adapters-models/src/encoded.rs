//! A text as a tokenizer gives it.

use serde::{Deserialize, Serialize};

/// One encoded text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Token types, as long as `ids`.
    pub type_ids: Vec<u32>,
    /// Whether tokens were cut off because the text is longer than the longest input.
    pub truncated: bool,
}
