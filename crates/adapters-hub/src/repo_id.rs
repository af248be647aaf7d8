//! The id of a repository.

use std::fmt;
use std::str::FromStr;

use crate::error::HubError;

/// `owner/name`, or the `name` alone of a model that is older than owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Who it belongs to.
    pub fn owner(&self) -> Option<&str> {
        self.0.split_once('/').map(|(owner, _)| owner)
    }

    /// The name without its owner.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for RepoId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        const LONGEST: usize = 96;
        let is_part = |part: &str| {
            let ends = part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
            let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            !part.is_empty() && part.len() <= LONGEST && !ends && plain && !part.contains("..")
        };
        match text.split('/').count() <= 2 && text.split('/').all(is_part) {
            true => Ok(Self(text.to_owned())),
            false => Err(HubError::Id { found: text.to_owned() }),
        }
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["gpt2", "sentence-transformers/all-MiniLM-L6-v2", "a_b/c.d"] {
            assert_eq!(id.parse::<RepoId>().unwrap().as_str(), id);
        }
        for text in [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "./b",
            "a/..",
            "a b/c",
            "a/b?x",
            "a/b\u{e9}",
        ] {
            assert!(
                text.parse::<RepoId>().unwrap_err().to_string().contains("owner/name"),
                "{text}"
            );
        }
        let id: RepoId = "owner/name".parse().unwrap();
        assert_eq!((id.owner(), id.name()), (Some("owner"), "name"));
    }
}
