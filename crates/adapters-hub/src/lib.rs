#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod download;
mod error;
mod remote_file;
mod repo_id;
#[cfg(feature = "client")]
mod upload;

#[cfg(feature = "client")]
pub use client::{Hub, Snapshot};
pub use error::HubError;
pub use remote_file::{Pickles, RemoteFile};
pub use repo_id::RepoId;
#[cfg(feature = "client")]
pub use upload::{Commit, Contents, LocalFile};

// For the command.
#[doc(hidden)]
pub use remote_file::{Checksum, is_pickle, select};
