//! What the tests of the command have in common.

pub(crate) mod runs;

use std::fs;
use std::path::Path;

pub(crate) use adapters_testkit::tiny_task::Task;

/// Reads a file as JSON.
pub(crate) fn json_of(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
