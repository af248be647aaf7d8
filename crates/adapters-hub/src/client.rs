//! The client: its address, its token, and how it asks.

use std::env;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::error::HubError;
use crate::remote_file::{Checksum, RemoteFile};
use crate::repo_id::RepoId;

/// A client of the Hub.
pub struct Hub {
    pub(crate) agent: Agent,
    pub(crate) endpoint: String,
    token: Option<String>,
}

/// A repository at one commit.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The repository.
    pub id: RepoId,
    /// The commit.
    pub commit: String,
    /// All its files.
    pub files: Vec<RemoteFile>,
}

/// The part of the answer to `GET /api/models/ID/revision/REVISION?blobs=true` that is read.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// Bytes of an answer that is read whole.
const LONGEST_ANSWER: u64 = 64 << 20;

impl Hub {
    /// The Hub's own address.
    pub const ENDPOINT: &'static str = "https://huggingface.co";

    /// The client of the Hub at `HF_ENDPOINT`, without one at [`ENDPOINT`](Self::ENDPOINT), with the token `HF_TOKEN`, if there is
    /// one. Proxies are those of the environment.
    pub fn from_env() -> Self {
        let value = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = value("HF_ENDPOINT");
        Self::new(
            endpoint.as_deref().unwrap_or(Self::ENDPOINT),
            value("HF_TOKEN").as_deref(),
        )
    }

    /// The client of a Hub.
    pub fn new(endpoint: &str, token: Option<&str>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // A repository may have moved; storage elsewhere gets no token.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("adapters/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: agent.into(),
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()),
        }
    }

    /// The files of a repository at a branch, tag or commit.
    ///
    /// # Errors
    ///
    /// [`HubError::Connect`], [`HubError::Refused`], [`HubError::Answer`].
    pub fn snapshot(&self, id: &RepoId, revision: &str) -> Result<Snapshot, HubError> {
        let url = format!(
            "{}/api/models/{id}/revision/{}?blobs=true",
            self.endpoint,
            encoded(revision)
        );
        let info: Info = json(&url, self.get(&url, None)?)?;
        let file = |sibling: Sibling| RemoteFile {
            path: sibling.rfilename,
            size: sibling.lfs.as_ref().map(|lfs| lfs.size).or(sibling.size),
            checksum: match (sibling.lfs, sibling.blob_id) {
                (Some(lfs), _) => Checksum::Sha256(lfs.sha256),
                (None, Some(blob)) => Checksum::GitBlob(blob),
                (None, None) => Checksum::None,
            },
        };
        Ok(Snapshot {
            id: id.clone(),
            commit: info.sha,
            files: info.siblings.into_iter().map(file).collect(),
        })
    }

    /// The answer to a request, from the byte `from` on.
    pub(crate) fn get(&self, url: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = self.bearer() {
            request = request.header("authorization", token);
        }
        if let Some(from) = from {
            request = request.header("range", format!("bytes={from}-"));
        }
        checked("GET", url, request.call())
    }

    /// The value of the header that says who asks.
    pub(crate) fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }
}

impl fmt::Debug for Hub {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

/// An answer, or the refusal in it.
pub(crate) fn checked(
    method: &'static str,
    url: &str,
    answer: Result<Response<Body>, ureq::Error>,
) -> Result<Response<Body>, HubError> {
    let mut response = answer.map_err(|error| HubError::Connect {
        url: url.to_owned(),
        source: Box::new(error),
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    let message = said("x-error-message").unwrap_or_else(|| {
        let text = response.body_mut().with_config().limit(1 << 16).read_to_string();
        let text = text.unwrap_or_default();
        let error = serde_json::from_str::<serde_json::Value>(&text).ok();
        let error = error.and_then(|answer| answer.get("error")?.as_str().map(str::to_owned));
        let plain = || status.canonical_reason().unwrap_or("no reason given").to_owned();
        error.unwrap_or_else(plain)
    });
    Err(HubError::Refused {
        status: status.as_u16(),
        method,
        url: url.to_owned(),
        message,
    })
}

/// The value in an answer.
pub(crate) fn json<T: DeserializeOwned>(url: &str, mut response: Response<Body>) -> Result<T, HubError> {
    let refuse = |reason: String| HubError::Answer {
        url: url.to_owned(),
        reason,
    };
    let text = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string();
    let text = text.map_err(|error| refuse(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))
}

/// A text as one part of an address.
pub(crate) fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_one_part_of_an_address() {
        assert_eq!(encoded("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encoded("v1.0_b~c-d"), "v1.0_b~c-d");
        assert_eq!(encoded("a?b#c é"), "a%3Fb%23c%20%C3%A9");
    }

    #[test]
    fn a_token_is_not_shown() {
        let hub = Hub::new("http://127.0.0.1:1/", Some("secret"));
        let shown = format!("{hub:?}");
        assert!(
            shown.contains("http://127.0.0.1:1\"") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
