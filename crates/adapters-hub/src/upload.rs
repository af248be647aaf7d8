//! Files of a folder into a repository of the Hub.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ureq::http::Response;
use ureq::{AsSendBody, Body};

use crate::client::{self, Hub, encoded};
use crate::download::digest;
use crate::error::HubError;
use crate::remote_file::is_pickle;
use crate::repo_id::RepoId;

/// A file to upload.
#[derive(Clone, Debug)]
pub struct LocalFile {
    /// Its path in the repository.
    pub path: String,
    /// What it holds.
    pub contents: Contents,
}

/// What a file holds.
#[derive(Clone, Debug)]
pub enum Contents {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What this file holds.
    File(PathBuf),
}

/// What an upload became.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Commit {
    /// The commit.
    pub commit_oid: String,
    /// Its page.
    pub commit_url: String,
}

/// Bytes of a file that the Hub looks at to decide where it goes.
const SAMPLE: u64 = 512;

const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";
const LFS: &str = "application/vnd.git-lfs+json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
}

#[derive(Deserialize)]
struct Modes {
    files: Vec<Mode>,
}

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

/// One large file, and what is to be done for it; nothing for one that the Hub has.
#[derive(Deserialize)]
struct Object {
    oid: String,
    error: Option<Value>,
    actions: Option<Actions>,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: HashMap<String, Value>,
}

/// A file that is stored by its checksum.
struct Large<'f> {
    file: &'f LocalFile,
    oid: String,
    size: u64,
}

impl Contents {
    fn open(&self) -> Result<Box<dyn Read + '_>, HubError> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(bytes.as_slice()),
            Self::File(path) => Box::new(File::open(path).map_err(HubError::reading(path))?),
        })
    }

    fn size(&self) -> Result<u64, HubError> {
        Ok(match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(path) => path.metadata().map_err(HubError::reading(path))?.len(),
        })
    }

    fn read(&self, most: u64) -> Result<Vec<u8>, HubError> {
        let mut bytes = Vec::new();
        let read = self.open()?.take(most).read_to_end(&mut bytes);
        read.map_err(|source| self.unreadable(source))?;
        Ok(bytes)
    }

    fn unreadable(&self, source: std::io::Error) -> HubError {
        HubError::File {
            action: "read",
            path: match self {
                Self::Bytes(_) => PathBuf::new(),
                Self::File(path) => path.clone(),
            },
            source,
        }
    }
}

