//! The client against a small Hub on the loopback interface.

mod server;

use std::fs;
use std::path::{Path, PathBuf};

use adapters_hub::{Contents, Hub, HubError, LocalFile, Pickles, RepoId, select};
use server::{COMMIT, Server};

fn id() -> RepoId {
    "owner/name".parse().unwrap()
}

fn weights() -> Vec<u8> {
    (0..300_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// A server with a model, its client and a folder.
fn model() -> (Server, Hub, tempfile::TempDir) {
    let weights = weights();
    let server = Server::new(&[
        ("config.json", b"{\"model_type\": \"bert\"}"),
        ("model.safetensors", &weights),
        ("onnx/model.onnx", b"another program's"),
        ("README.md", b"# A model"),
    ]);
    let hub = Hub::new(&server.endpoint, None);
    (server, hub, tempfile::tempdir().unwrap())
}

/// Downloads all that a model needs; the files that were not there.
fn pull(hub: &Hub, dir: &Path) -> Result<Vec<String>, HubError> {
    let snapshot = hub.snapshot(&id(), "main")?;
    let missing = hub.missing(&select(&snapshot.id, &snapshot.files, Pickles::Refused)?, dir)?;
    for file in &missing {
        let mut most = 0;
        hub.download(&snapshot, file, dir, |bytes| most = bytes)?;
        assert_eq!(Some(most), file.size);
    }
    Ok(missing.into_iter().map(|file| file.path).collect())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_model_arrives_whole_and_only_once() {
    let (server, hub, dir) = model();
    assert_eq!(pull(&hub, dir.path()).unwrap(), ["config.json", "model.safetensors"]);
    assert_eq!(names(dir.path()), ["config.json", "model.safetensors"]);
    assert_eq!(fs::read(dir.path().join("model.safetensors")).unwrap(), weights());
    let asked = server.asked();
    assert_eq!(asked[0], "GET /api/models/owner/name/revision/main?blobs=true");
    assert_eq!(asked[1], format!("GET /owner/name/resolve/{COMMIT}/config.json"));

    assert!(pull(&hub, dir.path()).unwrap().is_empty());
    assert_eq!(server.asked().len(), 1);
    for (file, contents) in [
        ("config.json", &b"{\"model_type\": \"gpt2\"}"[..]),
        ("model.safetensors", b"short"),
    ] {
        let path = dir.path().join(file);
        let before = fs::read(&path).unwrap();
        fs::write(&path, contents).unwrap();
        let error = pull(&hub, dir.path()).unwrap_err();
        assert!(
            matches!(&error, HubError::Differs { path: found } if *found == path),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), contents);
        fs::write(&path, before).unwrap();
    }
}

#[test]
fn what_broke_off_is_resumed() {
    let (server, hub, dir) = model();
    // Whole, then in pieces, within a download.
    server.with(|state| state.breaks = vec![usize::MAX, usize::MAX, usize::MAX, 100_000, usize::MAX, 90_000]);
    pull(&hub, dir.path()).unwrap();
    assert_eq!(fs::read(dir.path().join("model.safetensors")).unwrap(), weights());
    let ranges: Vec<String> = server.with(|state| {
        let ranges = state
            .requests
            .iter()
            .filter_map(|request| request.headers.get("range").cloned());
        ranges.collect()
    });
    assert!(ranges.contains(&"bytes=100000-".to_owned()), "{ranges:?}");
    assert!(ranges.contains(&"bytes=190000-".to_owned()), "{ranges:?}");

    // In the next download, after all attempts broke off at once.
    let dir = tempfile::tempdir().unwrap();
    server.with(|state| state.breaks = vec![usize::MAX, usize::MAX, usize::MAX, 5_000, 0, 0, 0, 0, 0, 0, 0, 0]);
    let error = pull(&hub, dir.path()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the download of model.safetensors of `owner/name` ended after 5000 of 300000"),
        "{error}"
    );
    assert!(!dir.path().join("model.safetensors").exists());
    server.with(|state| (state.breaks, state.requests) = (Vec::new(), Vec::new()));
    assert_eq!(pull(&hub, dir.path()).unwrap(), ["model.safetensors"]);
    assert_eq!(fs::read(dir.path().join("model.safetensors")).unwrap(), weights());
    assert!(server.with(|state| {
        state
            .requests
            .iter()
            .any(|r| r.headers.get("range").is_some_and(|r| r == "bytes=5000-"))
    }));
}

#[test]
fn other_bytes_than_those_of_the_checksum_are_not_kept() {
    for file in ["model.safetensors", "config.json"] {
        let (server, hub, dir) = model();
        server.with(|state| state.corrupt = Some(file.to_owned()));
        let error = pull(&hub, dir.path()).unwrap_err();
        assert!(
            matches!(&error, HubError::Checksum { file: found, .. } if found == file),
            "{error}"
        );
        assert!(!names(dir.path()).iter().any(|name| name.contains(file)));
        server.with(|state| state.corrupt = None);
        pull(&hub, dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["config.json", "model.safetensors"]);
    }
}

#[test]
fn refusals_say_who_refused_what() {
    let (server, hub, dir) = model();
    let other: RepoId = "owner/other".parse().unwrap();
    let error = hub.snapshot(&other, "main").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("404 to GET") && text.contains("owner/other") && text.contains("Repository not found"),
        "{text}"
    );
    assert!(hub.snapshot(&id(), "refs/pr/1").is_ok());
    server.with(|state| state.token = Some("secret".to_owned()));
    let error = pull(&hub, dir.path()).unwrap_err();
    assert!(matches!(error, HubError::Refused { status: 401, .. }), "{error}");
    assert!(error.help().unwrap().contains("HF_TOKEN"));
    pull(&Hub::new(&server.endpoint, Some("secret")), dir.path()).unwrap();
    let error = Hub::new("http://127.0.0.1:1", None)
        .snapshot(&id(), "main")
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot reach the Hub at http://127.0.0.1:1/api"),
        "{error}"
    );
}

