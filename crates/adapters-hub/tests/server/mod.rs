//! A Hub on the loopback interface with what the client asks for: the list of a repository's files, the files, in parts too, and
//! commits with large files by checksum.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// The commit that every revision is at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request, as the server saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What the server holds and how it behaves.
#[derive(Default)]
pub(crate) struct State {
    /// Files by path in `owner/name`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Everything that was asked.
    pub requests: Vec<Request>,
    /// Without this token nothing is answered.
    pub token: Option<String>,
    /// Bytes after which a connection breaks off, as often as there are entries.
    pub breaks: Vec<usize>,
    /// A file whose bytes are not those of its checksum.
    pub corrupt: Option<String>,
    /// Large files that were sent, by checksum.
    stored: BTreeMap<String, Vec<u8>>,
}

/// A running server.
pub(crate) struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Starts one with files; it ends with the process.
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()))
            .collect();
        let state = Arc::new(Mutex::new(State {
            files,
            ..State::default()
        }));
        let (shared, own) = (Arc::clone(&state), endpoint.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is not this side's failure.
                let _ = answer(stream, &shared, &own);
            }
        });
        Self { endpoint, state }
    }

    /// Reads or changes the state.
    pub(crate) fn with<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap())
    }

    /// `METHOD path` of the requests so far, which are forgotten.
    pub(crate) fn asked(&self) -> Vec<String> {
        let requests = self.with(|state| std::mem::take(&mut state.requests));
        requests
            .iter()
            .map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = Request {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        ..Request::default()
    };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        request.headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = request
        .headers
        .get("content-length")
        .and_then(|length| length.parse().ok());
    request.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut request.body)?;
    Ok(request)
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, endpoint: &str) -> std::io::Result<()> {
    let request = read(&stream)?;
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let (status, mut headers, body) = respond(&mut state, &request, endpoint);
    let is_file = request.path.contains("/resolve/");
    let sent = match is_file && !state.breaks.is_empty() {
        true => state.breaks.remove(0).min(body.len()),
        false => body.len(),
    };
    headers.push_str(&format!("content-length: {}\r\nconnection: close\r\n", body.len()));
    write!(stream, "HTTP/1.1 {status} Said\r\n{headers}\r\n")?;
    stream.write_all(&body[..sent])?;
    stream.flush()
}