impl Hub {
    /// Creates a repository of models; one that is there is left as it is.
    ///
    /// # Errors
    ///
    /// [`HubError::Connect`], [`HubError::Refused`].
    pub fn create(&self, id: &RepoId, private: bool) -> Result<(), HubError> {
        let url = format!("{}/api/repos/create", self.endpoint);
        let body = json!({"name": id.name(), "organization": id.owner(), "type": "model", "private": private});
        match self.post(&url, JSON, body.to_string()) {
            Ok(_) | Err(HubError::Refused { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Puts files into a repository, in one commit on the branch `revision`. `on_file` is told the name of each large file before it
    /// is sent.
    ///
    /// # Errors
    ///
    /// [`HubError`]: [`HubError::Pickle`] before anything is sent; nothing has changed in the repository unless the commit is made.
    pub fn upload(
        &self,
        id: &RepoId,
        revision: &str,
        files: &[LocalFile],
        message: &str,
        mut on_file: impl FnMut(&str),
    ) -> Result<Commit, HubError> {
        if let Some(file) = files.iter().find(|file| is_pickle(&file.path)) {
            return Err(HubError::Pickle {
                path: PathBuf::from(&file.path),
            });
        }
        let modes = self.modes(id, revision, files)?;
        let is = |file: &&LocalFile, mode: &str| {
            let decided = modes.iter().find(|decided| decided.path == file.path);
            decided.is_some_and(|decided| decided.upload_mode == mode && !decided.should_ignore)
        };
        let mut large = Vec::new();
        for file in files.iter().filter(|file| is(file, "lfs")) {
            let oid = digest(Sha256::new(), &mut file.contents.open()?);
            large.push(Large {
                file,
                oid: oid.map_err(|source| file.contents.unreadable(source))?,
                size: file.contents.size()?,
            });
        }
        self.send(id, revision, &large, &mut on_file)?;
        let mut lines = vec![json!({"key": "header", "value": {"summary": message, "description": ""}})];
        for file in files.iter().filter(|file| is(file, "regular")) {
            let content = BASE64.encode(file.contents.read(u64::MAX)?);
            lines.push(json!({"key": "file", "value": {"path": file.path, "content": content, "encoding": "base64"}}));
        }
        for Large { file, oid, size } in &large {
            let value = json!({"path": file.path, "algo": "sha256", "oid": oid, "size": size});
            lines.push(json!({"key": "lfsFile", "value": value}));
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let url = format!("{}/api/models/{id}/commit/{}", self.endpoint, encoded(revision));
        client::json(&url, self.post(&url, NDJSON, body)?)
    }

    /// Where the Hub stores each file: in git, or by its checksum.
    fn modes(&self, id: &RepoId, revision: &str, files: &[LocalFile]) -> Result<Vec<Mode>, HubError> {
        let mut described = Vec::new();
        for LocalFile { path, contents } in files {
            let sample = BASE64.encode(contents.read(SAMPLE)?);
            described.push(json!({"path": path, "size": contents.size()?, "sample": sample}));
        }
        let url = format!("{}/api/models/{id}/preupload/{}", self.endpoint, encoded(revision));
        let answer = self.post(&url, JSON, json!({"files": described}).to_string())?;
        let Modes { files: modes } = client::json(&url, answer)?;
        let refuse = |reason| {
            Err(HubError::Answer {
                url: url.clone(),
                reason,
            })
        };
        for file in files {
            match modes.iter().find(|mode| mode.path == file.path) {
                None => return refuse(format!("it does not say where {} goes", file.path)),
                Some(mode) if !["lfs", "regular"].contains(&mode.upload_mode.as_str()) => {
                    return refuse(format!("it has the unknown upload mode `{}`", mode.upload_mode));
                }
                Some(_) => {}
            }
        }
        Ok(modes)
    }

    /// Sends the large files that the Hub does not have.
    fn send(
        &self,
        id: &RepoId,
        revision: &str,
        files: &[Large<'_>],
        on_file: &mut impl FnMut(&str),
    ) -> Result<(), HubError> {
        if files.is_empty() {
            return Ok(());
        }
        let url = format!("{}/{id}.git/info/lfs/objects/batch", self.endpoint);
        let objects: Vec<Value> = files
            .iter()
            .map(|file| json!({"oid": file.oid, "size": file.size}))
            .collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic"], "hash_algo": "sha256",
            "ref": {"name": revision}, "objects": objects,
        });
        let batch: Batch = client::json(&url, self.post(&url, LFS, body.to_string())?)?;
        let refuse = |reason| {
            Err(HubError::Answer {
                url: url.clone(),
                reason,
            })
        };
        for Large { file, oid, size } in files {
            let Some(object) = batch.objects.iter().find(|object| object.oid == *oid) else {
                return refuse(format!("it does not say where {} goes", file.path));
            };
            if let Some(error) = &object.error {
                return refuse(format!("{}: {error}", file.path));
            }
            let Some(Actions { upload, verify }) = &object.actions else {
                continue;
            };
            if let Some(action) = upload {
                on_file(&file.path);
                let mut request = self.agent.put(&action.href);
                for (name, value) in &action.header {
                    request = request.header(name, value.as_str().unwrap_or_default());
                }
                // The address holds who may send; the token is not for it.
                let sent = match &file.contents {
                    Contents::Bytes(bytes) => request.send(bytes),
                    Contents::File(path) => request.send(File::open(path).map_err(HubError::reading(path))?),
                };
                client::checked("PUT", &action.href, sent)?;
            }
            if let Some(action) = verify {
                self.post(&action.href, LFS, json!({"oid": oid, "size": size}).to_string())?;
            }
        }
        Ok(())
    }

    fn post(&self, url: &str, kind: &str, body: impl AsSendBody) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.post(url).header("content-type", kind).header(
            "accept",
            match kind {
                LFS => LFS,
                _ => JSON,
            },
        );
        if let Some(token) = self
            .bearer()
            .filter(|_| url.starts_with(&format!("{}/", self.endpoint)))
        {
            request = request.header("authorization", token);
        }
        client::checked("POST", url, request.send(body))
    }
}
