//! `adapters pull` and `adapters push` against a small Hub on the loopback interface.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Task, json_of};
use crate::server::Server;

fn adapters(server: &Server, dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
    for proxy in ["ALL_PROXY", "HTTP_PROXY", "all_proxy", "http_proxy"] {
        command.env_remove(proxy);
    }
    command
        .args(args)
        .current_dir(dir)
        .env_remove("CARGO_PKG_NAME")
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_TOKEN", "secret")
        .output()
        .unwrap()
}

/// What it says on both outputs, without the frame and the line breaks of the terminal.
fn plain(output: &Output) -> (String, String) {
    let plain = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(['│', '×', '╰', '├', '─', '▶'], " ");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    (plain(&output.stdout), plain(&output.stderr))
}

fn ok(server: &Server, dir: &Path, args: &[&str]) -> String {
    let output = adapters(server, dir, args);
    assert!(output.status.success(), "{args:?}: {}", plain(&output).1);
    String::from_utf8(output.stdout).unwrap()
}

fn fails(server: &Server, dir: &Path, args: &[&str], parts: &[&str]) {
    let output = adapters(server, dir, args);
    let said = plain(&output).1;
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{args:?}: no `{part}` in: {said}");
    }
}

/// A Hub that has the folder, and asks for the token.
fn hub(dir: &Path) -> Server {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let server = Server::new(&files);
    server.with(|state| state.token = Some("secret".to_owned()));
    server
}

#[test]
fn a_model_is_pulled_adapted_and_the_adapter_pushed_and_pulled() {
    let task = Task::new();
    let dir = task.path("");
    let models = hub(&task.path("model"));
    let said = ok(&models, &dir, &["pull", "owner/name"]);
    assert!(
        said.contains("next:\n  adapters new my-task --model models/name"),
        "{said}"
    );
    let asked = models.asked();
    assert!(
        asked.iter().any(|asked| asked.ends_with("/model.safetensors")),
        "{asked:?}"
    );
    // A download that is killed is not taken for a checkpoint.
    assert!(asked.last().unwrap().ends_with("/config.json"), "{asked:?}");
    // Nothing is downloaded twice.
    ok(&models, &dir, &["pull", "owner/name"]);
    assert_eq!(models.asked().len(), 1);

    ok(
        &models,
        &dir,
        &[
            "train",
            "recipe.toml",
            "--set",
            "model.path=models/name",
            "--out",
            "run",
        ],
    );
    let config = json_of(&task.path("run/adapter/adapter_config.json"));
    let base = ["model_name", "base_model_name_or_path"]
        .into_iter()
        .find_map(|key| config[key].as_str());
    assert_eq!(base, Some("owner/name"));
    assert!(models.asked().is_empty(), "training does not ask the Hub");

    let adapters = Server::new(&[]);
    adapters.with(|state| state.token = Some("secret".to_owned()));
    let said = ok(
        &adapters,
        &dir,
        &["push", "run/adapter", "owner/name", "--message", "Reviews"],
    );
    assert!(said.contains("/owner/name/commit/"), "{said}");
    let card = adapters.with(|state| String::from_utf8(state.files["README.md"].clone()).unwrap());
    assert!(card.contains("base_model: \"owner/name\""), "{card}");
    let manifest = adapters.with(|state| String::from_utf8(state.files["manifest.json"].clone()).unwrap());
    assert!(!manifest.contains(dir.to_str().unwrap()), "{manifest}");

    ok(&adapters, &dir, &["pull", "owner/name", "--out", "again"]);
    let predict = |adapter: &str| {
        let args = [
            "predict",
            "--model",
            "models/name",
            "--adapter",
            adapter,
            "--text",
            "good film",
        ];
        ok(&adapters, &dir, &args)
    };
    assert_eq!(predict("again"), predict("run/adapter"));
}

#[test]
fn mistakes_are_named() {
    let task = Task::new();
    let dir = task.path("");
    let server = hub(&task.path("model"));
    fails(
        &server,
        &dir,
        &["pull", "owner/other"],
        &["404", "owner/other", "check the id and the revision"],
    );
    fs::write(task.path("model/other.txt"), "a file of the same folder").unwrap();
    fs::create_dir_all(task.path("models/name")).unwrap();
    fs::write(task.path("models/name/config.json"), "{}").unwrap();
    let there = ["models/name/config.json is there already", "--out"];
    fails(&server, &dir, &["pull", "owner/name"], &there);
    assert_eq!(fs::read(task.path("models/name/config.json")).unwrap(), b"{}");
    server.with(|state| {
        let weights = state.files.remove("model.safetensors").unwrap();
        state.files.insert("pytorch_model.bin".to_owned(), weights);
    });
    fails(
        &server,
        &dir,
        &["pull", "owner/name", "--out", "new"],
        &["only in pytorch_model.bin: pickles", "--revision"],
    );
    server.with(|state| state.token = Some("other".to_owned()));
    fails(&server, &dir, &["pull", "owner/name"], &["401", "HF_TOKEN"]);

    // An id where a folder belongs.
    let pull = "`adapters pull owner/name` downloads it from the Hub";
    fails(
        &server,
        &dir,
        &["train", "recipe.toml", "--set", "model.path=owner/name"],
        &["owner/name", pull],
    );
    fails(
        &server,
        &dir,
        &["chat", "--model", "owner/name"],
        &["there is no model folder owner/name", pull],
    );
    fails(
        &server,
        &dir,
        &["predict", "--adapter", "owner/name", "--text", "x"],
        &["no adapter folder owner/name", pull],
    );

    // A base that others do not have, and a pickle.
    let adapter = task.path("adapter");
    fs::create_dir_all(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{\"model_name\": \"model\"}").unwrap();
    let push = ["push", "adapter", "owner/name"];
    fails(
        &server,
        &dir,
        &push,
        &["names the base model `model`", "--base-model OWNER/NAME"],
    );
    fs::write(adapter.join("pytorch_adapter.bin"), "").unwrap();
    fails(
        &server,
        &dir,
        &push,
        &["adapter/pytorch_adapter.bin is a pickle", "adapters convert"],
    );
    assert!(server.with(|state| state.requests.iter().all(|request| request.method == "GET")));
}