#[test]
fn an_adapter_is_uploaded_in_one_commit() {
    let server = Server::new(&[]);
    server.with(|state| state.token = Some("secret".to_owned()));
    let hub = Hub::new(&server.endpoint, Some("secret"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    fs::write(&path, weights()).unwrap();
    let files = [
        LocalFile {
            path: "adapter_config.json".into(),
            contents: Contents::Bytes(b"{}".to_vec()),
        },
        LocalFile {
            path: "adapter_model.safetensors".into(),
            contents: Contents::File(path),
        },
    ];
    hub.create(&id(), false).unwrap();
    let mut large = Vec::new();
    let commit = hub
        .upload(&id(), "main", &files, "An adapter", |file| large.push(file.to_owned()))
        .unwrap();
    assert_eq!(
        (commit.commit_oid.as_str(), large),
        (COMMIT, vec!["adapter_model.safetensors".to_owned()])
    );
    server.with(|state| {
        assert_eq!(state.files["adapter_config.json"], b"{}");
        assert_eq!(state.files["adapter_model.safetensors"], weights());
    });
    // The repository is there now, and so are the large files.
    server.asked();
    hub.create(&id(), false).unwrap();
    hub.upload(&id(), "main", &files, "Again", |file| panic!("{file} is sent again"))
        .unwrap();
    assert!(!server.asked().iter().any(|asked| asked.starts_with("PUT")));

    let pickle = LocalFile {
        path: "adapter_model.bin".into(),
        contents: Contents::File(PathBuf::from("anything")),
    };
    let error = hub.upload(&id(), "main", &[pickle], "A pickle", |_| ()).unwrap_err();
    assert!(error.to_string().contains("adapter_model.bin is a pickle"), "{error}");
    let other: RepoId = "other/name".parse().unwrap();
    let error = hub.create(&other, true).unwrap_err();
    assert!(matches!(error, HubError::Refused { status: 403, .. }), "{error}");
}
