//! Names of lists of layers in module paths.

use serde::{Deserialize, Serialize};

/// One name or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModuleNames {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl ModuleNames {
    /// The number after the last of these components in a path.
    pub(crate) fn index(&self, path: &str) -> Option<usize> {
        let names = match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        };
        let parts: Vec<&str> = path.split('.').collect();
        names.iter().find_map(|name| {
            let mut pairs = parts.windows(2).rev();
            pairs.find_map(|pair| (pair[0] == name).then(|| pair[1].parse().ok()).flatten())
        })
    }
}