/// The sum of a file as its list has it.
fn listed(path: &str, bytes: &[u8]) -> Value {
    use sha1::{Digest, Sha1};
    let mut blob = Sha1::new();
    blob.update(format!("blob {}\0", bytes.len()));
    blob.update(bytes);
    let mut file = json!({"rfilename": path, "size": bytes.len(), "blobId": hex(&blob.finalize())});
    if path.ends_with(".safetensors") {
        file["lfs"] = json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130});
    }
    file
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Status, headers and body of the answer.
fn respond(state: &mut State, request: &Request, endpoint: &str) -> (u16, String, Vec<u8>) {
    let json_of = |value: Value| (200, String::new(), value.to_string().into_bytes());
    let refusal = |status, text: &str| (status, String::new(), json!({"error": text}).to_string().into_bytes());
    let path = request.path.split('?').next().unwrap_or_default();
    let bearer = request.headers.get("authorization");
    let is_storage = path.starts_with("/storage/");
    if is_storage && bearer.is_some() {
        return refusal(400, "storage is not to be told the token");
    }
    if let (Some(token), false) = (&state.token, is_storage)
        && bearer != Some(&format!("Bearer {token}"))
    {
        return refusal(401, "Invalid credentials in Authorization header");
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match (request.method.as_str(), path) {
        ("GET", "/api/models/owner/name/revision/main" | "/api/models/owner/name/revision/refs%2Fpr%2F1") => {
            let siblings: Vec<Value> = state.files.iter().map(|(path, bytes)| listed(path, bytes)).collect();
            json_of(json!({"id": "owner/name", "sha": COMMIT, "siblings": siblings}))
        }
        ("GET", path) if path.starts_with(&format!("/owner/name/resolve/{COMMIT}/")) => {
            // Files lie elsewhere, and the way there is a redirection.
            let file = path.rsplit_once(COMMIT).unwrap().1;
            (302, format!("location: /moved/resolve{file}\r\n"), Vec::new())
        }
        ("GET", path) if path.starts_with("/moved/resolve/") => {
            let name = path.trim_start_matches("/moved/resolve/");
            let Some(bytes) = state.files.get(name) else {
                return refusal(404, "Entry not found");
            };
            let mut bytes = bytes.clone();
            if state.corrupt.as_deref() == Some(name) {
                bytes[0] ^= 1;
            }
            let range = request.headers.get("range");
            let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
            match from {
                Some(from) if from < bytes.len() => {
                    let range = format!("content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
                    (206, range, bytes[from..].to_vec())
                }
                Some(_) => refusal(416, "Range Not Satisfiable"),
                None => (200, String::new(), bytes),
            }
        }
        ("POST", "/api/repos/create") => match body["name"] == "name" && body["organization"] == "owner" {
            true if state.files.is_empty() => json_of(json!({"url": format!("{endpoint}/owner/name")})),
            true => refusal(409, "You already created this model repo"),
            false => refusal(403, "You don't have the rights to create a model under this namespace"),
        },
        ("POST", "/api/models/owner/name/preupload/main") => {
            let files = body["files"].as_array().unwrap().iter().map(|file| {
                let path = file["path"].as_str().unwrap();
                let mode = if path.ends_with(".safetensors") {
                    "lfs"
                } else {
                    "regular"
                };
                json!({"path": path, "uploadMode": mode, "shouldIgnore": false})
            });
            json_of(json!({"files": files.collect::<Vec<_>>()}))
        }
        ("POST", "/owner/name.git/info/lfs/objects/batch") => {
            let objects = body["objects"].as_array().unwrap().iter().map(|object| {
                let oid = object["oid"].as_str().unwrap();
                let mut answer = json!({"oid": oid, "size": object["size"]});
                if !state.stored.contains_key(oid) {
                    answer["actions"] = json!({
                        "upload": {"href": format!("{endpoint}/storage/{oid}"), "header": {"x-part": "1"}},
                        "verify": {"href": format!("{endpoint}/verify")},
                    });
                }
                answer
            });
            json_of(json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()}))
        }
        ("PUT", path) if is_storage => {
            let oid = path.trim_start_matches("/storage/");
            if sha256(&request.body) != oid || !request.headers.contains_key("x-part") {
                return refusal(400, "not what was announced");
            }
            state.stored.insert(oid.to_owned(), request.body.clone());
            (200, String::new(), Vec::new())
        }
        ("POST", "/verify") => match state.stored.get(body["oid"].as_str().unwrap_or_default()) {
            Some(bytes) if body["size"] == bytes.len() => json_of(json!({})),
            _ => refusal(404, "not there"),
        },
        ("POST", "/api/models/owner/name/commit/main") => {
            for line in String::from_utf8_lossy(&request.body).lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                let value = &line["value"];
                let path = value["path"].as_str().unwrap_or_default().to_owned();
                match line["key"].as_str() {
                    Some("file") => {
                        let content = BASE64.decode(value["content"].as_str().unwrap()).unwrap();
                        state.files.insert(path, content);
                    }
                    Some("lfsFile") => {
                        let Some(bytes) = state.stored.get(value["oid"].as_str().unwrap_or_default()) else {
                            return refusal(400, "a large file that was not sent");
                        };
                        state.files.insert(path, bytes.clone());
                    }
                    _ => assert!(value["summary"].is_string(), "{line}"),
                }
            }
            json_of(json!({"commitOid": COMMIT, "commitUrl": format!("{endpoint}/owner/name/commit/{COMMIT}")}))
        }
        _ => refusal(404, "Repository not found"),
    }
}
