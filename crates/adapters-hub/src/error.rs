//! What can go wrong with the Hub.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// An exchange with the Hub failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A text that is no repository's id.
    #[error("`{found}` is not the id of a repository on the Hub, expected `owner/name`")]
    Id {
        /// The text.
        found: String,
    },
    /// The connection failed.
    #[error("cannot reach the Hub at {url}")]
    Connect {
        /// The address.
        url: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The Hub refused.
    #[error("the Hub answers {status} to {method} {url}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The HTTP method.
        method: &'static str,
        /// The address.
        url: String,
        /// The Hub's words.
        message: String,
    },
    /// An answer that the Hub's interface does not have.
    #[error("the answer to {url} is not that of a Hub: {reason}")]
    Answer {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A repository without weights in safetensors.
    #[error(
        "`{id}` has its weights only in {files}: pickles, which can run code when they are loaded, are not downloaded"
    )]
    OnlyPickles {
        /// The repository.
        id: String,
        /// The pickles.
        files: String,
    },
    /// A pickle that was to be uploaded.
    #[error("{} is a pickle, which can run code when it is loaded, and is not uploaded", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A repository that holds something else.
    #[error("`{id}` is neither a model nor an adapter: it has no config.json and no adapter_config.json")]
    NeitherModelNorAdapter {
        /// The repository.
        id: String,
    },
    /// A file of the same name is there already.
    #[error("{} is there already, and its contents are not those of the Hub", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not what the Hub said it is.
    #[error("{file} of `{id}` has the {algorithm} checksum {found}, expected {expected}")]
    Checksum {
        /// The repository.
        id: String,
        /// The file.
        file: String,
        /// How the checksum is computed.
        algorithm: &'static str,
        /// The Hub's.
        expected: String,
        /// That of what arrived.
        found: String,
    },
    /// A file that ends too early.
    #[error("the download of {file} of `{id}` ended after {found} of {expected} bytes")]
    BrokeOff {
        /// The repository.
        id: String,
        /// The file.
        file: String,
        /// Bytes that arrived.
        found: u64,
        /// Its size.
        expected: u64,
        /// Why, where it is known.
        source: Option<io::Error>,
    },
    /// A local file that cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HubError {
    /// What the user can do about it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Id { .. } => "an id is what follows the Hub's address on the page of a model, like `owner/name`",
            Self::Connect { .. } => {
                "check the network, the proxy and HF_ENDPOINT, and run the command again: it resumes"
            }
            Self::Refused { status: 401 | 403, .. } => {
                "the repository may be private, gated or misspelt: set HF_TOKEN to a token that may use it"
            }
            Self::Refused { status: 404, .. } => "check the id and the revision",
            Self::Refused {
                status: 429 | 500.., ..
            }
            | Self::BrokeOff { .. } => "run the command again later: it resumes where it broke off",
            Self::OnlyPickles { .. } => {
                "name a revision that has safetensors with --revision, for example refs/pr/1; for an adapter, --allow-bin accepts \
                 pickles, which are parsed here and never executed"
            }
            Self::Pickle { .. } => "write it as safetensors with `adapters convert`, and push that folder",
            Self::Differs { .. } => "choose another folder with --out, or delete the file",
            Self::Checksum { .. } => "run the command again: it downloads the file from the start",
            _ => return None,
        })
    }

    #[cfg_attr(not(feature = "client"), expect(dead_code, reason = "only the client touches files"))]
    pub(crate) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File {
            action: "read",
            path: path.to_owned(),
            source,
        }
    }

    #[cfg_attr(not(feature = "client"), expect(dead_code, reason = "only the client touches files"))]
    pub(crate) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File {
            action: "write",
            path: path.to_owned(),
            source,
        }
    }
}
